-- Rentals with film, customer and address spelled out: as many rows as the fact.
SELECT
    rental.rental_id,
    rental.rental_ts,
    rental.return_ts,
    rental.rental_duration_days,
    rental.is_returned,
    rental.is_overdue,
    coalesce(film.title, '(unknown)') AS title,
    coalesce(film.category_name, '(unknown)') AS category_name,
    film.rating,
    customer.customer_id,
    coalesce(customer.full_name, '(unknown)') AS full_name,
    coalesce(address.city_name, '(unknown)') AS city_name,
    coalesce(address.country_name, '(unknown)') AS country_name
FROM {{ ref('fact_rental') }} AS rental
LEFT JOIN {{ ref('dim_film') }} AS film ON film.film_key = rental.film_key
LEFT JOIN {{ ref('dim_customer') }} AS customer ON customer.customer_key = rental.customer_key
LEFT JOIN {{ ref('dim_address') }} AS address ON address.address_key = rental.address_key
