-- Books as they stand: of the events of a title and its authors, the one accepted last.
SELECT
    md5(concat(md5(book_title), md5(authors))) AS book_key,
    book_title,
    authors,
    original_language,
    first_published_year,
    sales_millions,
    genre,
    _ts AS ingested_at
FROM (
    SELECT
        *,
        row_number() OVER (
            PARTITION BY book_title, authors
            ORDER BY _ts DESC, _partition DESC, _offset DESC, _index DESC
        ) AS newest
    FROM {{ source('bronze', 'books') }}
) AS events
WHERE newest = 1
