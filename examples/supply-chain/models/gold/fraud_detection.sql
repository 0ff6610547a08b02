-- Orders of each customer, and those suspected of fraud.
SELECT
    customer_id,
    orders,
    fraud_orders,
    fraud_amount,
    CAST(amount AS DOUBLE) / orders AS avg_order_total,
    CAST(fraud_amount AS DOUBLE) / nullif(fraud_orders, 0) AS avg_fraud_order_total
FROM (
    SELECT
        customer.customer_id,
        count(*) AS orders,
        CAST(sum(shipment.net_sales) AS DECIMAL(38, 2)) AS amount,
        CAST(sum(CASE WHEN shipment.order_status = 'SUSPECTED_FRAUD' THEN 1 ELSE 0 END) AS BIGINT) AS fraud_orders,
        CAST(sum(CASE WHEN shipment.order_status = 'SUSPECTED_FRAUD' THEN shipment.net_sales ELSE 0 END) AS DECIMAL(38, 2))
            AS fraud_amount
    FROM {{ ref('fact_shipment') }} AS shipment
    JOIN {{ ref('dim_customer') }} AS customer ON customer.customer_key = shipment.customer_key
    GROUP BY customer.customer_id
) AS customers
