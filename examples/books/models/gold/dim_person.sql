SELECT md5(person_name) AS person_key, person_name
FROM {{ ref('credit_parts') }}
GROUP BY md5(person_name), person_name
