-- Ordered goods by their age in days at the variable `as_of`.
SELECT
    age_range,
    count(*) AS rows,
    CAST(sum(unit_price * quantity) AS DECIMAL(38, 2)) AS value
FROM (
    SELECT
        CASE
            WHEN age < 0 THEN 'not yet placed'
            WHEN age <= 30 THEN '0-30'
            WHEN age <= 60 THEN '31-60'
            WHEN age <= 90 THEN '61-90'
            ELSE 'over 90'
        END AS age_range,
        unit_price,
        quantity
    FROM (
        SELECT
            CAST(DATE '{{ var('as_of', '2018-02-01') }}' AS INT) - CAST(order_date_key AS INT) AS age,
            unit_price,
            quantity
        FROM {{ ref('fact_order') }}
    ) AS ages
) AS goods
GROUP BY age_range
