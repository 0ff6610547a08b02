-- Tables that a query touched, each once: what reads and writes a table is one row.
SELECT
    instance_id,
    query_id,
    table_id,
    array_has(reads, table_id) AS was_read,
    array_has(writes, table_id) AS was_written,
    day,
    query_type,
    user_id
FROM (
    SELECT *, unnest(array_distinct(array_concat(reads, writes))) AS table_id
    FROM (
        SELECT
            *,
            coalesce(read_tables, CAST([] AS BIGINT[])) AS reads,
            coalesce(write_tables, CAST([] AS BIGINT[])) AS writes
        FROM {{ ref('queries') }}
    ) AS queries
) AS refs
