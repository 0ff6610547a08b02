SELECT delay_days, count(*) AS orders
FROM {{ ref('fact_shipment') }}
GROUP BY delay_days
