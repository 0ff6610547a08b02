-- One row per order, which ships as one. A canceled order is never late.
SELECT
    shipped.order_id,
    coalesce(customer.customer_key, '(unknown)') AS customer_key,
    shipped.location_key,
    shipped.shipping_key,
    shipped.order_ts,
    shipped.shipping_ts,
    shipped.order_status,
    shipped.payment_type,
    shipped.item_count,
    shipped.units,
    shipped.gross_sales,
    shipped.discount,
    shipped.net_sales,
    shipped.profit,
    shipped.days_real,
    shipped.days_scheduled,
    shipped.days_real - shipped.days_scheduled AS delay_days,
    coalesce(shipped.late_delivery_risk = 1, false) AS is_late
FROM {{ ref('orders') }} AS shipped
LEFT JOIN {{ ref('dim_customer') }} AS customer
    ON customer.customer_id = shipped.customer_id
    AND (customer.valid_from IS NULL OR customer.valid_from <= shipped.order_ts)
    AND (customer.valid_to IS NULL OR customer.valid_to > shipped.order_ts)
