-- Revenue per day, returned orders left out.
SELECT
    CAST(ordered_at AS DATE) AS day,
    count(*) AS orders,
    sum(amount) AS revenue
FROM {{ ref('orders') }}
WHERE status <> 'returned'
GROUP BY CAST(ordered_at AS DATE)
