-- Customers of a month, those of them who ordered in the calendar month before too, and new ones.
SELECT
    CAST(date_part('year', month_start) AS INT) AS year,
    CAST(date_part('month', month_start) AS INT) AS month,
    month.active_customers,
    month.returned,
    CAST(month.returned AS DOUBLE) / before.active_customers AS retention_rate,
    month.new_customers
FROM (
    SELECT
        active.month_start,
        count(*) AS active_customers,
        count(earlier.customer_id) AS returned,
        count(*) FILTER (WHERE active.month_start = firsts.month_start) AS new_customers
    FROM {{ ref('customer_months') }} AS active
    JOIN (
        SELECT customer_id, min(month_start) AS month_start
        FROM {{ ref('customer_months') }}
        GROUP BY customer_id
    ) AS firsts ON firsts.customer_id = active.customer_id
    LEFT JOIN {{ ref('customer_months') }} AS earlier
        ON earlier.customer_id = active.customer_id
        AND earlier.month_start = CAST(active.month_start - INTERVAL '1 month' AS DATE)
    GROUP BY active.month_start
) AS month
LEFT JOIN (
    SELECT month_start AS before_start, count(*) AS active_customers
    FROM {{ ref('customer_months') }}
    GROUP BY month_start
) AS before ON before.before_start = CAST(month.month_start - INTERVAL '1 month' AS DATE)
