-- Queries that were kept though they break rules that only warn.
SELECT
    arrival_timestamp,
    instance_id,
    query_id,
    array_to_string(_warnings, ' | ') AS anomaly_description
FROM {{ source('bronze', 'query_log') }}
WHERE _warnings IS NOT NULL
