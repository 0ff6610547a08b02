use std::path::Path;

use super::*;
use crate::domain::contract::{EventId, Severity};

const STREAM: &str = "name: clicks\nfields:\n  - {name: id, type: text, required: true}\n";

/// A project of the given files, which is sound before them.
fn project(files: &[(&str, &str)]) -> (tempfile::TempDir, Result<Project, Diagnostics>) {
    let dir = tempfile::tempdir().expect("folder");
    let base = [("sluice.yml", "name: test\n"), ("streams/clicks.yml", STREAM)];
    for (name, text) in base.iter().chain(files) {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().expect("parent")).expect("folder");
        std::fs::write(path, text).expect("file");
    }
    let loaded = load(dir.path());
    (dir, loaded)
}

/// The one error of a project with these files: file, line, whole text.
fn error(files: &[(&str, &str)]) -> (String, Option<usize>, String) {
    let errors = project(files).1.expect_err("an error");
    let all: Vec<&Diagnostic> = errors.iter().collect();
    assert_eq!(all.len(), 1, "{errors}");
    (all[0].file.display().to_string(), all[0].line, all[0].to_string())
}

#[test]
fn the_example_is_sound() {
    let project = load(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/dvd-clicks").as_path());
    let project = project.unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(project.streams.len(), 4);
    let names: Vec<String> = project.models.iter().map(|m| m.name.to_string()).collect();
    let at = |name: &str| names.iter().position(|n| n == name).expect("model");
    assert!(at("silver.rentals") < at("gold.fact_rental"));
    assert!(at("gold.fact_rental") < at("gold.rentals_by_film"));
}

#[test]
fn templates_become_sql() {
    let sql = "{{ config(\n  materialized='view'\n) }}\nSELECT id\nFROM {{ source('bronze', \
               'clicks') }}\nWHERE {{ is_incremental() }}\n";
    let (_dir, project) = project(&[("models/silver/a.sql", sql)]);
    let project = project.unwrap_or_else(|errors| panic!("{errors}"));
    let model = &project.models[0];
    assert_eq!(model.materialized, Materialized::View);
    assert_eq!(model.sources, [TableName::new("bronze", "clicks")]);
    assert_eq!(model.sql, "\nSELECT id\nFROM \"accepted\".\"clicks\"\nWHERE False");
}

#[test]
fn seeds_are_typed_by_their_cells_or_as_declared() {
    let csv = "\u{feff}id,code,price,born\r\n1,007,\"1.5\",2020-01-02\r\n2,,2,\r\n";
    let yml = "seeds:\n  - name: things\n    config:\n      column_types: {price: \
               \"decimal(18,2)\"}\n";
    let (_dir, project) = project(&[("seeds/things.csv", csv), ("seeds/seeds.yml", yml)]);
    let seed = &project.unwrap_or_else(|errors| panic!("{errors}")).seeds[0];
    let types: Vec<String> =
        seed.rows.schema().fields().iter().map(|f| f.data_type().to_string()).collect();
    assert_eq!(types, ["Int64", "Utf8", "Decimal128(18, 2)", "Date32"]);
    assert_eq!((seed.rows.num_rows(), seed.rows.column(1).null_count()), (2, 1));
}

#[test]
fn an_unknown_key_is_named_with_the_nearest() {
    let (file, line, text) = error(&[("streams/clicks.yml", &STREAM.replace("fields", "feilds"))]);
    assert_eq!((file.as_str(), line), ("streams/clicks.yml", Some(2)));
    assert!(text.contains("unknown field `feilds`") && text.contains("did you mean `fields`?"));
}

#[test]
fn a_wrong_contract_is_placed() {
    let cases = [
        (STREAM.replace("type: text", "type: txt"), Some(3), "unknown type `txt`"),
        (format!("{STREAM}key: uid\n"), Some(4), "`uid` is not a field"),
        (format!("{STREAM}key: [id, uid]\n"), Some(4), "`uid` is not a field"),
        (format!("{STREAM}key: [id, id]\n"), Some(4), "`id` stands twice"),
        (format!("{STREAM}key: {{a: id}}\n"), Some(4), "these are no fields"),
        (format!("{STREAM}partitions: 0\n"), Some(4), "0 partitions"),
        (format!("{STREAM}partitions: many\n"), Some(4), "invalid type"),
        (STREAM.replace("name: clicks", "name: klicks"), Some(1), "file named `clicks`"),
        (format!("{STREAM}records: many\n"), Some(4), "expected `events` or `arrays`"),
        (
            format!("{STREAM}records: arrays\non_error: reject_event\n"),
            Some(5),
            "reject_event cannot take one event out of an array",
        ),
        (format!("{STREAM}  - {{name: id, type: int}}\n"), Some(3), "declared twice"),
        (STREAM.replace("required: true", "range: {min: 1}"), Some(1), "needs a numeric type"),
        (format!("{STREAM}format: avro\n"), Some(4), "not supported"),
        (
            STREAM.replace("type: text", "type: text, format: '%Y'"),
            Some(3),
            "only a timestamp or date has a format",
        ),
        (
            format!("{STREAM}  - {{name: at, type: timestamp, format: '%Y-%m-%d'}}\n"),
            Some(4),
            "field `at`: format \"%Y-%m-%d\" does not name a whole date or time",
        ),
        (
            format!("{STREAM}  - {{name: n, type: int, source: id}}\n"),
            Some(3),
            "fields `id` and `n` both read `id`",
        ),
        (STREAM.replace("name: id", "name: _id"), Some(3), "cannot be a field name"),
        ("name: clicks\n  fields: [\n".to_owned(), Some(2), ""),
        (
            format!("{STREAM}rules:\n  type:a: id > 'a'\n"),
            Some(5),
            "`type:a` cannot be a rule name",
        ),
        (format!("{STREAM}rules:\n  ok: true\n  bad name, x: true\n"), Some(6), "`bad name, x`"),
        (format!("{STREAM}rules:\n  malformed: id > 'a'\n"), Some(5), "two rules are named"),
        (
            STREAM.replace("type: text", "type: text, accepted_values: {vals: [a]}"),
            Some(3),
            "field `id`: accepted_values: unknown field `vals`",
        ),
        (
            format!("{STREAM}rules:\n  ok: id > 'a'\n  R7: {{sql: id > 'b', severity: info}}\n"),
            Some(6),
            "rule `R7`: unknown variant `info`, expected `error` or `warn`",
        ),
        (format!("field_rule: R 1\n{STREAM}"), Some(1), "`R 1` cannot be a rule name"),
        (
            format!("{STREAM}rules:\n  ok: id > 'a'\n  none:\n"),
            Some(6),
            "rule `none`: there is no SQL",
        ),
        (format!("{STREAM}rules:\n  two: [a]\n"), Some(5), "rule `two`: this is no SQL"),
        (format!("event_id: []\n{STREAM}"), Some(1), "event_id: no field"),
        (
            STREAM.replace("type: text", "type: text, accepted_values: {name: a, values: []}"),
            Some(3),
            "field `id`: accepted_values: `values` is empty",
        ),
        (
            format!("{STREAM}deletes: {{field: opp, values: [d]}}\n"),
            Some(4),
            "deletes: `opp` is not a field of this stream",
        ),
        (
            format!("{STREAM}deletes: {{field: id, values: []}}\n"),
            Some(4),
            "deletes: `values` is empty",
        ),
        (
            format!("{STREAM}  - {{name: op, type: int}}\ndeletes: {{field: op, values: [d]}}\n"),
            Some(5),
            "deletes: \"d\" is no int, which `op` is",
        ),
        (
            format!("{STREAM}deletes: {{field: id, values: [d], tombstones: true}}\n"),
            Some(4),
            "a record without a value names its row by its key",
        ),
        (
            format!("{STREAM}key: id\ndeletes: {{field: id, values: [d], tombstones: true}}\n"),
            Some(5),
            "the field is part of the key",
        ),
        (format!("{STREAM}deletes: {{field: id, value: d}}\n"), Some(4), "unknown field `value`"),
        (format!("event_id: [id, i]\n{STREAM}"), Some(1), "event_id: `i` is not a field"),
        (format!("event_id: [id, id]\n{STREAM}"), Some(1), "event_id: `id` stands twice"),
        (
            format!(
                "{STREAM}  - {{name: n, type: int, range: {{min: 1}}}}\nrules:\n  n_range: n > 2\n"
            ),
            Some(6),
            "two rules are named `n_range`",
        ),
    ];
    for (yml, at, message) in cases {
        let (file, line, text) = error(&[("streams/clicks.yml", &yml)]);
        assert_eq!(file, "streams/clicks.yml", "{text}");
        assert!(line.is_some() && (line == at || message == "needs a numeric type"), "{text}");
        assert!(text.contains(message), "{text}");
    }
}

#[test]
fn rules_have_names_and_severities() {
    let yml = "name: clicks\nevent_id: [b, a]\nfield_rule: R1\nfields:\n  - {name: a, type: int}\n  \
               - {name: b, type: text, rule: R9, accepted_values: {name: R2, values: [x, y]}}\n\
               rules:\n  R1: a > 0\n  R3: {sql: a > 1, severity: warn}\n  R4: {sql: a > 2}\n  R5: a > 3\n";
    let (_folder, project) = project(&[("streams/clicks.yml", yml)]);
    let project = project.unwrap_or_else(|errors| panic!("{errors}"));
    let [contract] = project.streams.as_slice() else { panic!("one stream") };
    assert_eq!(contract.event_id, EventId::Columns(vec!["b".into(), "a".into()]));
    let named = contract.fields.iter().map(|f| [f.rule.as_deref(), f.accepted_rule.as_deref()]);
    assert_eq!(named.collect::<Vec<_>>(), [[Some("R1"), None], [Some("R9"), Some("R2")]]);
    assert_eq!(contract.fields[1].accepted_values, ["x", "y"]);
    let rules = contract.rules.iter().map(|r| (r.name.as_str(), r.sql.as_str(), r.severity));
    let (warn, error) = (Severity::Warn, Severity::Error);
    // It says more of what the checks of fields look at.
    let more = ("R1", "a > 0", error);
    let wanted = [more, ("R3", "a > 1", warn), ("R4", "a > 2", error), ("R5", "a > 3", error)];
    assert_eq!(rules.collect::<Vec<_>>(), wanted);
}

#[test]
fn a_wrong_model_is_placed() {
    let cases = [
        ("SELECT 1\nFROM {{ ref('missing') }}", Some(2), "ref('missing'): no such model"),
        ("SELECT 1\nFROM {{ source('bronze', 'click') }}", Some(2), "did you mean `clicks`?"),
        ("SELECT 1\nFROM {{ source('raw', 'clicks') }}", Some(2), "no such source"),
        ("{{ config(materialised='table') }}\nSELECT 1", Some(1), "materialised"),
        ("{{ config(materialized='tabel') }}\nSELECT 1", Some(1), "use 'table' or 'view'"),
        ("SELECT 1\nWHERE {{ var('unset') }}", Some(2), "var('unset') is not set"),
        ("SELECT {{ 1 +", Some(1), ""),
        ("SELECT {{ undefined_thing }}", Some(1), "undefined"),
    ];
    for (sql, at, message) in cases {
        let (file, line, text) = error(&[("models/gold/m.sql", sql)]);
        assert_eq!((file.as_str(), line), ("models/gold/m.sql", at), "{text}");
        assert!(text.contains(message), "{text}");
    }
}

#[test]
fn a_wrong_description_is_placed() {
    let yml = |entries: &str| format!("models:\n  - name: other\n{entries}");
    let model = "  - name: m\n    columns:\n      - {name: a}\n";
    let cases = [
        (
            yml(&format!("{model}        # made up\n      - {{name: b, tests: [made_up_test]}}\n")),
            7,
            "`m`: there is no test `made_up_test`",
        ),
        (
            yml("  - name: m\n    data_tests:\n      - dbt_utils.uniqe: {a: 1}\n"),
            5,
            "there is no test `dbt_utils.uniqe`",
        ),
        (
            yml("  - name: m\n    columns:\n      - {name: a, tests: [not_nul]}\n"),
            5,
            "did you mean `not_null`?",
        ),
        (yml(&format!("{model}{model}")), 6, "`m` is described twice, first in models/gold/m.yml"),
        (yml(&format!("{model}      - name: a\n")), 6, "column `a` is described twice"),
    ];
    for (yml, at, message) in cases {
        let (file, line, text) = error(&[
            ("models/gold/m.sql", "SELECT 1 AS a"),
            ("models/gold/other.sql", "SELECT 1 AS a"),
            ("models/gold/m.yml", &yml),
        ]);
        assert_eq!((file.as_str(), line), ("models/gold/m.yml", Some(at)), "{text}");
        assert!(text.contains(message), "{text}");
    }
    let (file, line, text) = error(&[
        ("seeds/s.csv", "a,b\n1,2\n"),
        ("seeds/s.yml", "seeds:\n  - name: s\n    columns:\n      - {name: bb, tests: [unique]}\n"),
    ]);
    assert_eq!((file.as_str(), line), ("seeds/s.yml", Some(4)), "{text}");
    assert!(
        text.contains("`s` has no column `bb`") && text.contains("did you mean `b`?"),
        "{text}"
    );
}

#[test]
fn every_form_of_a_known_test_is_read() {
    let yml = "models:\n  - name: m\n    data_tests:\n      - expression: {arguments: {expression: a > 0}}\n      \
               - {name: mine, test_name: freshness, field: a, warn_after: {count: 1, period: day}}\n      \
               - {name: own, relationships: {column_name: a, to: ref('m'), field: a}}\n    \
               columns:\n      - {name: a, tests: [unique, not_null, accepted_values: {values: [1]}]}\n";
    let (_dir, loaded) =
        project(&[("models/gold/m.sql", "SELECT 1 AS a"), ("models/gold/m.yml", yml)]);
    let project = loaded.unwrap_or_else(|errors| panic!("{errors}"));
    let names: Vec<&str> = project.tests.iter().map(|test| test.name.as_str()).collect();
    let of_columns = ["unique_m_a", "not_null_m_a", "accepted_values_m_a__1"];
    let of_model = ["expression_m_a_0", "mine", "own"];
    assert_eq!(names, [of_model.as_slice(), &of_columns].concat());
}

#[test]
fn a_wrong_seed_is_placed() {
    let yml = "seeds:\n  - name: s\n    config:\n      column_types: {a: int}\n";
    let cases = [
        ("a,b\n1,2\n3\n", 3, "row has 1 cells"),
        ("a,b\n1,2\nx,4\n", 3, "\"x\" is not of type int"),
        ("a,a\n1,2\n", 1, "stands twice"),
        ("a,b\n1,2\n1,\"x\n3,4\n5,6\n", 3, "the quote that opens field 2 is never closed"),
        ("a,b\n1,\"x\"y\n", 2, "text follows the closing quote of field 2"),
        ("\na,b\n1,2\n1,\"x\n3,\"4\n", 4, "a quote inside it is written twice"),
        ("a,b\r1,2\r3,4\r", 1, "a control character"),
    ];
    for (csv, at, message) in cases {
        let (file, line, text) = error(&[("seeds/s.csv", csv), ("seeds/s.yml", yml)]);
        assert_eq!((file.as_str(), line), ("seeds/s.csv", Some(at)), "{text}");
        assert!(text.contains(message), "{text}");
    }
}

#[test]
fn a_cycle_is_shown() {
    let (file, line, text) = error(&[
        ("models/gold/a.sql", "SELECT 1\nFROM {{ ref('b') }}"),
        ("models/gold/b.sql", "SELECT 1 FROM {{ ref('a') }}"),
    ]);
    assert_eq!((file.as_str(), line), ("models/gold/a.sql", Some(2)));
    assert!(text.contains("gold.a → gold.b → gold.a"), "{text}");
}

#[test]
fn everything_that_is_wrong_is_reported_at_once() {
    let (_dir, loaded) = project(&[
        ("streams/clicks.yml", "name: clicks\n"),
        ("seeds/s.csv", "a,b\n1\n"),
        ("models/gold/m.sql", "SELECT {{ ref('x') }}"),
        ("models/gold/M2.sql", "SELECT 1"),
        ("models/gold/m.yml", "models:\n  - name: nobody\n"),
    ]);
    assert_eq!(loaded.expect_err("errors").iter().count(), 5);
}

#[test]
fn no_project_is_one_clear_error() {
    let dir = tempfile::tempdir().expect("folder");
    let text = load(dir.path()).expect_err("error").to_string();
    assert!(text.contains("a project needs a sluice.yml"), "{text}");
    let text = load(&dir.path().join("nowhere")).expect_err("error").to_string();
    assert!(text.contains("no such project folder"), "{text}");
}
