-- Customers with what they ordered and kept.
SELECT
    o.customer_id,
    coalesce(c.customer_name, '(unknown)') AS customer_name,
    coalesce(c.country, '(unknown)') AS country,
    count(*) AS orders,
    sum(CASE WHEN o.status <> 'returned' THEN o.amount ELSE 0 END) AS revenue
FROM {{ ref('orders') }} AS o
LEFT JOIN {{ ref('customer_names') }} AS c ON c.customer_id = o.customer_id
GROUP BY o.customer_id, coalesce(c.customer_name, '(unknown)'), coalesce(c.country, '(unknown)')
