-- Months in which a customer ordered, whatever became of the order.
SELECT
    customer.customer_id,
    CAST(date_trunc('month', shipment.order_ts) AS DATE) AS month_start,
    count(*) AS orders
FROM {{ ref('fact_shipment') }} AS shipment
JOIN {{ ref('dim_customer') }} AS customer ON customer.customer_key = shipment.customer_key
GROUP BY customer.customer_id, CAST(date_trunc('month', shipment.order_ts) AS DATE)
