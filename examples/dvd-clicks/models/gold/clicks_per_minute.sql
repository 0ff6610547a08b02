-- Clicks per tumbling minute of event time and film, one row each.
SELECT
    click.window_start,
    click.film_id,
    coalesce(film.category_name, '(unknown)') AS category_name,
    coalesce(film.title, '(unknown)') AS title,
    click.click_count
FROM (
    SELECT
        date_trunc('minute', event_ts) AS window_start,
        film_id,
        count(*) AS click_count
    FROM {{ ref('fact_click') }}
    GROUP BY date_trunc('minute', event_ts), film_id
) AS click
LEFT JOIN {{ ref('dim_film') }} AS film ON film.film_id = click.film_id
