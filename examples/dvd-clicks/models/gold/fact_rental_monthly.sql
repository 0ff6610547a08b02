-- Rentals per film and month in which the disc went out. Film -1 gathers rentals of unknown discs.
SELECT
    film_id,
    title,
    month,
    CAST(month + INTERVAL '1 month' - INTERVAL '1 day' AS DATE) AS month_end_date,
    rental_count
FROM (
    SELECT
        rental.film_key AS film_id,
        coalesce(film.title, '(unknown)') AS title,
        CAST(date_trunc('month', rental.rental_date_key) AS DATE) AS month,
        count(*) AS rental_count
    FROM {{ ref('fact_rental') }} AS rental
    LEFT JOIN {{ ref('dim_film') }} AS film ON film.film_key = rental.film_key
    GROUP BY
        rental.film_key,
        coalesce(film.title, '(unknown)'),
        CAST(date_trunc('month', rental.rental_date_key) AS DATE)
) AS months
