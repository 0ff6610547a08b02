-- Clicks of a user with pauses of at most 10 minutes between them. A late click may join sessions.
SELECT
    user_id,
    started_at,
    session_id,
    ended_at,
    (CAST(ended_at AS BIGINT) - CAST(started_at AS BIGINT)) / 1000000.0 AS duration_s,
    events,
    films,
    added_to_watchlist
FROM (
    SELECT
        user_id,
        session_number,
        min(event_ts) AS started_at,
        max(event_ts) AS ended_at,
        min(CASE WHEN is_first THEN session_id END) AS session_id,
        count(*) AS events,
        count(DISTINCT film_id) AS films,
        count(CASE WHEN event_type = 'add_to_watchlist' THEN 1 END) AS added_to_watchlist
    FROM (
        SELECT
            *,
            sum(CASE WHEN is_first THEN 1 ELSE 0 END) OVER (
                PARTITION BY user_id
                ORDER BY event_ts, event_id
                ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
            ) AS session_number
        FROM (
            SELECT
                *,
                clicked_before IS NULL OR event_ts > clicked_before + INTERVAL '10 minutes' AS is_first
            FROM (
                SELECT
                    *,
                    lag(event_ts) OVER (PARTITION BY user_id ORDER BY event_ts, event_id)
                        AS clicked_before
                FROM {{ ref('fact_click') }}
            ) AS clicks
        ) AS starts
    ) AS numbered
    GROUP BY user_id, session_number
) AS sessions
