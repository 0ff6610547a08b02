-- What each department has in an order.
SELECT
    item.order_id,
    location.market,
    location.region,
    department.department_name AS department,
    CAST(date_part('year', item.order_ts) AS INT) AS year,
    count(*) AS items,
    CAST(sum(item.net_sales) AS DECIMAL(38, 2)) AS net_sales,
    CAST(sum(item.profit) AS DECIMAL(38, 2)) AS profit
FROM {{ ref('fact_order') }} AS item
JOIN {{ ref('dim_department') }} AS department ON department.department_key = item.department_key
JOIN {{ ref('dim_location') }} AS location ON location.location_key = item.location_key
GROUP BY
    item.order_id,
    location.market,
    location.region,
    department.department_name,
    CAST(date_part('year', item.order_ts) AS INT)
