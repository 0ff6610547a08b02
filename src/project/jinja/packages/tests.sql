{# Generic tests: the four of dbt, then ours. Each selects what fails. #}

{# Rows in which the column is null. #}
{% test not_null(model, column_name) %}
select tested.*
from {{ model }} as tested
where {{ column_name }} is null
{% endtest %}

{# Values that stand in several rows, with how many. #}
{% test unique(model, column_name) %}
select {{ column_name }} as unique_field, count(*) as n_records
from {{ model }} as tested
where {{ column_name }} is not null
group by {{ column_name }}
having count(*) > 1
{% endtest %}

{# Values that are none of those listed, with their number of rows. `quote`: these are texts. #}
{% test accepted_values(model, column_name, values, quote=true) %}
select {{ column_name }} as value_field, count(*) as n_records
from {{ model }} as tested
where {{ column_name }} not in (
    {%- for value in values -%}
        {%- if quote %}'{{ value | string | replace("'", "''") }}'{% else %}{{ value }}{% endif -%}
        {%- if not loop.last %}, {% endif -%}
    {%- endfor -%}
)
group by {{ column_name }}
{% endtest %}

{# The rows with such values. #}
{% test accepted_values_by_row(model, column_name, values, quote=true) %}
select tested.*
from {{ model }} as tested
where {{ column_name }} not in (
    {%- for value in values -%}
        {%- if quote %}'{{ value | string | replace("'", "''") }}'{% else %}{{ value }}{% endif -%}
        {%- if not loop.last %}, {% endif -%}
    {%- endfor -%}
)
{% endtest %}

{# Values that are not among those of a column of another relation. #}
{% test relationships(model, column_name, to, field) %}
with child as (
    select {{ column_name }} as from_field from {{ model }} as tested where {{ column_name }} is not null
),
parent as (
    select {{ field }} as to_field from {{ to }} as referenced
)
select child.from_field
from child
left join parent on child.from_field = parent.to_field
where parent.to_field is null
{% endtest %}

{# Rows for which a condition does not hold; of a column, what stands behind it in one. #}
{% test expression(model, expression, column_name=none) %}
select tested.*
from {{ model }} as tested
where not ({% if column_name %}{{ column_name }} {% endif %}{{ expression }})
{% endtest %}

{# How old the newest row is, by a column of times. #}
{% test freshness(model, column_name) %}
select extract(epoch from now()) - extract(epoch from max({{ column_name }})) as age_seconds
from {{ model }} as tested
{% endtest %}
