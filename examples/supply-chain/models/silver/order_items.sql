-- Items of orders as they stand: of the events of an item, the one accepted last.
SELECT
    order_item_id,
    order_id,
    order_ts,
    order_status,
    payment_type,
    quantity,
    unit_price,
    gross_sales,
    discount,
    discount_rate,
    net_sales,
    profit,
    profit_ratio,
    shipping_ts,
    days_for_shipping_real,
    days_for_shipping_scheduled,
    delivery_status,
    late_delivery_risk,
    shipping_mode,
    market,
    order_region,
    order_country,
    order_state,
    order_city,
    CASE
        WHEN order_zipcode ~ '^\d{1,4}(\.0+)?$' THEN lpad(regexp_replace(order_zipcode, '\.0+$', ''), 5, '0')
        ELSE regexp_replace(order_zipcode, '\.0+$', '')
    END AS order_zipcode,
    customer_id,
    customer_fname,
    customer_lname,
    customer_email,
    customer_segment,
    customer_street,
    customer_city,
    customer_state,
    customer_country,
    CASE
        WHEN customer_zipcode ~ '^\d{1,4}(\.0+)?$' THEN lpad(regexp_replace(customer_zipcode, '\.0+$', ''), 5, '0')
        ELSE regexp_replace(customer_zipcode, '\.0+$', '')
    END AS customer_zipcode,
    customer_latitude,
    customer_longitude,
    product_card_id,
    product_name,
    product_image,
    product_description,
    product_status,
    category_id,
    category_name,
    department_id,
    department_name,
    _event_id,
    _topic,
    _partition,
    _offset,
    _index,
    _ts,
    _key
FROM (
    SELECT
        *,
        row_number() OVER (
            PARTITION BY order_item_id
            ORDER BY _ts DESC, _partition DESC, _offset DESC, _index DESC
        ) AS newest
    FROM {{ source('bronze', 'supply_chain_data') }}
) AS events
WHERE newest = 1
