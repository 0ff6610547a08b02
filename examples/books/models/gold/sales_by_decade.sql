SELECT
    decade,
    count(*) AS books,
    CAST(sum(sales_millions) AS DECIMAL(18, 2)) AS sales_millions
FROM {{ ref('fact_books') }}
GROUP BY decade
