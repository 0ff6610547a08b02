-- Ways of delivery and what came of them. Dates and real days are facts.
SELECT
    shipping_key,
    shipping_mode,
    days_for_shipping_scheduled AS days_scheduled,
    delivery_status
FROM {{ ref('order_lines') }}
GROUP BY shipping_key, shipping_mode, days_for_shipping_scheduled, delivery_status
