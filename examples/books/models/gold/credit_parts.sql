-- Credits taken apart at `;`, `,` and the word `and`. Blanks are doubled first, so that words that
-- follow each other are both found.
SELECT
    author_key,
    row_number() OVER (PARTITION BY author_key ORDER BY place) AS position,
    CASE WHEN part ~* '^illustrated by ' THEN 'illustrator' ELSE 'author' END AS role,
    regexp_replace(part, '^illustrated by ', '', 'i') AS person_name
FROM (
    SELECT
        credit.author_key,
        places.place,
        trim(regexp_replace(split_part(credit.parts, chr(31), places.place), '\s+', ' ', 'g')) AS part
    FROM (
        SELECT
            author_key,
            regexp_replace(
                concat(' ', replace(regexp_replace(author_name, '[;,]', ' ' || chr(31) || ' ', 'g'), ' ', '  '), ' '),
                ' and ', chr(31), 'gi'
            ) AS parts
        FROM {{ ref('dim_author') }}
    ) AS credit
    JOIN {{ ref('places') }} AS places
        ON places.place <= length(credit.parts) - length(replace(credit.parts, chr(31), '')) + 1
) AS parts
WHERE part <> '' AND NOT (part ~* '^illustrated by$')
