{{ config(materialized='view') }}
-- Items with the keys of the dimensions that are functions of the item itself. A missing part of
-- a place is a value of its own.
SELECT
    *,
    md5(concat_ws(
        '|',
        coalesce(order_city, ''),
        coalesce(order_state, ''),
        order_country,
        coalesce(order_region, ''),
        coalesce(order_zipcode, ''),
        market
    )) AS location_key,
    md5(concat_ws('|', shipping_mode, days_for_shipping_scheduled, delivery_status)) AS shipping_key,
    md5(concat_ws('|', order_item_id, _event_id)) AS metadata_key
FROM {{ ref('order_items') }}
