//! What is wrong with a project is placed in its files.

use super::support::CONTRACT;
use crate::{process::plan, project};

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().expect("folder"));
        folder.write("sluice.yml", "name: test\n");
        folder
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.0.path().join(name);
        std::fs::create_dir_all(path.parent().expect("parent")).expect("folder");
        std::fs::write(path, text).expect("file");
    }

    fn errors(&self) -> String {
        let planned = project::load(self.0.path()).and_then(plan);
        planned.map(|_| ()).expect_err("errors").to_string()
    }
}

#[test]
fn sql_that_would_exhaust_the_stack_is_refused_with_its_file() {
    let folder = Folder::new();
    let chain = vec!["1"; 20_000].join("+");
    folder.write("streams/events.yml", &CONTRACT.replace("v < 1000", &format!("{chain} > v")));
    folder.write("models/gold/b.sql", &format!("SELECT {chain} AS a"));
    folder.write("models/gold/c.sql", "SELECT 1 AS a, 2 AS \"A\"");
    folder.write("models/gold/d.sql", "SELECT count(*) FROM {{ source('bronze', 'events') }}");
    let errors = folder.errors();
    for expected in
        ["models/gold/b.sql", "in one chain", "rule `small`", "`A` stands twice", "AS name"]
    {
        assert!(errors.contains(expected), "{expected} in\n{}", &errors[..errors.len().min(4_000)]);
    }
    folder.write(
        "models/gold/b.sql",
        "{% for i in range(9999) %}{% for j in range(9999) %}x{% endfor %}{% endfor %}",
    );
    let errors = folder.errors();
    assert!(errors.contains("models/gold/b.sql"), "{errors}");
}

#[test]
fn rules_that_are_not_sql_are_placed_in_the_contract() {
    let folder = Folder::new();
    folder.write("streams/events.yml", &CONTRACT.replace("v < 1000", "w < 1000"));
    let errors = folder.errors();
    assert!(errors.contains("streams/events.yml:10"), "{errors}");
    assert!(errors.contains("rule `small`"), "{errors}");
    folder.write("streams/events.yml", &CONTRACT.replace("v < 1000", "v + 1"));
    let errors = folder.errors();
    assert!(errors.contains("not a boolean"), "{errors}");
}

#[test]
fn wrong_sql_is_placed_in_the_users_file_with_the_nearest_column() {
    let folder = Folder::new();
    folder.write("streams/events.yml", CONTRACT);
    folder.write(
        "models/silver/a.sql",
        "SELECT id,\n       kk\nFROM {{ source('bronze', 'events') }}",
    );
    folder.write("models/silver/b.sql", "SELECT id\nFRM {{ source('bronze', 'events') }}");
    folder.write("models/silver/c.sql", "SELECT id, id FROM {{ source('bronze', 'events') }}");
    folder.write("models/silver/d.sql", "CREATE TABLE x AS SELECT 1 AS a");
    folder.write(
        "models/silver/e.sql",
        "SELECT t.id, u.x FROM {{ source('bronze', 'events') }} AS t \
         CROSS JOIN UNNEST(string_to_array(t.k, ',')) AS u(x)",
    );
    let errors = folder.errors();
    for expected in [
        "models/silver/a.sql:2:8",
        "did you mean `k`?",
        "models/silver/b.sql:2",
        "models/silver/c.sql",
        "models/silver/d.sql",
        "models/silver/e.sql",
        "write SELECT …, unnest(list) FROM that relation",
        "5 errors",
    ] {
        assert!(errors.contains(expected), "{expected} in\n{errors}");
    }
}

#[test]
fn an_error_in_generated_sql_is_placed_where_it_comes_from() {
    let folder = Folder::new();
    folder.write("streams/events.yml", CONTRACT);
    folder.write("macros/m.sql", "{% macro total(of) %}\n  sum({{ of }})\n{% endmacro %}");
    for (sql, place) in [
        // Behind a loop the rendered SQL has other lines than the file.
        (
            "select\n{% for c in ['k', 'v'] %}\n  {{ c }},\n{% endfor %}\n  nothing\n\
             from {{ source('bronze', 'events') }}",
            "models/gold/m.sql:5:3",
        ),
        // What a macro wrote stands where it is called.
        (
            "select 1 as one, {{ total('nothing') }} as t\nfrom {{ source('bronze', 'events') }}",
            "models/gold/m.sql:1:18",
        ),
        (
            "{%- set c = 'nothing' -%}\nselect k,\n       {{- c }}\nfrom \
             {{ source('bronze', 'events') }}",
            "models/gold/m.sql:2:",
        ),
        ("select k from {{ source('bronze', 'events') }} wher x", "models/gold/m.sql:1:"),
    ] {
        folder.write("models/gold/m.sql", sql);
        let errors = folder.errors();
        assert!(errors.contains(place), "{place} in\n{errors}");
    }
}

#[test]
fn a_model_that_asks_for_columns_gets_those_of_what_it_reads() {
    let folder = Folder::new();
    folder.write("streams/events.yml", CONTRACT);
    folder.write("models/silver/a.sql", "select k, v from {{ source('bronze', 'events') }}");
    folder.write(
        "models/gold/b.sql",
        "select {{ dbt_utils.star(ref('a'), except=['k']) }}\nfrom {{ ref('a') }}",
    );
    let planned = project::load(folder.0.path()).and_then(plan);
    let planned = planned.unwrap_or_else(|errors| panic!("{errors}"));
    let sql = |name: &str| {
        let plan = planned.plans.iter().find(|plan| plan.model.name.name == name);
        plan.map(|plan| plan.model.sql.clone()).expect("a plan")
    };
    assert_eq!(sql("b"), "select \"v\"\nfrom \"silver\".\"a\"");
    // Of what the first pass does not see to be read, columns are not known.
    folder.write(
        "models/gold/b.sql",
        "select 1 as a {% if execute %}\nfrom {{ ref('a') }}{% endif %}",
    );
    let errors = folder.errors();
    assert!(errors.contains("models/gold/b.sql:2"), "{errors}");
    assert!(errors.contains("-- depends_on: {{ ref('a') }}"), "{errors}");
}
