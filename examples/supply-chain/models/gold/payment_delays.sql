-- Days that deliveries were late (negative: early), per status. It keeps the name of old.
SELECT
    shipping.delivery_status,
    count(*) AS orders,
    CAST(sum(shipment.delay_days) AS BIGINT) AS total_delay_days,
    CAST(sum(shipment.delay_days) AS DOUBLE) / count(*) AS avg_delay_days
FROM {{ ref('fact_shipment') }} AS shipment
JOIN {{ ref('dim_shipping') }} AS shipping ON shipping.shipping_key = shipment.shipping_key
GROUP BY shipping.delivery_status
