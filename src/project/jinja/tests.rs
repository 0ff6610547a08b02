//! Templates as dbt projects write them.

use std::sync::Arc;

use crate::{
    domain::TableName,
    project::{Diagnostics, Materialized, Options, Project, load, load_with},
};

const STREAM: &str = "name: clicks\nfields:\n  - {name: id, type: text, required: true}\n";

/// A project of the given files beside a stream.
fn project(files: &[(&str, &str)]) -> (tempfile::TempDir, Result<Project, Diagnostics>) {
    let dir = tempfile::tempdir().expect("folder");
    for (name, text) in [("streams/clicks.yml", STREAM)].iter().chain(files) {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().expect("parent")).expect("folder");
        std::fs::write(path, text).expect("file");
    }
    let loaded = load(dir.path());
    (dir, loaded)
}

fn sound(files: &[(&str, &str)]) -> Project {
    project(files).1.unwrap_or_else(|errors| panic!("{errors}"))
}

const HEAD: (&str, &str) = ("sluice.yml", "name: shop\nvars: {limit: 7, list: [1, 2]}\n");

/// What a model renders to, beside files of macros.
fn rendered(model: &str, macros: &[(&str, &str)]) -> String {
    let files = [&[HEAD, ("models/gold/m.sql", model)], macros].concat();
    sound(&files).models.remove(0).sql
}

/// The one error of a project with a model and files of macros: its place, its text.
fn error(model: &str, macros: &[(&str, &str)]) -> (String, String) {
    let files = [&[HEAD, ("models/gold/m.sql", model)], macros].concat();
    let errors = project(&files).1.expect_err("an error");
    let all: Vec<_> = errors.iter().collect();
    assert_eq!(all.len(), 1, "{errors}");
    let line = all[0].line.map(|line| line.to_string()).unwrap_or_default();
    (format!("{}:{line}", all[0].file.display()), all[0].to_string())
}

#[test]
fn templates_do_what_those_of_python_do() {
    for (template, sql) in [
        (
            "{% set a = [] %}{% for i in range(3) %}{% do a.append(i) %}{% endfor %}{{ a | join(',') }}",
            "0,1,2",
        ),
        ("{% set a = ['x'] + ['y'] %}{{ a | join('-') }} {{ a | length }}", "x-y 2"),
        (
            "{% set a = {'b': 1} %}{% do a.update({'c': 2}) %}{% for k, v in a.items() %}{{ k }}{{ v }}{% endfor %}",
            "b1c2",
        ),
        (
            "{% set a = {'z': 1, 'a': 2} %}{{ a.keys() | join }} {{ a.get('q', 5) }} {{ a['z'] }} {{ a.z }}",
            "za 5 1 1",
        ),
        ("{{ 'a_b'.split('_')[1].upper() }} {{ 'ab'.replace('a', 'c') }}", "B cb"),
        (
            "{% set ns = namespace(n=0) %}{% for i in [1, 2] %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}",
            "3",
        ),
        (
            "{% if not is_incremental() and 2 in [1, 2] and unset is not defined %}yes{% endif %}",
            "yes",
        ),
        (
            "{{ var('limit') }} {{ var('no', 'default') }} {% for x in var('list') %}{{ x }}{% endfor %}",
            "7 default 12",
        ),
        ("{% set t %}a{{ 1 }}b{% endset %}{{ t | upper }} {{ t | length }}", "A1B 3"),
        ("{% for i in [1, 2, 3] %}{{ i }}{{ ', ' if not loop.last }}{% endfor %}", "1, 2, 3"),
        ("a\n  {%- if true %} b{% endif -%}\n  c", "a bc"),
        (
            "{{ target.type }} {{ this.name }} {{ this.schema }} {{ config.get('tags', 'none') }}",
            "sluice m gold none",
        ),
        ("{{ config(tags=['a', 'b'], meta={'x': 1}) }}{{ config.get('tags') | join('+') }}", "a+b"),
        ("{% raw %}{{ x }}{% endraw %} {# a note #}", "{{ x }}"),
    ] {
        assert_eq!(rendered(template, &[]), sql, "{template}");
    }
}

#[test]
fn macros_return_values_and_call_each_other() {
    let macros = "{% macro pair(a, b=2) %}{{ return([a, b]) }}{% endmacro %}\n\
                  {% macro total(of) %}{% set ns = namespace(n=0) %}{% for x in of %}\
                  {% set ns.n = ns.n + x %}{% endfor %}{% do return(ns.n) %}not this{% endmacro %}\n\
                  {% macro both(x) -%} {{ total(pair(x)) }} {%- endmacro %}\n\
                  {% macro around() %}<{{ caller() }}>{% endmacro %}\n\
                  {% macro more(a) %}{{ a }} {{ varargs | join(',') }} {{ kwargs.b }}{% endmacro %}\n\
                  {% macro down(n) %}{% if n > 0 %}{{ n }}{{ down(n - 1) }}{% endif %}{% endmacro %}\n\
                  {% macro shout(x) %}{{ adapter.dispatch('shout')(x) }}{% endmacro %}\n\
                  {% macro default__shout(x) %}{{ x | upper }}{% endmacro %}\n\
                  {% macro type_string() %}text{% endmacro %}";
    let file = [("macros/m.sql", macros)];
    for (template, sql) in [
        ("{{ pair(1)[1] + 1 }}", "3"),
        ("{{ both(5) }} {{ shop.both(x=1) }}", "7 3"),
        ("{% call around() %}in{% endcall %}", "<in>"),
        ("{{ more(1, 2, 3, b=4) }}", "1 2,3 4"),
        ("{{ down(4) }}", "4321"),
        ("{{ shout('a') }}", "A"),
        // The project's macros stand before those that come with Sluice.
        ("{{ type_string() }} {{ dbt.type_string() }}", "text varchar"),
    ] {
        assert_eq!(rendered(template, &file), sql, "{template}");
    }
}

#[test]
fn macros_of_packages_are_called_by_their_package() {
    let files = [
        ("dbt_packages/tools/macros/a/t.sql", "{% macro one() %}1{{ two() }}{% endmacro %}"),
        ("dbt_packages/tools/macros/b.sql", "{% macro two() %}2{% endmacro %}"),
        ("dbt_packages/tools/models/x.sql", "{% not read %}"),
    ];
    assert_eq!(rendered("{{ tools.one() }}", &files), "12");
    let (place, text) = error("{{ tools.onne() }}", &files);
    assert_eq!(place, "models/gold/m.sql:1", "{text}");
    assert!(text.contains("package `tools` has no macro `onne`"), "{text}");
    assert!(text.contains("did you mean `one`?"), "{text}");
}

#[test]
fn an_error_in_a_template_is_placed() {
    let file = [("macros/m.sql", "\n{% macro bad(x) %}\n{{ x.nothing() }}{% endmacro %}")];
    for (template, place, message) in [
        ("select\n{{ bad('a') }}", "macros/m.sql:3", "nothing"),
        ("select\n{{ bad(1, 2) }}", "models/gold/m.sql:2", "too many arguments"),
        ("\n{% if x %}", "models/gold/m.sql:2", ""),
        ("select 'a'\nfrom {{ ref('m2') }}", "models/gold/m.sql:2", "no such model or seed"),
        ("\n{{ dbt_utils.surrogate_key(['a']) }}", "models/gold/m.sql:2", "generate_surrogate_key"),
        ("\n{{ run_query('select 1') }}", "models/gold/m.sql:2", "write the values"),
        ("\n{{ env_var('NOT_SET') }}", "models/gold/m.sql:2", "is not set"),
        ("select *\nfrom {{ this }}", "models/gold/m.sql:2", "cannot read itself"),
        ("\n{{ config(pre_hook='grant x') }}", "models/gold/m.sql:2", "pre_hook is not run"),
        ("\n{{ config(schema='bronze') }}", "models/gold/m.sql:2", "not for models"),
        ("\n{{ config(enabled='no') }}", "models/gold/m.sql:2", "true or false"),
        ("\n{{ exceptions.raise_compiler_error('so not') }}", "models/gold/m.sql:2", "so not"),
        ("\n{% set a = [1, %}", "models/gold/m.sql:2", ""),
    ] {
        let (at, text) = error(template, &file);
        assert_eq!(at, place, "{text}");
        assert!(text.contains(message), "{message} in {text}");
    }
}

#[test]
fn a_macro_that_calls_itself_for_ever_is_refused() {
    let file = [(
        "macros/m.sql",
        "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{% endmacro %}",
    )];
    let (place, text) = error("{{ a() }}", &file);
    assert!(place.starts_with("macros/m.sql:1"), "{text}");
    assert!(text.contains("does it call itself without an end?"), "{text}");
}

#[test]
fn a_wrong_file_of_macros_is_placed() {
    for (text, place, message) in [
        ("\n{% macro a() %}", "macros/m.sql:2", "no {% endmacro %}"),
        ("\n{% macro a() %}\n{% if %}{% endmacro %}", "macros/m.sql:3", ""),
        (
            "{% macro a() %}{% endmacro %}\n{% macro a() %}{% endmacro %}",
            "macros/m.sql:2",
            "is also in",
        ),
    ] {
        let (at, error) = error("select 1", &[("macros/m.sql", text)]);
        assert_eq!(at, place, "{error}");
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn dbt_project_names_folders_and_configures_them() {
    let head = "name: shop\nversion: '1.0'\nprofile: any\nmodel-paths: [transform]\nvars:\n  shop: \
                {who: me}\nmodels:\n  shop:\n    +tags: daily\n    staging:\n      +materialized: view\n      \
                +schema: silver\nseeds:\n  shop:\n    s: {+column_types: {a: text}}\n";
    let project = sound(&[
        ("dbt_project.yml", head),
        ("seeds/s.csv", "a\n1\n"),
        ("transform/staging/stg_a.sql", "select a from {{ ref('shop', 's') }}"),
        (
            "transform/orders.sql",
            "{{ config(alias='all_orders') }}select '{{ var('who') }}' as who",
        ),
        ("transform/later.sql", "select who from {{ ref('orders') }}"),
        ("transform/off.sql", "{{ config(enabled=false) }}select {{ 1 }} as one"),
    ]);
    assert_eq!(project.name, "shop");
    let model = |name: &str| project.models.iter().find(|model| model.name.name == name);
    let staged = model("stg_a").expect("a model");
    assert_eq!(staged.name, TableName::new("silver", "stg_a"));
    assert_eq!(
        (staged.materialized, staged.tags.as_slice()),
        (Materialized::View, &["daily".to_owned()][..])
    );
    assert_eq!(model("all_orders").expect("a model").sql, "select 'me' as who");
    assert_eq!(model("later").expect("a model").sql, "select who from \"gold\".\"all_orders\"");
    assert!(model("off").is_none());
    assert_eq!(project.seeds[0].rows.schema().field(0).data_type().to_string(), "Utf8");
}

#[test]
fn declared_sources_are_fed_by_streams_and_seeds() {
    let yml = "sources:\n  - name: web\n    tables:\n      - name: clicks\n      - {name: people, \
               identifier: raw_people}\n      - name: nowhere\n";
    let files = [
        HEAD,
        ("models/sources.yml", yml),
        ("seeds/raw_people.csv", "a\n1\n"),
        ("models/gold/a.sql", "select id from {{ source('web', 'clicks') }}"),
        ("models/gold/b.sql", "select a from {{ source('web', 'people') }}"),
    ];
    let models = sound(&files).models;
    assert_eq!(models[0].sql, "select id from \"accepted\".\"clicks\"");
    assert_eq!(models[0].sources, [TableName::new("bronze", "clicks")]);
    assert_eq!(models[1].sql, "select a from \"seeds\".\"raw_people\"");
    for (table, message) in [("nowhere", "nothing feeds it"), ("click", "did you mean `clicks`?")] {
        let sql = format!("select 1 as a from {{{{ source('web', '{table}') }}}}");
        let files = [files[0], files[1], files[2], ("models/gold/a.sql", &sql)];
        let text = project(&files).1.expect_err("an error").to_string();
        assert!(text.contains(message) && text.contains("models/gold/a.sql:1"), "{text}");
    }
}

#[test]
fn descriptions_quote_docs_blocks() {
    let md = "# Notes\n{% docs who %}\nThe *person*.\n{% enddocs %}\n";
    let yml = "models:\n  - name: m\n    description: '{{ doc(\"who\") }} Yes.'\n    columns:\n      - \
               {name: gone, description: \"{{ doc('who') }}\"}\n";
    let files = [
        HEAD,
        ("models/notes.md", md),
        ("models/gold/m.sql", "select 1 as a"),
        ("models/m.yml", yml),
    ];
    let model = sound(&files).models.remove(0);
    assert_eq!(model.description, "The *person*. Yes.");
    assert_eq!(model.columns["gone"], "The *person*.");
    let wrong = yml.replace("doc('who')", "doc('whom')");
    let text = project(&[files[0], files[1], files[2], ("models/m.yml", &wrong)]).1;
    let text = text.expect_err("an error").to_string();
    assert!(text.contains("models/m.yml:5") && text.contains("doc('whom')"), "{text}");
}

#[test]
fn environment_variables_are_read_where_they_are_given() {
    let (dir, _) =
        project(&[HEAD, ("models/gold/m.sql", "select '{{ env_var('WHO', 'nobody') }}' as who")]);
    let sql = |options: &Options| {
        let project = load_with(dir.path(), options).unwrap_or_else(|errors| panic!("{errors}"));
        project.models[0].sql.clone()
    };
    assert_eq!(sql(&Options::default()), "select 'nobody' as who");
    let variables = Arc::new(|name: &str| (name == "WHO").then(|| "me".to_owned()));
    assert_eq!(sql(&Options { variables }), "select 'me' as who");
}

#[test]
fn tests_of_the_project_and_of_packages_are_known() {
    let generic = "{% test is_even(model, column_name) %}select 1{% endtest %}";
    let yml = "models:\n  - name: m\n    data_tests: [dbt_utils.equal_rowcount: {compare_model: \
               ref('m')}]\n    columns:\n      - {name: a, data_tests: [is_even, not_null, \
               tools.is_even]}\n";
    let files = [
        HEAD,
        ("tests/generic/even.sql", generic),
        ("dbt_packages/tools/macros/even.sql", generic),
        ("models/gold/m.sql", "select 1 as a"),
        ("models/m.yml", yml),
    ];
    assert_eq!(sound(&files).models.len(), 1);
    let wrong = yml.replace("[is_even", "[is_evne");
    let text = project(&[&files[..4], &[("models/m.yml", &wrong)]].concat()).1;
    let text = text.expect_err("an error").to_string();
    assert!(text.contains("models/m.yml:5"), "{text}");
    assert!(text.contains("there is no test `is_evne`"), "{text}");
    assert!(text.contains("did you mean `is_even`?"), "{text}");
}

#[test]
fn a_seed_that_is_not_parted_by_commas_is_refused() {
    let yml = "seeds:\n  - name: s\n    config: {delimiter: ';'}\n";
    let text = project(&[HEAD, ("seeds/s.csv", "a\n1\n"), ("seeds/s.yml", yml)]).1;
    let text = text.expect_err("an error").to_string();
    assert!(text.contains("seeds/s.yml:3") && text.contains("parted by commas"), "{text}");
}
