-- How far users get, per day. Shares of the first step (view) are computed on read.
SELECT
    CAST(event_ts AS DATE) AS day,
    event_type,
    count(*) AS clicks,
    count(DISTINCT user_id) AS users,
    count(DISTINCT session_id) AS sessions
FROM {{ ref('fact_click') }}
GROUP BY CAST(event_ts AS DATE), event_type
