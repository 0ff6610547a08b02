-- Products as the item with the newest order_ts describes them.
SELECT
    product_card_id AS product_key,
    product_card_id,
    product_name AS name,
    product_image AS image,
    product_status AS status,
    unit_price AS price,
    category_id,
    category_name,
    department_id AS department_key
FROM (
    SELECT
        *,
        row_number() OVER (
            PARTITION BY product_card_id
            ORDER BY order_ts DESC, _ts DESC, _partition DESC, _offset DESC, _index DESC
        ) AS newest
    FROM {{ ref('order_items') }}
) AS items
WHERE newest = 1
