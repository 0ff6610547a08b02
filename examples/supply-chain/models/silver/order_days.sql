-- Days of orders and of their shipping.
SELECT
    CAST(order_ts AS DATE) AS order_date,
    CAST(shipping_ts AS DATE) AS shipping_date,
    count(*) AS items
FROM {{ ref('order_items') }}
GROUP BY CAST(order_ts AS DATE), CAST(shipping_ts AS DATE)
