-- Money ordered per department, market and category: open, fulfilled or void.
{% set open = "('PENDING', 'PENDING_PAYMENT', 'PROCESSING', 'ON_HOLD', 'PAYMENT_REVIEW')" %}
SELECT
    department,
    market,
    category_name,
    ordered_funds,
    committed_funds,
    fulfilled_funds,
    void_funds,
    CAST(fulfilled_funds AS DOUBLE)
        / nullif(CAST(committed_funds + fulfilled_funds AS DOUBLE), 0) AS commitment_fulfillment_rate
FROM (
    SELECT
        department.department_name AS department,
        location.market,
        product.category_name,
        CAST(sum(item.net_sales) AS DECIMAL(38, 2)) AS ordered_funds,
        CAST(sum(CASE WHEN item.order_status IN {{ open }} THEN item.net_sales ELSE 0 END) AS DECIMAL(38, 2))
            AS committed_funds,
        CAST(sum(CASE WHEN item.order_status IN ('COMPLETE', 'CLOSED') THEN item.net_sales ELSE 0 END) AS DECIMAL(38, 2))
            AS fulfilled_funds,
        CAST(sum(CASE WHEN item.order_status IN ('CANCELED', 'SUSPECTED_FRAUD') THEN item.net_sales ELSE 0 END) AS DECIMAL(38, 2))
            AS void_funds
    FROM {{ ref('fact_order') }} AS item
    JOIN {{ ref('dim_department') }} AS department ON department.department_key = item.department_key
    JOIN {{ ref('dim_location') }} AS location ON location.location_key = item.location_key
    JOIN {{ ref('dim_product') }} AS product ON product.product_key = item.product_key
    GROUP BY department.department_name, location.market, product.category_name
) AS funds
