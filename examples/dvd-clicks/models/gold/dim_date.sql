-- One row per day of the years in which rentals happen. Monday is day 1 of the week.
SELECT
    date_key,
    CAST(date_part('year', date_key) AS INT) AS year,
    CAST(date_part('month', date_key) AS INT) AS month,
    CAST((date_part('dow', date_key) + 6) % 7 + 1 AS INT) AS day_of_week,
    CAST(date_trunc('month', date_key) + INTERVAL '1 month' - INTERVAL '1 day' AS DATE) AS month_end
FROM (
    SELECT CAST(value AS DATE) AS date_key
    FROM generate_series(DATE '2005-01-01', DATE '2007-12-31', INTERVAL '1 day')
) AS days
