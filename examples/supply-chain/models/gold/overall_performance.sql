-- Sales, profit and delivery per month of the order.
SELECT
    CAST(date_part('year', order_ts) AS INT) AS year,
    CAST(date_part('month', order_ts) AS INT) AS month,
    CAST(sum(net_sales) AS DECIMAL(38, 2)) AS total_sales,
    CAST(sum(gross_sales) AS DECIMAL(38, 2)) AS gross_sales,
    CAST(sum(profit) AS DECIMAL(38, 2)) AS profit,
    CAST(sum(profit) AS DOUBLE) / nullif(CAST(sum(net_sales) AS DOUBLE), 0) AS profit_margin,
    CAST(sum(item_count) AS BIGINT) AS items,
    count(*) AS orders,
    CAST(sum(days_real) AS DOUBLE) / count(*) AS avg_days_real,
    CAST(sum(days_scheduled) AS DOUBLE) / count(*) AS avg_days_scheduled
FROM {{ ref('fact_shipment') }}
GROUP BY CAST(date_part('year', order_ts) AS INT), CAST(date_part('month', order_ts) AS INT)
