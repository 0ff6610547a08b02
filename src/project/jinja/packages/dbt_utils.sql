{# The everyday macros of dbt_utils, for this engine. Each is compiled alone. #}

{# Columns of relations. #}

{# The columns of a relation that are included, or all, but the excluded ones; case does not count. #}
{% macro _columns_in(relation, included, excluded) -%}
    {%- set taken = included | map('lower') | list -%}
    {%- set left_out = excluded | map('lower') | list -%}
    {%- set columns = [] -%}
    {%- for column in adapter.get_columns_in_relation(relation) -%}
        {%- set name = column.name | lower -%}
        {%- if (not taken or name in taken) and name not in left_out -%}
            {%- do columns.append(column) -%}
        {%- endif -%}
    {%- endfor -%}
    {%- do return(columns) -%}
{%- endmacro %}

{# The names of the columns of a relation without the excepted ones, a list; case does not count. #}
{% macro get_filtered_columns_in_relation(from, except=[]) -%}
    {%- do return(_columns_in(from, [], except) | map(attribute='name') | list) -%}
{%- endmacro %}

{# What to select for all columns of a relation but the excepted ones. `relation_alias`: put before
   the columns. `prefix`, `suffix`: put around their new names. #}
{% macro star(from, relation_alias=false, except=[], prefix='', suffix='', quote_identifiers=true) -%}
    {%- if not execute -%}{%- do return('*') -%}{%- endif -%}
    {%- set before = relation_alias ~ '.' if relation_alias else '' -%}
    {%- set items = [] -%}
    {%- for name in get_filtered_columns_in_relation(from, except) -%}
        {%- set item = before ~ (adapter.quote(name) if quote_identifiers else name) -%}
        {%- if prefix or suffix -%}
            {%- set renamed = prefix ~ name ~ suffix -%}
            {%- set item = item ~ ' as ' ~ (adapter.quote(renamed) if quote_identifiers else renamed) -%}
        {%- endif -%}
        {%- do items.append(item) -%}
    {%- endfor -%}
    {%- if not items -%}{%- do return('/* no columns are left of ' ~ from ~ ' */') -%}{%- endif -%}
    {%- do return(items | join(',\n  ')) -%}
{%- endmacro %}

{# What to select for a list of columns with null instead of ''. #}
{% macro nullcheck(cols) -%}
    {%- set items = [] -%}
    {%- for col in cols -%}
        {%- if col.is_string() -%}
            {%- do items.append("nullif(" ~ col.quoted ~ ", '') as " ~ col.quoted) -%}
        {%- else -%}
            {%- do items.append(col.quoted) -%}
        {%- endif -%}
    {%- endfor -%}
    {{ items | join(',\n  ') }}
{%- endmacro %}

{# A query of a relation with null instead of ''. #}
{% macro nullcheck_table(relation) -%}
    select {{ nullcheck(adapter.get_columns_in_relation(relation)) if execute else '*' }} from {{ relation }}
{%- endmacro %}

{# Queries over relations. #}

{# All rows of several relations, the columns that one lacks being null. Columns have the type of the
   first relation that has them, unless `column_override` (name: type) says another. `include` or
   `exclude`: names of columns. `source_column_name`: column with the name of the relation; none: no
   such column. `where`: a condition on the rows of each. #}
{% macro union_relations(
    relations, column_override=none, include=[], exclude=[],
    source_column_name='_dbt_source_relation', where=none
) -%}
    {%- if include and exclude -%}
        {%- do exceptions.raise_compiler_error('union_relations takes include or exclude, not both') -%}
    {%- endif -%}
    {%- if not execute -%}{%- do return('') -%}{%- endif -%}
    {%- set types = {} -%}
    {%- set present = [] -%}
    {%- for relation in relations -%}
        {%- set names = [] -%}
        {%- for column in _columns_in(relation, include, exclude) -%}
            {%- do names.append(column.name) -%}
            {%- if column.name not in types -%}
                {%- do types.update({column.name: column.data_type}) -%}
            {%- endif -%}
        {%- endfor -%}
        {%- do present.append(names) -%}
    {%- endfor -%}
    {%- if not types -%}
        {%- do exceptions.raise_compiler_error('union_relations: there is no column to select') -%}
    {%- endif -%}
    {%- set overrides = column_override or {} -%}
    {%- set queries = [] -%}
    {%- for relation in relations -%}
        {%- set names = present[loop.index0] -%}
        {%- set items = [] -%}
        {%- if source_column_name -%}
            {%- set text = relation | string | replace("'", "''") -%}
            {%- do items.append("cast('" ~ text ~ "' as varchar) as " ~ adapter.quote(source_column_name)) -%}
        {%- endif -%}
        {%- for name, type in types.items() -%}
            {%- set quoted = adapter.quote(name) -%}
            {%- set value = quoted if name in names else 'null' -%}
            {%- do items.append('cast(' ~ value ~ ' as ' ~ overrides.get(name, type) ~ ') as ' ~ quoted) -%}
        {%- endfor -%}
        {%- set filter = '\nwhere ' ~ where if where else '' -%}
        {%- set selected = items | join(',\n  ') -%}
        {%- do queries.append('(select\n  ' ~ selected ~ '\nfrom ' ~ relation ~ filter ~ ')') -%}
    {%- endfor -%}
    {{ queries | join('\nunion all\n') }}
{%- endmacro %}

{# A row per row and column: the columns of `exclude` as they are, the name of the column and its
   value as `cast_to`. Columns of `remove` are left out. `quote_identifiers`: quotes the two names. #}
{% macro unpivot(
    relation=none, cast_to='varchar', exclude=none, remove=none, field_name='field_name',
    value_name='value', quote_identifiers=false
) -%}
    {%- if not relation -%}
        {%- do exceptions.raise_compiler_error('unpivot needs a relation') -%}
    {%- endif -%}
    {%- if not execute -%}{%- do return('') -%}{%- endif -%}
    {%- set kept = (exclude or []) | map('lower') | list -%}
    {%- set left_out = (remove or []) | map('lower') | list -%}
    {%- set columns = adapter.get_columns_in_relation(relation) -%}
    {%- set before = [] -%}
    {%- for name in kept -%}
        {%- for column in columns if column.name | lower == name -%}
            {%- do before.append(column.quoted) -%}
        {%- else -%}
            {%- do exceptions.raise_compiler_error('unpivot: there is no column ' ~ name ~ ' in ' ~ relation) -%}
        {%- endfor -%}
    {%- endfor -%}
    {%- set field = adapter.quote(field_name) if quote_identifiers else field_name -%}
    {%- set value = adapter.quote(value_name) if quote_identifiers else value_name -%}
    {%- set queries = [] -%}
    {%- for column in columns if column.name | lower not in kept and column.name | lower not in left_out -%}
        {%- set text = column.name | replace("'", "''") -%}
        {%- set items = before + [
            "cast('" ~ text ~ "' as varchar) as " ~ field,
            'cast(' ~ column.quoted ~ ' as ' ~ cast_to ~ ') as ' ~ value
        ] -%}
        {%- do queries.append('select ' ~ items | join(', ') ~ ' from ' ~ relation) -%}
    {%- endfor -%}
    {{ queries | join('\nunion all\n') }}
{%- endmacro %}

{# A column per value of a column: by default, how many rows have it. `cmp` compares the column with
   the value; `agg` is over `then_value` where that is so and `else_value` elsewhere. `alias`: whether
   columns are named, as prefix, value, suffix. #}
{% macro pivot(
    column, values, alias=true, agg='sum', cmp='=', prefix='', suffix='', then_value=1, else_value=0,
    quote_identifiers=true, distinct=false
) -%}
    {%- set items = [] -%}
    {%- for value in values -%}
        {%- set text = value | string | replace("'", "''") -%}
        {%- set condition = column ~ ' ' ~ cmp ~ " '" ~ text ~ "'" -%}
        {%- set item = agg ~ '(' ~ ('distinct ' if distinct else '')
            ~ 'case when ' ~ condition ~ ' then ' ~ then_value ~ ' else ' ~ else_value ~ ' end)' -%}
        {%- if alias -%}
            {%- set name = prefix ~ value ~ suffix -%}
            {%- set item = item ~ ' as ' ~ (adapter.quote(name) if quote_identifiers else slugify(name)) -%}
        {%- endif -%}
        {%- do items.append(item) -%}
    {%- endfor -%}
    {{ items | join(',\n  ') }}
{%- endmacro %}

{# The first row in `order_by` of each group of `partition_by`, of a relation or CTE. #}
{% macro deduplicate(relation, partition_by, order_by) -%}
    select * exclude (__nth)
    from (
        select *, row_number() over (partition by {{ partition_by }} order by {{ order_by }}) as __nth
        from {{ relation }} as rows_of_relation
    ) as numbered
    where __nth = 1
{%- endmacro %}

{# Series. #}

{# A query of the column date_<datepart>, from the start to before the end. #}
{% macro date_spine(datepart, start_date, end_date) -%}
    {{ dbt.date_spine(datepart, start_date, end_date) }}
{%- endmacro %}

{# A query of one column, generated_number: 1, 2, ... up to the bound, which is part of it. #}
{% macro generate_series(upper_bound) -%}{{ dbt.generate_series(upper_bound) }}{%- endmacro %}

{# Parts of queries. #}

{# A grouping by the first n columns. #}
{% macro group_by(n) -%}group by {{ range(1, n + 1) | join(', ') }}{%- endmacro %}

{# A key of 32 hexadecimal digits made of columns or expressions; nulls differ from '', unless the
   variable `surrogate_key_treat_nulls_as_empty_strings` is set. #}
{% macro generate_surrogate_key(field_list) -%}
    {%- set fields = [field_list] if field_list is string else field_list -%}
    {%- set absent = '' if var('surrogate_key_treat_nulls_as_empty_strings', false)
        else '_dbt_utils_surrogate_key_null_' -%}
    {%- set items = [] -%}
    {%- for field in fields -%}
        {%- do items.append('coalesce(cast(' ~ field ~ " as varchar), '" ~ absent ~ "')") -%}
    {%- endfor -%}
    {%- if not items -%}
        {%- do exceptions.raise_compiler_error('generate_surrogate_key needs a list of columns') -%}
    {%- endif -%}
    md5({{ items | join(" || '-' || ") }})
{%- endmacro %}

{# An older name that dbt_utils took back. #}
{% macro surrogate_key(field_list) -%}
    {%- do exceptions.raise_compiler_error(
        'surrogate_key is gone: use generate_surrogate_key, whose keys differ where a column is null'
    ) -%}
{%- endmacro %}

{# Numbers. #}

{# The sum of a list of columns, null being 0. #}
{% macro safe_add(field_list) -%}{{ _of_list('safe_add', field_list, ' + ') }}{%- endmacro %}

{# The first of a list of columns less the others, null being 0. #}
{% macro safe_subtract(field_list) -%}{{ _of_list('safe_subtract', field_list, ' - ') }}{%- endmacro %}

{# The columns of a list, null being 0, with an operator between them. #}
{% macro _of_list(name, field_list, operator) -%}
    {%- if field_list is string or field_list is not iterable -%}
        {%- do exceptions.raise_compiler_error(name ~ ' needs a list of columns: ' ~ name ~ "(['a', 'b'])") -%}
    {%- endif -%}
    {%- set items = [] -%}
    {%- for field in field_list -%}
        {%- do items.append('coalesce(' ~ field ~ ', 0)') -%}
    {%- endfor -%}
    ({{ items | join(operator) }})
{%- endmacro %}

{# A ratio, null where the denominator is 0; of two integers it is an integer. #}
{% macro safe_divide(numerator, denominator) -%}
    (({{ numerator }}) / nullif(({{ denominator }}), 0))
{%- endmacro %}

{# The number of the bucket, from 1, of equal buckets between two values; 0 below the first of these,
   one more than there are from the second on. #}
{% macro width_bucket(expr, min_value, max_value, num_buckets) -%}
    case
        when ({{ expr }}) < ({{ min_value }}) then 0
        when ({{ expr }}) >= ({{ max_value }}) then ({{ num_buckets }}) + 1
        else cast(floor(
            (cast(({{ expr }}) as double) - ({{ min_value }})) * ({{ num_buckets }})
            / (cast(({{ max_value }}) as double) - ({{ min_value }}))
        ) as bigint) + 1
    end
{%- endmacro %}

{# Degrees as radians. #}
{% macro degrees_to_radians(degrees) -%}radians({{ degrees }}){%- endmacro %}

{# The distance of two points on the globe, given in degrees; in miles ('mi') or kilometres ('km'). #}
{% macro haversine_distance(lat1, lon1, lat2, lon2, unit='mi') -%}
    {%- if unit not in ['mi', 'km'] -%}
        {%- do exceptions.raise_compiler_error("haversine_distance: unit is 'mi' or 'km', not " ~ unit) -%}
    {%- endif -%}
    {%- set factor = '' if unit == 'mi' else ' * 1.60934' -%}
    (2 * 3961 * asin(sqrt(
        power(sin(radians(({{ lat2 }}) - ({{ lat1 }})) / 2), 2)
        + cos(radians({{ lat1 }})) * cos(radians({{ lat2 }}))
        * power(sin(radians(({{ lon2 }}) - ({{ lon1 }})) / 2), 2)
    )){{ factor }})
{%- endmacro %}

{# Addresses of the web. #}

{# The value of a parameter in an address; null if it is not there or empty. #}
{% macro get_url_parameter(field, url_parameter) -%}
    nullif(split_part(split_part({{ field }}, '{{ url_parameter }}=', 2), '&', 1), '')
{%- endmacro %}

{# The host of an address, without scheme, path and parameters. #}
{% macro get_url_host(field) -%}
    split_part(split_part(regexp_replace({{ field }}, '^(https?|android-app)://', ''), '/', 1), '?', 1)
{%- endmacro %}

{# The path of an address, without the slash before it and without parameters; '' if there is none. #}
{% macro get_url_path(field) -%}
    regexp_replace(split_part(regexp_replace({{ field }}, '^https?://', ''), '?', 1), '^[^/]*/?', '')
{%- endmacro %}

{# Names and messages. #}

{# A text as a name without quotes: lower case, digits and underscores. #}
{% macro slugify(string) -%}
    {%- set slug = namespace(text='', is_gap=false) -%}
    {%- for letter in (string | default('', true) | string | lower) -%}
        {%- if letter in ' -' -%}
            {%- if not slug.is_gap -%}{%- set slug.text = slug.text ~ '_' -%}{%- endif -%}
            {%- set slug.is_gap = true -%}
        {%- else -%}
            {%- if letter in 'abcdefghijklmnopqrstuvwxyz0123456789_' -%}
                {%- set slug.text = slug.text ~ letter -%}
            {%- endif -%}
            {%- set slug.is_gap = false -%}
        {%- endif -%}
    {%- endfor -%}
    {%- if slug.text and slug.text | first in '0123456789' -%}
        {%- do return('_' ~ slug.text) -%}
    {%- endif -%}
    {%- do return(slug.text) -%}
{%- endmacro %}

{# Nothing: rendering has no clock. #}
{% macro pretty_time(format='%H:%M:%S') -%}{%- endmacro %}

{# The message itself. #}
{% macro pretty_log_format(message='') -%}{{ message }}{%- endmacro %}

{# Nothing: what is rendered again and again is not logged. #}
{% macro log_info(message='') -%}{%- endmacro %}

{# Nothing: any relation will do. #}
{% macro _is_relation(obj, macro) -%}{%- endmacro %}
{% macro _is_ephemeral(obj, macro) -%}{%- endmacro %}

{# Tests. #}

{# A query of the groups of two relations, with the rows that each has of them. #}
{% macro _row_counts(model, compare_model, group_by_columns) -%}
    {%- set names = [] -%}
    {%- set items = [] -%}
    {%- for column in group_by_columns -%}
        {%- do names.append('group_' ~ loop.index) -%}
        {%- do items.append(column ~ ' as group_' ~ loop.index) -%}
    {%- endfor -%}
    {%- set names = names | join(', ') -%}
    {%- set items = items | join(', ') -%}
    {%- set comma = ', ' if names else '' -%}
    select {{ names }}{{ comma }}sum(in_model) as count_model, sum(in_other) as count_other
    from (
        select {{ items }}{{ comma }}1 as in_model, 0 as in_other from {{ model }} as tested
        union all
        select {{ items }}{{ comma }}0 as in_model, 1 as in_other from {{ compare_model }} as compared
    ) as both_of_them
    {%- if names %} group by {{ names }}{% endif %}
{%- endmacro %}

{# How many powers of two it takes to count up to a bound. #}
{% macro get_powers_of_two(upper_bound) -%}
    {%- if upper_bound <= 0 -%}
        {{ exceptions.raise_compiler_error('upper bound must be positive') }}
    {%- endif -%}
    {%- set found = namespace(powers=none) -%}
    {%- for n in range(1, 100) -%}
        {%- if found.powers is none and upper_bound <= 2 ** n -%}
            {%- set found.powers = n -%}
        {%- endif -%}
    {%- endfor -%}
    {{ return(found.powers) }}
{%- endmacro %}
