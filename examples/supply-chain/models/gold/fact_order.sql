-- One row per order item, with the version of the customer that held when it was ordered.
SELECT
    line.order_item_id,
    coalesce(customer.customer_key, '(unknown)') AS customer_key,
    line.product_card_id AS product_key,
    line.department_id AS department_key,
    line.location_key,
    line.shipping_key,
    line.metadata_key,
    CAST(line.order_ts AS DATE) AS order_date_key,
    line.order_id,
    line.order_ts,
    line.order_status,
    line.payment_type,
    line.quantity,
    line.unit_price,
    line.discount,
    line.discount_rate,
    line.gross_sales,
    line.net_sales,
    line.profit,
    line.profit_ratio
FROM {{ ref('order_lines') }} AS line
LEFT JOIN {{ ref('dim_customer') }} AS customer
    ON customer.customer_id = line.customer_id
    AND (customer.valid_from IS NULL OR customer.valid_from <= line.order_ts)
    AND (customer.valid_to IS NULL OR customer.valid_to > line.order_ts)
