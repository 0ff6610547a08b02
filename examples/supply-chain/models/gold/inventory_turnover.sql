-- How often the mean value of a month's goods was turned over in a year.
SELECT
    year,
    CAST(sum(cost_of_goods) AS DECIMAL(38, 2)) AS cost_of_goods,
    CAST(sum(cost_of_goods) AS DOUBLE) * count(*)
        / nullif(CAST(sum(total_inventory_value) AS DOUBLE), 0) AS inventory_turnover,
    count(*) AS months_covered
FROM {{ ref('inventory_levels') }}
GROUP BY year
