-- Clicks that fit their contract, each once.
SELECT
    event_id,
    event_ts,
    user_id,
    session_id,
    film_id,
    event_type,
    page,
    position,
    device,
    referrer
FROM {{ source('bronze', 'dvd_clicks') }}
