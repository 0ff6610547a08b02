SELECT
    language.language_name,
    count(*) AS books,
    CAST(sum(book.sales_millions) AS DECIMAL(18, 2)) AS sales_millions
FROM {{ ref('fact_books') }} AS book
JOIN {{ ref('dim_language') }} AS language ON language.language_key = book.language_key
GROUP BY language.language_name
