-- Rentals per film and month in which the disc went out. Film -1 gathers rentals of unknown discs.
SELECT
    rental.film_key AS film_id,
    coalesce(film.title, '(unknown)') AS title,
    rental.month,
    CAST(rental.month + INTERVAL '1 month' - INTERVAL '1 day' AS DATE) AS month_end_date,
    rental.rental_count
FROM (
    SELECT
        film_key,
        CAST(date_trunc('month', rental_date_key) AS DATE) AS month,
        count(*) AS rental_count
    FROM {{ ref('fact_rental') }}
    GROUP BY film_key, CAST(date_trunc('month', rental_date_key) AS DATE)
) AS rental
LEFT JOIN {{ ref('dim_film') }} AS film ON film.film_key = rental.film_key
