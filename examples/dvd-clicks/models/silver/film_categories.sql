{{ config(materialized='view') }}
SELECT
    film_category.film_id,
    film_category.category_id,
    trim(category.name) AS category_name,
    film_category.last_update
FROM {{ ref('film_category') }} AS film_category
JOIN {{ ref('category') }} AS category ON category.category_id = film_category.category_id
