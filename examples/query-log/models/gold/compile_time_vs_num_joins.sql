-- How long selects compile, per number of joins.
SELECT
    num_joins,
    count(*) AS query_count,
    sum(compile_duration_ms) AS sum_compile_ms,
    avg(compile_duration_ms) AS avg_compile_ms
FROM {{ ref('queries') }}
WHERE query_type = 'select' AND compile_duration_ms IS NOT NULL
GROUP BY num_joins
