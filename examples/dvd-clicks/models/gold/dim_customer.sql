-- Versions of customers: [valid_from, valid_to), the first open at the start, the last at the end.
SELECT
    md5(concat_ws('|', customer_id, valid_from)) AS customer_key,
    customer_id,
    concat_ws(' ', first_name, last_name) AS full_name,
    address_id,
    active,
    valid_from,
    valid_to,
    valid_to IS NULL AS is_current
FROM (
    SELECT
        *,
        CASE WHEN version > 1 THEN last_update END AS valid_from,
        lead(last_update) OVER (PARTITION BY customer_id ORDER BY last_update) AS valid_to
    FROM (
        SELECT *, row_number() OVER (PARTITION BY customer_id ORDER BY last_update) AS version
        FROM (
            SELECT
                *,
                lag(said) OVER (PARTITION BY customer_id ORDER BY last_update) AS said_before
            FROM (
                SELECT
                    *,
                    make_array(
                        CAST(store_id AS VARCHAR), first_name, last_name, email,
                        CAST(address_id AS VARCHAR), CAST(active AS VARCHAR)
                    ) AS said
                FROM {{ ref('customers') }}
            ) AS states
        ) AS moments
        WHERE said_before IS NULL OR said_before <> said
    ) AS changes
) AS versions
