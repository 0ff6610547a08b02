{{ config(materialized='view') }}
-- What every accepted event says about its customer, events of superseded items included.
SELECT
    customer_id,
    customer_fname AS first_name,
    customer_lname AS last_name,
    customer_email AS email,
    customer_segment AS segment,
    customer_street AS street,
    customer_city AS city,
    customer_state AS state,
    CASE
        WHEN customer_zipcode ~ '^\d{1,4}(\.0+)?$' THEN lpad(regexp_replace(customer_zipcode, '\.0+$', ''), 5, '0')
        ELSE regexp_replace(customer_zipcode, '\.0+$', '')
    END AS zipcode,
    customer_country AS country,
    customer_latitude AS latitude,
    customer_longitude AS longitude,
    order_ts,
    _ts,
    _partition,
    _offset,
    _index
FROM {{ source('bronze', 'supply_chain_data') }}
