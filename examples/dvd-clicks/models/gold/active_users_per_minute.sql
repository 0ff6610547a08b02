SELECT
    date_trunc('minute', event_ts) AS window_start,
    count(DISTINCT user_id) AS active_users,
    count(*) AS clicks
FROM {{ ref('fact_click') }}
GROUP BY date_trunc('minute', event_ts)
