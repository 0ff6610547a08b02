-- How well a line, a parabola and an exponential describe the points of `compile_time_vs_num_joins`,
-- each point weighing the same. R² is 1 - residuals / total, both squared and on the scale of
-- avg_compile_ms, so that the three compare. Null where three points with a spread are missing.
WITH points AS (
    SELECT CAST(num_joins AS DOUBLE) AS x, avg_compile_ms AS y, ln(1 + avg_compile_ms) AS log_y
    FROM {{ ref('compile_time_vs_num_joins') }}
),

-- Polynomials that are orthogonal over the points: 1, x1 and x2. Each is fitted by itself.
centred AS (
    SELECT
        points.*,
        x - mean_x AS x1,
        y - mean_y AS y1,
        log_y - mean_log_y AS log_y1,
        mean_y,
        mean_log_y
    FROM points
    CROSS JOIN (
        SELECT
            avg(x) AS mean_x,
            avg(y) AS mean_y,
            CASE WHEN min(y) > -1 THEN avg(log_y) END AS mean_log_y
        FROM points
        HAVING count(*) > 2 AND min(y) < max(y)
    ) AS means
),

squared AS (
    SELECT centred.*, x1 * x1 - mean_square - skew * x1 AS x2
    FROM centred
    CROSS JOIN (
        SELECT avg(x1 * x1) AS mean_square, sum(x1 * x1 * x1) / sum(x1 * x1) AS skew
        FROM centred
    ) AS moments
),

fitted AS (
    SELECT
        y,
        y1,
        mean_y + slope * x1 AS linear,
        mean_y + slope * x1 + curve * x2 AS quadratic,
        exp(mean_log_y + log_slope * x1) - 1 AS exponential
    FROM squared
    CROSS JOIN (
        SELECT
            sum(x1 * y1) / sum(x1 * x1) AS slope,
            sum(x2 * y1) / sum(x2 * x2) AS curve,
            sum(x1 * log_y1) / sum(x1 * x1) AS log_slope
        FROM squared
    ) AS factors
),

qualities AS (
    SELECT
        1 - sum(power(y - linear, 2)) / sum(y1 * y1) AS linear,
        1 - sum(power(y - quadratic, 2)) / sum(y1 * y1) AS quadratic,
        1 - sum(power(y - exponential, 2)) / sum(y1 * y1) AS exponential
    FROM fitted
)

SELECT model, r_squared, coalesce(r_squared = max(r_squared) OVER (), false) AS is_best
FROM (
    SELECT 'linear' AS model, nullif(linear, 'NaN') AS r_squared FROM qualities
    UNION ALL
    SELECT 'quadratic', nullif(quadratic, 'NaN') FROM qualities
    UNION ALL
    SELECT 'exponential', nullif(exponential, 'NaN') FROM qualities
) AS fits
