-- Orders with the way they were shipped and the region they went to.
SELECT
    shipment.order_id,
    shipping.shipping_mode,
    location.region,
    shipment.days_real,
    shipment.days_scheduled,
    shipment.is_late
FROM {{ ref('fact_shipment') }} AS shipment
JOIN {{ ref('dim_shipping') }} AS shipping ON shipping.shipping_key = shipment.shipping_key
JOIN {{ ref('dim_location') }} AS location ON location.location_key = shipment.location_key
