SELECT k, count(*) AS n, sum(v) AS s
FROM {{ ref('rows') }}
GROUP BY k
