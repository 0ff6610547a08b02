{{ config(materialized='view') }}
-- Credits taken apart at `;`, `,` and the word `and`.
SELECT
    author_key,
    place AS position,
    CASE WHEN part ~* '^illustrated by\s' THEN 'illustrator' ELSE 'author' END AS role,
    regexp_replace(part, '^illustrated by\s+', '', 'i') AS person_name
FROM (
    SELECT
        credit.author_key,
        places.place,
        trim(split_part(credit.parts, '|', places.place)) AS part
    FROM (
        SELECT
            author_key,
            regexp_replace(author_name, '(\s+and\s+|\s*[;,]\s*(and\s+)?)', '|', 'gi') AS parts
        FROM {{ ref('dim_author') }}
    ) AS credit
    JOIN {{ ref('places') }} AS places
        ON places.place <= length(credit.parts) - length(replace(credit.parts, '|', '')) + 1
) AS parts
WHERE part <> ''
