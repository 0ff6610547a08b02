-- Clicks per tumbling minute of event time and film, one row each.
SELECT
    date_trunc('minute', click.event_ts) AS window_start,
    click.film_id,
    coalesce(film.category_name, '(unknown)') AS category_name,
    coalesce(film.title, '(unknown)') AS title,
    count(*) AS click_count
FROM {{ ref('fact_click') }} AS click
LEFT JOIN {{ ref('dim_film') }} AS film ON film.film_id = click.film_id
GROUP BY
    date_trunc('minute', click.event_ts),
    click.film_id,
    coalesce(film.category_name, '(unknown)'),
    coalesce(film.title, '(unknown)')
