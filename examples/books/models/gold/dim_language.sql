SELECT
    md5(coalesce(original_language, '(unknown)')) AS language_key,
    coalesce(original_language, '(unknown)') AS language_name
FROM {{ ref('stg_books') }}
GROUP BY md5(coalesce(original_language, '(unknown)')), coalesce(original_language, '(unknown)')
