-- Who stands in which credit, and as what.
SELECT author_key, md5(person_name) AS person_key, role, min(position) AS position
FROM {{ ref('credit_parts') }}
GROUP BY author_key, md5(person_name), role
