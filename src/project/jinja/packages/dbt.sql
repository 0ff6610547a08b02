{# The macros of dbt that authors of models call, for this engine. Each is compiled alone. #}

{# Types. #}

{# Text of any length. #}
{% macro type_string() -%}varchar{%- endmacro %}

{# A decimal of 28 digits, 6 of them behind the point. #}
{% macro type_numeric() -%}numeric(28, 6){%- endmacro %}

{# Whole numbers of 64 bits. #}
{% macro type_bigint() -%}bigint{%- endmacro %}

{# Whole numbers of 32 bits. #}
{% macro type_int() -%}integer{%- endmacro %}

{# Floats of 64 bits; `float` itself has 32 here. #}
{% macro type_float() -%}double{%- endmacro %}

{# True and false. #}
{% macro type_boolean() -%}boolean{%- endmacro %}

{# Times in microseconds, as tables store them; without a precision they would end in 2262. #}
{% macro type_timestamp() -%}timestamp(6){%- endmacro %}

{# Casts. #}

{# A value as a type; what does not fit is an error. #}
{% macro cast(field, type) -%}cast({{ field }} as {{ type }}){%- endmacro %}

{# A value as a type; null where it does not fit. #}
{% macro safe_cast(field, type) -%}try_cast({{ field }} as {{ type }}){%- endmacro %}

{# The text 'true' or 'false'. #}
{% macro cast_bool_to_text(field) -%}cast({{ field }} as varchar){%- endmacro %}

{# Aggregates. #}

{# One value of the group that is not null: the least, so that it is always the same one. #}
{% macro any_value(expression) -%}min({{ expression }}){%- endmacro %}

{# Whether it is true in any row of the group. #}
{% macro bool_or(expression) -%}bool_or({{ expression }}){%- endmacro %}

{# The values of the group in one text. `order_by_clause` begins with `order by`; `limit_num`: the
   first so many values. #}
{% macro listagg(measure, delimiter_text="','", order_by_clause=none, limit_num=none) -%}
    {%- set measured = measure ~ (' ' ~ order_by_clause if order_by_clause else '') -%}
    {%- if limit_num -%}
        array_to_string(array_slice(array_agg({{ measured }}), 1, {{ limit_num }}), {{ delimiter_text }})
    {%- elif order_by_clause -%}
        string_agg({{ measure }}, {{ delimiter_text }} {{ order_by_clause }})
    {%- else -%}
        string_agg({{ measure }}, {{ delimiter_text }})
    {%- endif -%}
{%- endmacro %}

{# Arrays. #}

{# An array of the given expressions; `data_type` is that of the items of an empty one. #}
{% macro array_construct(inputs=[], data_type='integer') -%}
    {%- if inputs -%}
        make_array({{ inputs | join(', ') }})
    {%- else -%}
        cast(make_array() as {{ data_type }}[])
    {%- endif -%}
{%- endmacro %}

{# The array with one more item at its end. #}
{% macro array_append(array, new_element) -%}array_append({{ array }}, {{ new_element }}){%- endmacro %}

{# The items of both arrays. #}
{% macro array_concat(array_1, array_2) -%}array_concat({{ array_1 }}, {{ array_2 }}){%- endmacro %}

{# Sets. #}

{# Between two queries: the rows of the first that are not in the second, each once. #}
{% macro except() -%}except{%- endmacro %}

{# Between two queries: the rows that are in both, each once. #}
{% macro intersect() -%}intersect{%- endmacro %}

{# Whether two values are equal; two nulls are. #}
{% macro equals(expr1, expr2) -%}({{ expr1 }}) is not distinct from ({{ expr2 }}){%- endmacro %}

{# A query of one column, generated_number: 1, 2, ... up to the bound, which is part of it. #}
{% macro generate_series(upper_bound) -%}
    select unnest(range(1, {{ upper_bound }} + 1)) as generated_number
{%- endmacro %}

{# Texts. #}

{# The texts of a list one behind the other; null if one is. #}
{% macro concat(fields) -%}({{ fields | join(' || ') }}){%- endmacro %}

{# A text for use between single quotes. #}
{% macro escape_single_quotes(expression) -%}{{ expression | replace("'", "''") }}{%- endmacro %}

{# A literal of a text whose quotes are escaped already. #}
{% macro string_literal(value) -%}'{{ value }}'{%- endmacro %}

{# The MD5 of the value's text: 32 hexadecimal digits. #}
{% macro hash(field) -%}md5(cast({{ field }} as varchar)){%- endmacro %}

{# Characters of a text. #}
{% macro length(expression) -%}length({{ expression }}){%- endmacro %}

{# Where a text begins in another, from 1; 0 if it is not there. #}
{% macro position(substring_text, string_text) -%}
    strpos({{ string_text }}, {{ substring_text }})
{%- endmacro %}

{# A text with every occurrence of one text replaced by another. #}
{% macro replace(field, old_chars, new_chars) -%}
    replace({{ field }}, {{ old_chars }}, {{ new_chars }})
{%- endmacro %}

{# The last characters of a text. #}
{% macro right(string_text, length_expression) -%}
    right({{ string_text }}, {{ length_expression }})
{%- endmacro %}

{# A part of a text between delimiters, from 1, or from the end if negative; '' if there is none. #}
{% macro split_part(string_text, delimiter_text, part_number) -%}
    split_part({{ string_text }}, {{ delimiter_text }}, {{ part_number }})
{%- endmacro %}

{# Dates and times. All are in UTC. #}

{# The time at which the statement runs. #}
{% macro current_timestamp() -%}now(){%- endmacro %}

{# The same, by its older names. #}
{% macro current_timestamp_backcompat() -%}now(){%- endmacro %}
{% macro current_timestamp_in_utc_backcompat() -%}now(){%- endmacro %}

{# A date of its numbers. #}
{% macro date(year, month, day) -%}make_date({{ year }}, {{ month }}, {{ day }}){%- endmacro %}

{# The begin of the day, week (Monday), month, ... in which it is, as a timestamp. #}
{% macro date_trunc(datepart, date) -%}date_trunc('{{ datepart | lower }}', {{ date }}){%- endmacro %}

{# A date or time moved on by so many days, months, ...; `interval` is a number or an expression. A
   date stays one for days and longer parts, and is a timestamp for shorter ones. #}
{% macro dateadd(datepart, interval, from_date_or_timestamp) -%}
    {%- set units = {
        'year': ['month', 12], 'quarter': ['month', 3], 'month': ['month', 1],
        'week': ['day', 7], 'day': ['day', 1],
        'hour': ['hour', 1], 'minute': ['minute', 1], 'second': ['second', 1],
        'millisecond': ['millisecond', 1], 'microsecond': ['microsecond', 1]
    } -%}
    {%- set part = datepart | string | trim | lower -%}
    {%- if part not in units -%}
        {%- do exceptions.raise_compiler_error('dateadd: there is no date part ' ~ datepart) -%}
    {%- endif -%}
    {%- set unit = units[part][0] -%}
    {%- set times = units[part][1] -%}
    {%- set from = from_date_or_timestamp | string | trim -%}
    {%- set is_text = from.startswith("'") and '::' not in from -%}
    {%- set base = from if unit in ['month', 'day'] and not is_text
        else 'cast(' ~ from ~ ' as timestamp(6))' -%}
    {%- if interval is number -%}
        ({{ base }} + interval '{{ interval * times }} {{ unit }}')
    {%- else -%}
        {%- set scaled = '(' ~ interval ~ ')' ~ (' * ' ~ times if times > 1 else '') -%}
        ({{ base }} + cast(cast({{ scaled }} as varchar) || ' {{ unit }}' as interval))
    {%- endif -%}
{%- endmacro %}

{# How many begins of days, weeks (Mondays), months, ... lie between two dates or times, a BIGINT:
   negative if the first one is later. Days and microseconds are counted from 0001-01-01, a Monday. #}
{% macro datediff(first_date, second_date, datepart) -%}
    {%- set micros = {
        'hour': 3600000000, 'minute': 60000000, 'second': 1000000, 'millisecond': 1000, 'microsecond': 1
    } -%}
    {%- set part = datepart | string | trim | lower -%}
    {%- set counts = [] -%}
    {%- for moment in [second_date, first_date] -%}
        {%- set day = 'cast(' ~ moment ~ ' as date)' -%}
        {%- set year = "date_part('year', " ~ day ~ ')' -%}
        {%- if part == 'day' -%}
            {%- do counts.append(day) -%}
        {%- elif part == 'week' -%}
            {%- do counts.append('(' ~ day ~ " - date '0001-01-01') / 7") -%}
        {%- elif part == 'month' -%}
            {%- do counts.append('(' ~ year ~ " * 12 + date_part('month', " ~ day ~ '))') -%}
        {%- elif part == 'quarter' -%}
            {%- do counts.append('(' ~ year ~ " * 4 + date_part('quarter', " ~ day ~ '))') -%}
        {%- elif part == 'year' -%}
            {%- do counts.append(year) -%}
        {%- elif part in micros -%}
            {%- set time = 'cast(cast(' ~ moment ~ ' as timestamp(6)) as bigint)' -%}
            {%- do counts.append('(' ~ time ~ ' + 62135596800000000) / ' ~ micros[part]) -%}
        {%- else -%}
            {%- do exceptions.raise_compiler_error('datediff: there is no date part ' ~ datepart) -%}
        {%- endif -%}
    {%- endfor -%}
    cast({{ counts | join(' - ') }} as bigint)
{%- endmacro %}

{# The last day of the week, month, quarter or year in which it is. #}
{% macro last_day(date, datepart) -%}
    {%- set part = datepart | string | trim | lower -%}
    {%- set day = 'cast(' ~ date ~ ' as date)' -%}
    {%- set month = {
        'month': "date_part('month', " ~ day ~ ')',
        'quarter': "date_part('quarter', " ~ day ~ ') * 3',
        'year': '12'
    } -%}
    {%- if part == 'week' -%}
        cast(date_trunc('week', {{ day }}) + interval '6 day' as date)
    {%- elif part in month -%}
        (make_date(date_part('year', {{ day }}), {{ month[part] }}, 1)
            + interval '1 month' - interval '1 day')
    {%- else -%}
        {%- do exceptions.raise_compiler_error('last_day: there is no date part ' ~ datepart) -%}
    {%- endif -%}
{%- endmacro %}

{# A query of one column, date_day or whatever the part is: the start, one part later, and so on
   before the end, which is no part of it. #}
{% macro date_spine(datepart, start_date, end_date) -%}
    select {{ dateadd(datepart, 'nth', start_date) }} as date_{{ datepart }}
    from (select unnest(range(0, {{ datediff(start_date, end_date, datepart) }})) as nth) as periods
{%- endmacro %}
