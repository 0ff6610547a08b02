-- Orders: sums over the items, and what the item accepted last says of the order as a whole.
SELECT
    order_id,
    customer_id,
    location_key,
    shipping_key,
    order_ts,
    shipping_ts,
    order_status,
    payment_type,
    days_for_shipping_real AS days_real,
    days_for_shipping_scheduled AS days_scheduled,
    late_delivery_risk,
    item_count,
    units,
    of_order_gross AS gross_sales,
    of_order_discount AS discount,
    of_order_net AS net_sales,
    of_order_profit AS profit
FROM (
    SELECT
        *,
        count(*) OVER (PARTITION BY order_id) AS item_count,
        sum(quantity) OVER (PARTITION BY order_id) AS units,
        sum(gross_sales) OVER (PARTITION BY order_id) AS of_order_gross,
        sum(discount) OVER (PARTITION BY order_id) AS of_order_discount,
        sum(net_sales) OVER (PARTITION BY order_id) AS of_order_net,
        sum(profit) OVER (PARTITION BY order_id) AS of_order_profit,
        row_number() OVER (
            PARTITION BY order_id
            ORDER BY _ts DESC, _partition DESC, _offset DESC, _index DESC
        ) AS newest
    FROM {{ ref('order_lines') }}
) AS items
WHERE newest = 1
