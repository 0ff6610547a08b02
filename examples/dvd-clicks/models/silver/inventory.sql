{{ config(materialized='view') }}
SELECT inventory_id, film_id, store_id, last_update
FROM {{ ref('inventory_item') }}
