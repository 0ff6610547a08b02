-- Each rental in its newest version; of two versions of one time the later arrival wins.
SELECT
    rental_id,
    rental_date,
    inventory_id,
    customer_id,
    return_date,
    staff_id,
    last_update
FROM (
    SELECT
        *,
        row_number() OVER (
            PARTITION BY rental_id
            ORDER BY last_update DESC, _ts DESC, _partition DESC, _offset DESC, _index DESC
        ) AS version_rank
    FROM {{ source('bronze', 'dvd_rentals') }}
) AS versions
WHERE version_rank = 1
