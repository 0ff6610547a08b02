-- Versions of customers: [valid_from, valid_to), the first open at the start, the last at the end.
-- Customers are a seed, so each has one version; facts join by time already.
SELECT
    md5(concat(customer_id, '|')) AS customer_key,
    customer_id,
    concat(first_name, ' ', last_name) AS full_name,
    address_id,
    active,
    arrow_cast(NULL, 'Timestamp(Microsecond, Some("UTC"))') AS valid_from,
    arrow_cast(NULL, 'Timestamp(Microsecond, Some("UTC"))') AS valid_to,
    true AS is_current
FROM {{ ref('customers') }}
