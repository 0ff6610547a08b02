SELECT
    address.address_id AS address_key,
    address.address_id,
    trim(city.city) AS city_name,
    trim(country.country) AS country_name
FROM {{ ref('address') }} AS address
LEFT JOIN {{ ref('city') }} AS city ON city.city_id = address.city_id
LEFT JOIN {{ ref('country') }} AS country ON country.country_id = city.country_id
