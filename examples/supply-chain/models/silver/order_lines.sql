{{ config(materialized='view') }}
-- Items with the keys of the dimensions that are functions of the item itself. A missing part of
-- a place is a value of its own. Parts are hashed one by one, so that no two places share a key.
SELECT
    *,
    md5(concat(
        coalesce(md5(order_city), '-'),
        coalesce(md5(order_state), '-'),
        coalesce(md5(order_country), '-'),
        coalesce(md5(order_region), '-'),
        coalesce(md5(order_zipcode), '-'),
        md5(market)
    )) AS location_key,
    md5(concat_ws('|', shipping_mode, days_for_shipping_scheduled, delivery_status)) AS shipping_key,
    md5(concat_ws('|', order_item_id, _event_id)) AS metadata_key
FROM {{ ref('order_items') }}
