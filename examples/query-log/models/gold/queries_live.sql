{{ config(materialized='view') }}
-- Queries of the newest calendar days, counted back from the newest day accepted.
SELECT query.*
FROM {{ ref('queries') }} AS query
CROSS JOIN (SELECT max(day) AS day FROM {{ ref('queries') }}) AS newest
WHERE query.day > newest.day - INTERVAL '{{ var('live_days', 4) }} days'
