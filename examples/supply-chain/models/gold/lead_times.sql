-- How long deliveries take, per way of shipping and region.
SELECT
    shipping_mode,
    region,
    count(*) AS orders,
    CAST(sum(days_real) AS DOUBLE) / count(*) AS avg_days_real,
    percentile_cont(0.9) WITHIN GROUP (ORDER BY days_real) AS p90_days_real,
    CAST(sum(days_scheduled) AS DOUBLE) / count(*) AS avg_days_scheduled,
    count(*) FILTER (WHERE is_late) AS late_orders,
    CAST(count(*) FILTER (WHERE is_late) AS DOUBLE) / count(*) AS late_rate
FROM {{ ref('deliveries') }}
GROUP BY shipping_mode, region
