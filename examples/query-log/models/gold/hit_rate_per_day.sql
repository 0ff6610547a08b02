-- Queries, and those that the cache answered. The rate is their ratio on read, after any grouping.
SELECT
    day,
    instance_id,
    query_type,
    user_id,
    CAST(sum(was_cached) AS BIGINT) AS cached_count,
    count(*) AS query_count
FROM {{ ref('queries') }}
GROUP BY day, instance_id, query_type, user_id
