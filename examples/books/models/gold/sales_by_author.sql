-- Sales per credit: each book has one.
SELECT
    authors AS author_name,
    count(*) AS books,
    CAST(sum(sales_millions) AS DECIMAL(18, 2)) AS sales_millions
FROM {{ ref('fact_books') }}
GROUP BY authors
