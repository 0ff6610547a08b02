-- Films by rentals; those never rented do not appear. Film -1 gathers rentals of unknown discs.
SELECT
    rental.film_key AS film_id,
    coalesce(film.title, '(unknown)') AS title,
    coalesce(film.category_name, '(unknown)') AS category_name,
    count(*) AS rentals,
    count(rental.return_ts) AS returned
FROM {{ ref('fact_rental') }} AS rental
LEFT JOIN {{ ref('dim_film') }} AS film ON film.film_key = rental.film_key
GROUP BY
    rental.film_key,
    coalesce(film.title, '(unknown)'),
    coalesce(film.category_name, '(unknown)')
