SELECT k, v, 2 * v AS w
FROM {{ source('bronze', 'events') }}
WHERE v >= 100
