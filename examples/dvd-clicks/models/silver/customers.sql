{{ config(materialized='view') }}
SELECT
    customer_id,
    store_id,
    trim(first_name) AS first_name,
    trim(last_name) AS last_name,
    trim(email) AS email,
    address_id,
    active,
    create_date,
    last_update
FROM {{ ref('customer') }}
