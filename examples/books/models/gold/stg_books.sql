{{ config(materialized='view') }}
SELECT
    book_key,
    book_title,
    authors,
    original_language,
    first_published_year,
    sales_millions,
    genre,
    ingested_at
FROM {{ ref('books') }}
