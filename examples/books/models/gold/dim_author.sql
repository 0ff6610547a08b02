-- Credits as printed.
SELECT md5(authors) AS author_key, authors AS author_name
FROM {{ ref('stg_books') }}
GROUP BY md5(authors), authors
