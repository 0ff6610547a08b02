SELECT k, min(v) AS least, max(v) AS most, count(DISTINCT v) AS distinct_values
FROM {{ ref('rows') }}
GROUP BY k
