-- One row per click. A click on a film that is not known (yet) keeps its film_id, with key -1.
SELECT
    click.event_id,
    coalesce(film.film_key, -1) AS film_key,
    click.film_id,
    click.event_ts,
    click.user_id,
    click.session_id,
    click.event_type,
    click.page,
    click.position,
    click.device,
    click.referrer
FROM {{ ref('clicks') }} AS click
LEFT JOIN {{ ref('dim_film') }} AS film ON film.film_id = click.film_id
