-- The days of all calendar years in which something is ordered or shipped. Monday is day 1.
SELECT
    date_key,
    date_key AS date,
    CAST(date_part('year', date_key) AS INT) AS year,
    CAST(date_part('quarter', date_key) AS INT) AS quarter,
    CAST(date_part('month', date_key) AS INT) AS month,
    to_char(date_key, '%B') AS month_name,
    CAST((date_part('dow', date_key) + 6) % 7 + 1 AS INT) AS day_of_week
FROM (
    SELECT CAST(value AS DATE) AS date_key
    FROM generate_series(DATE '1678-01-01', DATE '2261-12-31', INTERVAL '1 day')
) AS days
CROSS JOIN (
    SELECT
        date_trunc('year', least(min(order_date), min(shipping_date))) AS first_year,
        date_trunc('year', greatest(max(order_date), max(shipping_date))) AS last_year
    FROM {{ ref('order_days') }}
) AS years
WHERE date_trunc('year', date_key) BETWEEN first_year AND last_year
