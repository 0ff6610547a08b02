SELECT
    category_name,
    CAST(sum(rentals) AS BIGINT) AS rentals,
    CAST(sum(returned) AS BIGINT) AS returned
FROM {{ ref('rentals_by_film') }}
GROUP BY category_name
