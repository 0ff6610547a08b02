-- Days and customers tell the same revenue: a row is a failure.
SELECT by_day.revenue AS of_days, by_customer.revenue AS of_customers
FROM (SELECT sum(revenue) AS revenue FROM {{ ref('daily_revenue') }}) AS by_day
CROSS JOIN (SELECT sum(revenue) AS revenue FROM {{ ref('customers') }}) AS by_customer
WHERE by_day.revenue <> by_customer.revenue
