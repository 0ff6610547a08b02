-- Queries per five minutes, and those that the cache answered. The rate is their ratio on read.
SELECT
    date_bin(INTERVAL '5 minutes', arrival_timestamp) AS bucket,
    CAST(sum(was_cached) AS BIGINT) AS cached_count,
    count(*) AS query_count
FROM {{ ref('queries') }}
GROUP BY date_bin(INTERVAL '5 minutes', arrival_timestamp)
