-- The accepted event behind each row of fact_order.
SELECT
    metadata_key,
    _topic AS topic,
    _partition AS partition,
    _offset AS "offset",
    _ts AS kafka_time,
    _key AS key,
    _event_id AS event_id
FROM {{ ref('order_lines') }}
