-- Places that orders go to.
SELECT
    location_key,
    order_city AS city,
    order_state AS state,
    order_country AS country,
    order_region AS region,
    order_zipcode AS zipcode,
    market
FROM {{ ref('order_lines') }}
GROUP BY location_key, order_city, order_state, order_country, order_region, order_zipcode, market
