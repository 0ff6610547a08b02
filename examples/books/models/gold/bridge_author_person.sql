-- Who stands in which credit, and as what.
SELECT author_key, md5(person_name) AS person_key, role, position
FROM {{ ref('credit_parts') }}
