-- Versions of customers: [valid_from, valid_to), the first open at the start, the last at the end.
-- Changes are in the order of order_ts; of events of one time the one that arrived last counts.
SELECT
    md5(concat_ws('|', customer_id, valid_from)) AS customer_key,
    customer_id,
    first_name,
    last_name,
    email,
    segment,
    street,
    city,
    state,
    zipcode,
    country,
    latitude,
    longitude,
    valid_from,
    valid_to,
    valid_to IS NULL AS is_current
FROM (
    SELECT
        *,
        CASE WHEN version > 1 THEN order_ts END AS valid_from,
        lead(order_ts) OVER (PARTITION BY customer_id ORDER BY order_ts) AS valid_to
    FROM (
        SELECT *, row_number() OVER (PARTITION BY customer_id ORDER BY order_ts) AS version
        FROM (
            SELECT *, lag(said) OVER (PARTITION BY customer_id ORDER BY order_ts) AS said_before
            FROM (
                SELECT
                    *,
                    make_array(
                        first_name, last_name, segment, street, city, state, zipcode, country,
                        CAST(latitude AS VARCHAR), CAST(longitude AS VARCHAR)
                    ) AS said,
                    row_number() OVER (
                        PARTITION BY customer_id, order_ts
                        ORDER BY _ts DESC, _partition DESC, _offset DESC, _index DESC
                    ) AS newest
                FROM {{ ref('customer_states') }}
            ) AS states
            WHERE newest = 1
        ) AS moments
        WHERE said_before IS NULL OR said_before <> said
    ) AS changes
) AS versions
