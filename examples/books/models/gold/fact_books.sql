-- One row per book.
SELECT
    book_key,
    md5(authors) AS author_key,
    md5(coalesce(original_language, '(unknown)')) AS language_key,
    authors,
    book_title,
    genre,
    first_published_year,
    CAST(floor(first_published_year / 10.0) * 10 AS INT) AS decade,
    sales_millions
FROM {{ ref('stg_books') }}
