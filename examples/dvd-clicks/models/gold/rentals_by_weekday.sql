-- Rentals per day of the week on which the disc went out (1 is Monday) and category.
SELECT
    calendar.day_of_week,
    coalesce(film.category_name, '(unknown)') AS category_name,
    count(*) AS rentals
FROM {{ ref('fact_rental') }} AS rental
LEFT JOIN {{ ref('dim_date') }} AS calendar ON calendar.date_key = rental.rental_date_key
LEFT JOIN {{ ref('dim_film') }} AS film ON film.film_key = rental.film_key
GROUP BY calendar.day_of_week, coalesce(film.category_name, '(unknown)')
