-- Orders as they stand: of those with the same order_id the one that was accepted last.
SELECT order_id, customer_id, amount, status, ordered_at
FROM (
    SELECT
        *,
        row_number() OVER (PARTITION BY order_id ORDER BY _ts DESC, _partition DESC, _offset DESC)
            AS age
    FROM {{ source('bronze', 'orders') }}
) AS versions
WHERE age = 1
