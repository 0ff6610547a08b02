//! The macros that come with Sluice: each case of `tests/cases/macros.json` is rendered as a model
//! of a project, planned, and its SQL run.

use std::{collections::BTreeMap, path::Path};

use arrow::{
    array::RecordBatch,
    util::display::{ArrayFormatter, FormatOptions},
};
use datafusion::prelude::{SessionConfig, SessionContext};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    process::plan,
    project::{self, Diagnostics},
};

#[derive(Deserialize)]
struct Cases {
    /// Tables that cases read, as SQL.
    tables: BTreeMap<String, String>,
    cases: Vec<Case>,
}

/// A template, and what comes of it: rows, a text, or an error.
#[derive(Deserialize)]
struct Case {
    name: String,
    sql: String,
    rows: Option<Value>,
    text: Option<String>,
    error: Option<String>,
    columns: Option<Vec<String>>,
    #[serde(default)]
    ordered: bool,
    #[serde(default)]
    vars: BTreeMap<String, Value>,
    /// False for the first pass, in which no columns are known.
    execute: Option<bool>,
}

fn cases() -> Cases {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/macros.json");
    serde_json::from_str(&std::fs::read_to_string(file).expect("cases")).expect("cases")
}

/// A project with the tables of the cases as views, and these models.
fn project_of(cases: &Cases, models: &[(String, String)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("folder");
    let vars = models.iter().filter_map(|(name, _)| cases.cases.iter().find(|c| c.name == *name));
    let vars: BTreeMap<&String, &Value> = vars.flat_map(|case| &case.vars).collect();
    let head = serde_json::json!({"name": "macros", "vars": vars});
    std::fs::write(dir.path().join("sluice.yml"), head.to_string()).expect("file");
    let folder = dir.path().join("models");
    std::fs::create_dir(&folder).expect("folder");
    let tables = cases.tables.iter().map(|(name, sql)| (name.clone(), sql.clone()));
    for (name, sql) in tables.chain(models.iter().cloned()) {
        // A table that is named as a text, not by `ref`, is one that it reads all the same.
        let named = cases.tables.keys().filter(|t| sql.contains(&format!("\"gold\".\"{t}\"")));
        let named: String = named.map(|t| format!("{{% set _ = ref('{t}') %}}")).collect();
        let text = format!("{{{{ config(materialized='view') }}}}{named}{sql}");
        std::fs::write(folder.join(name + ".sql"), text).expect("file");
    }
    dir
}

/// The SQL of all models of a project, rendered with the columns of what they read.
fn rendered(root: &Path) -> Result<BTreeMap<String, String>, Diagnostics> {
    let planned = plan(project::load(root)?)?;
    let sql = |plan: &crate::models::Plan| (plan.model.name.name.clone(), plan.model.sql.clone());
    Ok(planned.plans.iter().map(sql).collect())
}

/// A session in which the models that are tables of the cases can be read.
async fn session(cases: &Cases) -> SessionContext {
    let config = SessionConfig::new()
        .with_default_catalog_and_schema("sluice", "gold")
        .with_create_default_catalog_and_schema(true);
    let context = SessionContext::new_with_config(config);
    for (name, sql) in &cases.tables {
        let rows = context.sql(sql).await.expect("a table").into_view();
        context.register_table(name.as_str(), rows).expect("a table");
    }
    context
}

/// Each value as text, rows by rows.
fn texts(batches: &[RecordBatch]) -> Vec<Vec<Option<String>>> {
    let options = FormatOptions::default()
        .with_timestamp_format(Some("%Y-%m-%d %H:%M:%S%.f"))
        .with_timestamp_tz_format(Some("%Y-%m-%d %H:%M:%S%.f"));
    let rows = |batch: &RecordBatch| {
        let columns: Vec<_> = batch.columns().to_vec();
        let value = |column: &arrow::array::ArrayRef, row| {
            let text = ArrayFormatter::try_new(column.as_ref(), &options).expect("a format");
            column.is_valid(row).then(|| text.value(row).to_string())
        };
        let row = |row| columns.iter().map(|column| value(column, row)).collect();
        (0..batch.num_rows()).map(row).collect::<Vec<Vec<Option<String>>>>()
    };
    batches.iter().flat_map(rows).collect()
}

fn wanted(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        Value::Array(items) => {
            let items = items.iter().map(|item| wanted(item).unwrap_or_default());
            Some(format!("[{}]", items.collect::<Vec<_>>().join(", ")))
        }
        other => Some(other.to_string()),
    }
}

fn is_same(got: Option<&String>, want: &Value) -> bool {
    match (got.and_then(|text| text.parse::<f64>().ok()), want.as_f64()) {
        (Some(got), Some(want)) => (got - want).abs() < 1e-5,
        _ => got == wanted(want).as_ref(),
    }
}

/// What is wrong with the rows of a case.
fn wrong(case: &Case, names: &[String], batches: &[RecordBatch]) -> Option<String> {
    let mut got = texts(batches);
    if case.columns.as_ref().is_some_and(|columns| columns != names) {
        return Some(format!("columns {names:?}"));
    }
    let mut want = match case.rows.as_ref()? {
        Value::Number(count) => {
            let is_it = count.as_u64() == Some(got.len() as u64);
            return (!is_it).then(|| format!("{} rows", got.len()));
        }
        Value::Array(rows) => rows.clone(),
        other => return Some(format!("{other} is not rows")),
    };
    if !case.ordered {
        got.sort();
        want.sort_by_key(|row| {
            row.as_array().map(|row| row.iter().map(wanted).collect::<Vec<_>>())
        });
    }
    let same_row = |(got, want): (&Vec<Option<String>>, &Value)| {
        let want = want.as_array().map_or(&[][..], Vec::as_slice);
        got.len() == want.len() && got.iter().zip(want).all(|(g, w)| is_same(g.as_ref(), w))
    };
    let is_it = got.len() == want.len() && got.iter().zip(&want).all(same_row);
    (!is_it).then(|| format!("{got:?}"))
}

#[tokio::test]
async fn macros_select_the_rows_of_their_cases() {
    let cases = cases();
    let mut failures = Vec::new();
    let context = session(&cases).await;
    let plain = cases.cases.iter().filter(|case| case.rows.is_some() && case.vars.is_empty());
    let with_vars = cases.cases.iter().filter(|case| !case.vars.is_empty());
    let groups = [plain.collect::<Vec<_>>(), with_vars.collect()];
    for group in groups {
        let model = |(i, case): (usize, &&Case)| (format!("case_{i}"), case.sql.clone());
        let mut models: Vec<(String, String)> = group.iter().enumerate().map(model).collect();
        if group.iter().all(|case| !case.vars.is_empty()) {
            models.iter_mut().zip(&group).for_each(|(model, case)| model.0.clone_from(&case.name));
        }
        let dir = project_of(&cases, &models);
        let sql = rendered(dir.path()).unwrap_or_else(|errors| panic!("{errors}"));
        for ((name, _), case) in models.iter().zip(&group) {
            let frame = context.sql(&sql[name]).await;
            let result = match frame {
                Ok(frame) => {
                    let names = frame.schema().fields().iter().map(|f| f.name().clone()).collect();
                    let names: Vec<String> = names;
                    frame.collect().await.map(|rows| wrong(case, &names, &rows))
                }
                Err(error) => Err(error),
            };
            match result {
                Ok(None) => {}
                Ok(Some(got)) => {
                    failures.push(format!("{}: {got}, not {:?}", case.name, case.rows))
                }
                Err(error) => failures.push(format!("{}: {error}", case.name)),
            }
        }
    }
    assert!(failures.is_empty(), "{} fail:\n{}", failures.len(), failures.join("\n"));
}

#[tokio::test]
async fn macros_make_the_texts_of_their_cases() {
    let cases = cases();
    let context = session(&cases).await;
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut count = 0;
    for case in &cases.cases {
        let Some(text) = &case.text else { continue };
        count += 1;
        let quoted = "select '{{ t | replace(\"'\", \"''\") }}' as t";
        let sql = format!("{{% set t %}}{}{{% endset %}}{quoted}", case.sql);
        let models = [("a_case".to_owned(), sql)];
        let dir = project_of(&cases, &models);
        let sql = if case.execute == Some(false) {
            let project = project::load(dir.path()).unwrap_or_else(|errors| panic!("{errors}"));
            let model = project.models.iter().find(|model| model.name.name == "a_case");
            model.expect("the case").sql.clone()
        } else {
            let mut all = rendered(dir.path()).unwrap_or_else(|errors| panic!("{errors}"));
            all.remove("a_case").expect("the case")
        };
        let rows = context.sql(&sql).await.expect("a text").collect().await.expect("a text");
        let got = texts(&rows)[0][0].clone().unwrap_or_default();
        assert_eq!(words(&got), words(text), "{}", case.name);
    }
    assert_eq!(count, 19);
}

#[tokio::test]
async fn macros_refuse_what_they_cannot_do() {
    let cases = cases();
    let context = session(&cases).await;
    let mut count = 0;
    for case in &cases.cases {
        let Some(error) = &case.error else { continue };
        count += 1;
        let dir = project_of(&cases, &[("a_case".to_owned(), case.sql.clone())]);
        match rendered(dir.path()) {
            Err(errors) => {
                let errors = errors.to_string();
                assert!(errors.contains(error), "{}: {errors}", case.name);
                assert!(errors.contains("models/a_case.sql:1:"), "{}: {errors}", case.name);
            }
            // It is a value that is refused.
            Ok(sql) => {
                let result = context.sql(&sql["a_case"]).await.expect("a query").collect().await;
                let text = result.expect_err(&case.name).to_string();
                assert!(text.contains(error), "{}: {text}", case.name);
            }
        }
    }
    assert_eq!(count, 19);
}
