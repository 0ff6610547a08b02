-- Films with their category. The key -1 in a fact means a film that is not known (yet).
SELECT
    film.film_id AS film_key,
    film.film_id,
    film.title,
    film.release_year,
    film.length,
    film.rating,
    film.rental_duration,
    coalesce(category.category_name, '(unknown)') AS category_name
FROM {{ ref('films') }} AS film
LEFT JOIN {{ ref('film_categories') }} AS category ON category.film_id = film.film_id
