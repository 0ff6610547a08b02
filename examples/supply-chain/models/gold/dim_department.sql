-- Departments as the item with the newest order_ts names them.
SELECT department_id AS department_key, department_id, department_name
FROM (
    SELECT
        *,
        row_number() OVER (
            PARTITION BY department_id
            ORDER BY order_ts DESC, _ts DESC, _partition DESC, _offset DESC, _index DESC
        ) AS newest
    FROM {{ ref('order_items') }}
) AS items
WHERE newest = 1
