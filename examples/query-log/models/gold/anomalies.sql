{{ config(materialized='view') }}
-- Events that broke a rule: those kept with a warning, and those in quarantine now.
SELECT
    arrival_timestamp,
    instance_id,
    query_id,
    anomaly_description,
    'kept' AS disposition
FROM {{ ref('query_warnings') }}
UNION ALL
SELECT
    decoded['arrival_timestamp'] AS arrival_timestamp,
    decoded['instance_id'] AS instance_id,
    decoded['query_id'] AS query_id,
    array_to_string(array_sort(array_distinct(rules)), ' | ') AS anomaly_description,
    'quarantined' AS disposition
FROM {{ source('quarantine', 'query_log') }}
