-- Rentals per country of the customer at the time; durations are over what has come back.
SELECT
    country_name,
    rentals,
    returned,
    CAST(rental_days AS DOUBLE) / nullif(returned, 0) AS avg_duration_days
FROM (
    SELECT
        coalesce(address.country_name, '(unknown)') AS country_name,
        count(*) AS rentals,
        count(rental.rental_duration_days) AS returned,
        sum(rental.rental_duration_days) AS rental_days
    FROM {{ ref('fact_rental') }} AS rental
    LEFT JOIN {{ ref('dim_address') }} AS address ON address.address_key = rental.address_key
    GROUP BY coalesce(address.country_name, '(unknown)')
) AS countries
