-- Queries per table that they touched. Shares of a day or of a range are computed on read.
SELECT
    day,
    instance_id,
    table_id,
    query_type,
    user_id,
    count(*) AS query_count
FROM {{ ref('table_refs') }}
GROUP BY day, instance_id, table_id, query_type, user_id
