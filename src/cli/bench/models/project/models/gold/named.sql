SELECT r.k, r.v, n.name
FROM {{ ref('rows') }} AS r
LEFT JOIN {{ ref('names') }} AS n ON n.k = r.k
