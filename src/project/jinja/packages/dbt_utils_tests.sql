{# The generic tests of dbt_utils. Each selects what fails. #}

{# Rows and groups of rows. #}

{# Groups of which the two relations do not have as many rows; without columns, all rows are one. #}
{% test equal_rowcount(model, compare_model, group_by_columns=[]) %}
{{ dbt_utils._row_counts(model, compare_model, group_by_columns) }}
having coalesce(sum(in_model), 0) <> coalesce(sum(in_other), 0)
{% endtest %}

{# Groups of which the model does not have fewer rows than the other relation. #}
{% test fewer_rows_than(model, compare_model, group_by_columns=[]) %}
{{ dbt_utils._row_counts(model, compare_model, group_by_columns) }}
having coalesce(sum(in_model), 0) >= coalesce(sum(in_other), 0)
{% endtest %}

{# Rows that are in one of two relations only, with which one; how often a row stands in it does not
   count. `precision`: digits behind the point in which numbers are compared. #}
{% test equality(model, compare_model, compare_columns=none, exclude_columns=none, precision=none) %}
{%- if compare_columns and exclude_columns -%}
    {%- do exceptions.raise_compiler_error('equality takes compare_columns or exclude_columns, not both') -%}
{%- endif -%}
{%- set included = compare_columns or [] -%}
{%- set excluded = exclude_columns or [] -%}
{%- set columns = dbt_utils._columns_in(model, included, excluded) -%}
{%- set others = dbt_utils._columns_in(compare_model, included, excluded) -%}
{%- if columns and others -%}
    {%- set names = columns | map(attribute='name') | map('lower') | list -%}
    {%- set other_names = others | map(attribute='name') | map('lower') | list -%}
    {%- set wanted = included | map('lower') | list if included else names + other_names -%}
    {%- for name in wanted if name not in names or name not in other_names -%}
        {%- do exceptions.raise_compiler_error(
            'equality: ' ~ model ~ ' and ' ~ compare_model ~ ' do not both have the column ' ~ name
            ~ ': name the columns by compare_columns or exclude_columns'
        ) -%}
    {%- endfor -%}
{%- endif -%}
{%- set items = [] -%}
{%- for column in columns or others -%}
    {%- if precision is not none and column.is_number() -%}
        {%- set number = 'cast(' ~ column.quoted ~ ' as double)' -%}
        {%- do items.append('round(' ~ number ~ ', ' ~ precision ~ ') as ' ~ column.quoted) -%}
    {%- else -%}
        {%- do items.append(column.quoted) -%}
    {%- endif -%}
{%- endfor -%}
{%- set selected = items | join(', ') if items else included | join(', ') or '*' -%}
with a as (
    select {{ selected }} from {{ model }} as tested
),
b as (
    select {{ selected }} from {{ compare_model }} as compared
)
select 'model only' as found_in, a_only.* from (select * from a except select * from b) as a_only
union all
select 'compare_model only' as found_in, b_only.* from (select * from b except select * from a) as b_only
{% endtest %}

{# Values that do not stand as often in a column as in that of another relation, with how often. #}
{% test cardinality_equality(model, column_name, to, field) %}
with a as (
    select {{ column_name }} as value_field, count(*) as n_records
    from {{ model }} as tested
    group by {{ column_name }}
),
b as (
    select {{ field }} as value_field, count(*) as n_records
    from {{ to }} as referenced
    group by {{ field }}
)
select 'model' as found_in, a_only.* from (select * from a except select * from b) as a_only
union all
select 'to' as found_in, b_only.* from (select * from b except select * from a) as b_only
{% endtest %}

{# Combinations of columns that stand in several rows, with how many; nulls are equal. #}
{% test unique_combination_of_columns(model, combination_of_columns, quote_columns=false) %}
{%- set items = [] -%}
{%- for column in combination_of_columns -%}
    {%- do items.append(adapter.quote(column) if quote_columns else column) -%}
{%- endfor -%}
{%- set columns = items | join(', ') -%}
select {{ columns }}, count(*) as n_records
from {{ model }} as tested
group by {{ columns }}
having count(*) > 1
{% endtest %}

{# A row if the newest time of a column lies further back than so many days, hours, ... from now;
   `ignore_time_component`: counted from today's begin. No rows at all are no failure. #}
{% test recency(
    model, field, datepart, interval, ignore_time_component=false, group_by_columns=[]
) %}
{%- set type = 'date' if ignore_time_component else dbt.type_timestamp() -%}
{%- set before = dbt.dateadd(datepart, (interval | int) * -1, dbt.current_timestamp()) -%}
{%- set threshold = 'cast(' ~ before ~ ' as ' ~ type ~ ')' -%}
{%- set newest = 'max(cast(' ~ field ~ ' as ' ~ type ~ '))' -%}
{%- set groups = group_by_columns | join(', ') -%}
select {% if groups %}{{ groups }}, {% endif %}{{ newest }} as most_recent, {{ threshold }} as threshold
from {{ model }} as tested
{% if groups %}group by {{ groups }}{% endif %}
having {{ newest }} < {{ threshold }}
{% endtest %}

{# Columns. #}

{# Rows for which the expression is false; behind the name of the column, if there is one. #}
{% test expression_is_true(model, expression, column_name=none) %}
select tested.*
from {{ model }} as tested
where not ({% if column_name %}{{ column_name }} {% endif %}{{ expression }})
{% endtest %}

{# A row, or one per group, if the column has no value. #}
{% test at_least_one(model, column_name, group_by_columns=[]) %}
{%- set groups = group_by_columns | join(', ') -%}
select {% if groups %}{{ groups }}, {% endif %}count({{ column_name }}) as n_values
from {{ model }} as tested
{% if groups %}group by {{ groups }}{% endif %}
having count({{ column_name }}) = 0
{% endtest %}

{# A row, or one per group, if the column has one value only. #}
{% test not_constant(model, column_name, group_by_columns=[]) %}
{%- set groups = group_by_columns | join(', ') -%}
select {% if groups %}{{ groups }}, {% endif %}count(distinct {{ column_name }}) as n_values
from {{ model }} as tested
{% if groups %}group by {{ groups }}{% endif %}
having count(distinct {{ column_name }}) = 1
{% endtest %}

{# Rows with an empty text. `trim_whitespace`: blanks are empty too. #}
{% test not_empty_string(model, column_name, trim_whitespace=true) %}
select tested.*
from {{ model }} as tested
where {% if trim_whitespace %}btrim({{ column_name }}){% else %}{{ column_name }}{% endif %} = ''
{% endtest %}

{# A row, or one per group, if the part of the rows with a value is not in the range, from 0 to 1. #}
{% test not_null_proportion(model, column_name, at_least=none, at_most=1.0, group_by_columns=[]) %}
{%- if at_least is none -%}
    {%- do exceptions.raise_compiler_error('not_null_proportion needs at_least') -%}
{%- endif -%}
{%- set groups = group_by_columns | join(', ') -%}
{%- set proportion = '(cast(count(' ~ column_name ~ ') as double) / nullif(count(*), 0))' -%}
select {% if groups %}{{ groups }}, {% endif %}{{ proportion }} as not_null_proportion
from {{ model }} as tested
{% if groups %}group by {{ groups }}{% endif %}
having {{ proportion }} < {{ at_least }} or {{ proportion }} > {{ at_most }}
{% endtest %}

{# Values that are among those listed, with their number of rows. `quote`: these are texts. #}
{% test not_accepted_values(model, column_name, values, quote=true) %}
select {{ column_name }} as value_field, count(*) as n_records
from {{ model }} as tested
where {{ column_name }} in (
    {%- for value in values -%}
        {%- if quote %}'{{ value | string | replace("'", "''") }}'{% else %}{{ value }}{% endif -%}
        {%- if not loop.last %}, {% endif -%}
    {%- endfor -%}
)
group by {{ column_name }}
{% endtest %}

{# Values, of rows under a condition, that are not among those of another column under a condition. #}
{% test relationships_where(
    model, column_name, to, field, from_condition='1 = 1', to_condition='1 = 1'
) %}
with child as (
    select {{ column_name }} as from_field
    from {{ model }} as tested
    where {{ column_name }} is not null and ({{ from_condition }})
),
parent as (
    select {{ field }} as to_field
    from {{ to }} as referenced
    where {{ field }} is not null and ({{ to_condition }})
)
select child.from_field
from child
left join parent on child.from_field = parent.to_field
where parent.to_field is null
{% endtest %}

{# Rows whose value is not between two others; these count as within if `inclusive`. #}
{% test accepted_range(model, column_name, min_value=none, max_value=none, inclusive=true) %}
{%- if min_value is none and max_value is none -%}
    {%- do exceptions.raise_compiler_error('accepted_range needs min_value, max_value or both') -%}
{%- endif -%}
{%- set equal = '=' if inclusive else '' -%}
{%- set failures = [] -%}
{%- if min_value is not none -%}
    {%- do failures.append('not (' ~ column_name ~ ' >' ~ equal ~ ' ' ~ min_value ~ ')') -%}
{%- endif -%}
{%- if max_value is not none -%}
    {%- do failures.append('not (' ~ column_name ~ ' <' ~ equal ~ ' ' ~ max_value ~ ')') -%}
{%- endif -%}
select tested.*
from {{ model }} as tested
where {{ failures | join(' or ') }}
{% endtest %}

{# Ranges and sequences. #}

{# Ranges that do not begin before they end, or do not end where `gaps` wants it: 'allowed' is at the
   begin of the next one at the latest, 'not_allowed' at it, 'required' before it. #}
{% test mutually_exclusive_ranges(
    model, lower_bound_column, upper_bound_column, partition_by=none, gaps='allowed',
    zero_length_range_allowed=false
) %}
{%- set ends = {'allowed': '<=', 'not_allowed': '=', 'required': '<'} -%}
{%- if gaps not in ends -%}
    {%- do exceptions.raise_compiler_error(
        "mutually_exclusive_ranges: gaps is 'allowed', 'not_allowed' or 'required', not " ~ gaps
    ) -%}
{%- endif -%}
with followed as (
    select
        {% if partition_by %}{{ partition_by }} as partition_by_col,{% endif %}
        {{ lower_bound_column }} as lower_bound,
        {{ upper_bound_column }} as upper_bound,
        lead({{ lower_bound_column }}) over in_order as next_lower_bound,
        lead(1) over in_order is null as is_last
    from {{ model }} as tested
    window in_order as (
        {% if partition_by %}partition by {{ partition_by }} {% endif -%}
        order by {{ lower_bound_column }}, {{ upper_bound_column }}
    )
)
select *
from followed
where not coalesce(lower_bound {{ '<=' if zero_length_range_allowed else '<' }} upper_bound, false)
    or not coalesce(upper_bound {{ ends[gaps] }} next_lower_bound, is_last)
{% endtest %}

{# Rows whose value does not follow the one before by the interval: a number, or so many days,
   months, ... where there is a date part. #}
{% test sequential_values(model, column_name, interval=1, datepart=none, group_by_columns=[]) %}
{%- set groups = group_by_columns | join(', ') -%}
{%- set type = dbt.type_timestamp() -%}
with followed as (
    select
        {% if groups %}{{ groups }},{% endif %}
        {{ column_name }} as this_value,
        lag({{ column_name }}) over (
            {% if groups %}partition by {{ groups }} {% endif %}order by {{ column_name }}
        ) as previous_value
    from {{ model }} as tested
)
select *
from followed
{% if datepart -%}
where cast(this_value as {{ type }}) <> cast({{ dbt.dateadd(datepart, interval, 'previous_value') }} as {{ type }})
{%- else -%}
where this_value <> previous_value + {{ interval }}
{%- endif %}
{% endtest %}
