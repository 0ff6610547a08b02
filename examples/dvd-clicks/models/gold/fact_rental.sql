-- One row per rental, with the version of the customer that held when the disc went out.
-- What is not known (yet) is key -1, for customers '(unknown)'.
SELECT
    rental.rental_id AS rental_key,
    rental.rental_id,
    coalesce(customer.customer_key, '(unknown)') AS customer_key,
    coalesce(address.address_key, -1) AS address_key,
    coalesce(film.film_key, -1) AS film_key,
    rental.inventory_id,
    rental.staff_id,
    rental.rental_date AS rental_ts,
    CAST(rental.rental_date AS DATE) AS rental_date_key,
    rental.return_date AS return_ts,
    rental.days AS rental_duration_days,
    rental.return_date IS NOT NULL AS is_returned,
    rental.days > film.rental_duration AS is_overdue,
    rental.last_update
FROM (
    SELECT
        *,
        CAST(CAST(return_date AS DATE) AS INT) - CAST(CAST(rental_date AS DATE) AS INT) AS days
    FROM {{ ref('rentals') }}
) AS rental
LEFT JOIN {{ ref('inventory') }} AS inventory ON inventory.inventory_id = rental.inventory_id
LEFT JOIN {{ ref('dim_film') }} AS film ON film.film_id = inventory.film_id
LEFT JOIN {{ ref('dim_customer') }} AS customer
    ON customer.customer_id = rental.customer_id
    AND (customer.valid_from IS NULL OR customer.valid_from <= rental.rental_date)
    AND (customer.valid_to IS NULL OR customer.valid_to > rental.rental_date)
LEFT JOIN {{ ref('dim_address') }} AS address ON address.address_id = customer.address_id
