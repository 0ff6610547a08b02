-- Sales and profit per market, region, department and year. An order of two departments counts in both.
SELECT
    market,
    region,
    department,
    year,
    CAST(sum(net_sales) AS DECIMAL(38, 2)) AS net_sales,
    CAST(sum(profit) AS DECIMAL(38, 2)) AS profit,
    CAST(sum(profit) AS DOUBLE) / nullif(CAST(sum(net_sales) AS DOUBLE), 0) AS profit_margin,
    count(*) AS orders
FROM {{ ref('order_departments') }}
GROUP BY market, region, department, year
