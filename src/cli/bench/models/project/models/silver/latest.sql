SELECT k, v
FROM (
    SELECT
        k,
        v,
        row_number() OVER (
            PARTITION BY k ORDER BY _ts DESC, _partition, _offset DESC, _index
        ) AS place
    FROM {{ source('bronze', 'events') }}
) AS ranked
WHERE place = 1
