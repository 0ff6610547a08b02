{{ config(materialized='view') }}
SELECT
    film.film_id,
    trim(film.title) AS title,
    film.release_year,
    trim(language.name) AS language_name,
    film.rental_duration,
    film.rental_rate,
    film.length,
    film.replacement_cost,
    film.rating,
    film.last_update
FROM {{ ref('film') }} AS film
LEFT JOIN {{ ref('language') }} AS language ON language.language_id = film.language_id
