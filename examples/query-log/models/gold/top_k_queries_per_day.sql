-- Queries per kind and user. Shares of a day or of a range are computed on read.
SELECT
    day,
    instance_id,
    query_type,
    user_id,
    count(*) AS query_count
FROM {{ ref('queries') }}
GROUP BY day, instance_id, query_type, user_id
