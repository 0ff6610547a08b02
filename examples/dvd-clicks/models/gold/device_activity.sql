SELECT
    CAST(event_ts AS DATE) AS day,
    device,
    event_type,
    count(*) AS clicks
FROM {{ ref('fact_click') }}
GROUP BY CAST(event_ts AS DATE), device, event_type
