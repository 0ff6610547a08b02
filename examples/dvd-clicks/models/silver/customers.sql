-- States of customers, each with the time of its change; of two with one time the later arrival.
SELECT customer_id, store_id, first_name, last_name, email, address_id, active, create_date, last_update
FROM (
    SELECT
        *,
        row_number() OVER (
            PARTITION BY customer_id, last_update
            ORDER BY _ts DESC, _partition DESC, _offset DESC, _index DESC
        ) AS newest
    FROM {{ source('bronze', 'dvd_customers') }}
) AS events
WHERE newest = 1
