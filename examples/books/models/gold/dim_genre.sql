SELECT genre_key, genre_name
FROM {{ ref('bridge_book_genre') }}
GROUP BY genre_key, genre_name
