-- A book counts in each of its genres, so the column does not add up to the total.
SELECT
    coalesce(bridge.genre_name, '(none)') AS genre_name,
    count(*) AS books,
    CAST(sum(book.sales_millions) AS DECIMAL(18, 2)) AS sales_millions
FROM {{ ref('fact_books') }} AS book
LEFT JOIN {{ ref('bridge_book_genre') }} AS bridge ON bridge.book_key = book.book_key
GROUP BY coalesce(bridge.genre_name, '(none)')
