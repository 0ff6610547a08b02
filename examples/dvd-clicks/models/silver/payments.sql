-- Payments as they stand: of the events of a payment, the one accepted last.
SELECT payment_id, customer_id, staff_id, rental_id, amount, payment_date
FROM (
    SELECT
        *,
        row_number() OVER (
            PARTITION BY payment_id
            ORDER BY _ts DESC, _partition DESC, _offset DESC, _index DESC
        ) AS newest
    FROM {{ source('bronze', 'dvd_payments') }}
) AS events
WHERE newest = 1
