-- The genres of each book, once each, in lower case. A book without genre has no row.
SELECT
    book_key,
    md5(lower(trim(split_part(tokens, ',', place)))) AS genre_key,
    lower(trim(split_part(tokens, ',', place))) AS genre_name
FROM (
    SELECT book.book_key, book.tokens, places.place
    FROM (
        SELECT book_key, replace(genre, '/', ',') AS tokens FROM {{ ref('stg_books') }}
    ) AS book
    JOIN {{ ref('places') }} AS places
        ON places.place <= length(book.tokens) - length(replace(book.tokens, ',', '')) + 1
) AS tokens
WHERE trim(split_part(tokens, ',', place)) <> ''
GROUP BY
    book_key,
    md5(lower(trim(split_part(tokens, ',', place)))),
    lower(trim(split_part(tokens, ',', place)))
