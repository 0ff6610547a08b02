{{ config(materialized='view') }}
{% set minutes = var('trending_minutes', 15) %}
-- Films by growth: clicks of the last minutes before the newest click, less those of the same span
-- before. Both windows are open at the start and follow the newest click, not the clock's minute.
SELECT
    click.film_id,
    coalesce(film.title, '(unknown)') AS title,
    coalesce(film.category_name, '(unknown)') AS category_name,
    click.clicks,
    click.clicks_before,
    click.clicks - click.clicks_before AS growth
FROM (
    SELECT
        recent.film_id,
        count(*) FILTER (
            WHERE recent.event_ts > newest.event_ts - INTERVAL '{{ minutes }} minutes'
        ) AS clicks,
        count(*) FILTER (
            WHERE recent.event_ts <= newest.event_ts - INTERVAL '{{ minutes }} minutes'
        ) AS clicks_before
    FROM {{ ref('fact_click') }} AS recent
    CROSS JOIN (SELECT max(event_ts) AS event_ts FROM {{ ref('fact_click') }}) AS newest
    WHERE recent.event_ts > newest.event_ts - INTERVAL '{{ 2 * minutes }} minutes'
    GROUP BY recent.film_id
) AS click
LEFT JOIN {{ ref('dim_film') }} AS film ON film.film_id = click.film_id
WHERE click.clicks > 0
ORDER BY growth DESC, click.clicks DESC, click.film_id
LIMIT {{ var('trending_top', 10) }}
