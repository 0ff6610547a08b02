-- One row per payment. A rental may have several, so sum them up before joining them to rentals.
SELECT payment_id, rental_id, customer_id, staff_id, amount, payment_date AS payment_ts
FROM {{ ref('payments') }}
