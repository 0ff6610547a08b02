-- Additive figures per hour; a mean is a sum over its count, on read.
SELECT
    date_trunc('hour', arrival_timestamp) AS hour,
    query_type,
    was_cached,
    count(*) AS query_count,
    count(compile_duration_ms) AS compiled_count,
    sum(compile_duration_ms) AS sum_compile_ms,
    CAST(sum(execution_duration_ms) AS BIGINT) AS sum_execution_ms,
    CAST(sum(num_joins) AS BIGINT) AS sum_joins,
    CAST(sum(num_scans) AS BIGINT) AS sum_scans,
    sum(mbytes_scanned) AS sum_mbytes_scanned,
    sum(mbytes_spilled) AS sum_mbytes_spilled
FROM {{ ref('queries') }}
GROUP BY date_trunc('hour', arrival_timestamp), query_type, was_cached
