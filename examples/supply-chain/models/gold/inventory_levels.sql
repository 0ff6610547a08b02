-- Goods ordered per month. The data has no stock counts, so these stand in for them.
SELECT
    CAST(date_part('year', order_ts) AS INT) AS year,
    CAST(date_part('month', order_ts) AS INT) AS month,
    CAST(sum(unit_price * quantity) AS DECIMAL(38, 2)) AS total_inventory_value,
    CAST(sum(net_sales - profit) AS DECIMAL(38, 2)) AS cost_of_goods
FROM {{ ref('fact_order') }}
GROUP BY CAST(date_part('year', order_ts) AS INT), CAST(date_part('month', order_ts) AS INT)
