//! Unit tests of models: given rows of what a model reads, the rows that it is to make of them.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use schemars::JsonSchema;
use serde::Deserialize;
use serde_yaml_ng::{Mapping, Value};

use crate::{
    domain::{TableName, csv},
    project::{
        Diagnostic, Diagnostics, Model,
        config::{shown, tags},
        jinja::Templates,
        nearest,
        properties::PropertiesText,
        yaml::Ignored,
    },
};

/// Folder of rows that unit tests name.
const FIXTURES: &str = "tests/fixtures";

/// A unit test of a model.
#[derive(Debug, Clone)]
pub struct UnitTest {
    pub name: String,
    pub model: TableName,
    /// The file that it stands in.
    pub file: PathBuf,
    pub tags: Vec<String>,
    /// The relations that the model reads, with their rows; others are empty.
    pub given: Vec<(TableName, Rows)>,
    pub expect: Rows,
    place: Diagnostic,
}

/// Rows as a unit test gives them.
#[derive(Debug, Clone)]
pub enum Rows {
    /// Columns by name, each as text; those that are not named are null.
    Values(Vec<BTreeMap<String, Option<String>>>),
    Sql(String),
}

impl UnitTest {
    /// An error about it, where it stands.
    pub fn wrong(&self, message: impl std::fmt::Display) -> Diagnostic {
        Diagnostic {
            message: format!("unit test `{}`: {message}", self.name),
            ..self.place.clone()
        }
    }
}

/// A unit test as its file has it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "read so that a known key is no error")]
pub(super) struct Entry {
    pub name: String,
    model: String,
    #[serde(default)]
    given: Vec<GivenEntry>,
    expect: RowsEntry,
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, serde_json::Value>")]
    overrides: Mapping,
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, serde_json::Value>")]
    config: Mapping,
    description: Option<Ignored>,
    versions: Option<Ignored>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct GivenEntry {
    input: String,
    #[serde(default)]
    #[schemars(with = "serde_json::Value")]
    rows: Value,
    format: Option<Format>,
    fixture: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RowsEntry {
    #[serde(default)]
    #[schemars(with = "serde_json::Value")]
    rows: Value,
    format: Option<Format>,
    fixture: Option<String>,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Format {
    Dict,
    Csv,
    Sql,
}

/// The unit tests of the project; what is wrong with them is reported.
pub(super) fn read(
    root: &Path,
    entries: Vec<(Arc<PropertiesText>, Entry)>,
    models: &[Model],
    templates: &Templates,
    found: &mut Diagnostics,
) -> Vec<UnitTest> {
    let mut tests: Vec<UnitTest> = Vec::new();
    for (file, entry) in entries {
        let place = file.at_path(&[&entry.name], String::new());
        let wrong = |word: &str, message: String| {
            let (message, hint) = message.split_once('\u{1}').unwrap_or((&message, ""));
            let text = format!("unit test `{}`: {message}", entry.name);
            let diagnostic = file.at_path(&[&entry.name, word], text);
            diagnostic.maybe_hint((!hint.is_empty()).then(|| hint.to_owned()))
        };
        if entry.config.get("enabled") == Some(&Value::Bool(false)) {
            continue;
        }
        if tests.iter().any(|other| other.name == entry.name) {
            found.push(wrong("", "there is another of that name".to_owned()));
            continue;
        }
        match one(root, &file, &entry, models, templates, place) {
            Ok(test) => tests.push(test),
            Err((word, message)) => found.push(wrong(&word, message)),
        }
    }
    tests
}

/// A unit test; an error is the word at fault and a message.
fn one(
    root: &Path,
    file: &Arc<PropertiesText>,
    entry: &Entry,
    models: &[Model],
    templates: &Templates,
    place: Diagnostic,
) -> Result<UnitTest, (String, String)> {
    let model = templates.table(&entry.model);
    let model = model.and_then(|name| models.iter().find(|model| model.name == name));
    let Some(model) = model else {
        let names = models.iter().map(|model| model.name.name.as_str());
        let hint = nearest(&entry.model, names).unwrap_or_default();
        let message = format!("there is no model `{}`\u{1}{hint}", entry.model);
        return Err((entry.model.clone(), message));
    };
    for key in entry.overrides.keys().filter_map(Value::as_str) {
        let is_empty = entry.overrides.get(key).is_some_and(|all| {
            // It is false anyway.
            let inner = all.as_mapping().map(|all| all.iter().collect::<Vec<_>>());
            inner.is_some_and(|all| {
                all.iter().all(|(k, v)| {
                    k.as_str() == Some("is_incremental") && v.as_bool() == Some(false)
                })
            })
        });
        if !is_empty {
            let message = format!("overrides of {key} are not supported");
            return Err((key.to_owned(), message));
        }
    }
    let mut given = Vec::new();
    for input in &entry.given {
        let name = templates.relation(&input.input);
        let name = name.map_err(|message| (input.input.clone(), message))?;
        let reads: Vec<TableName> = model.reads().collect();
        if !reads.contains(&name) {
            let list: Vec<String> = reads.iter().map(ToString::to_string).collect();
            let message = format!(
                "{} does not read {}\u{1}it reads {}",
                entry.model,
                input.input,
                list.join(", ")
            );
            return Err((input.input.clone(), message));
        }
        let rows = rows(root, &input.rows, input.format, input.fixture.as_deref());
        given.push((name, rows.map_err(|message| (input.input.clone(), message))?));
    }
    let expect = &entry.expect;
    let expect = rows(root, &expect.rows, expect.format, expect.fixture.as_deref());
    Ok(UnitTest {
        name: entry.name.clone(),
        model: model.name.clone(),
        file: file.file.clone(),
        tags: entry.config.get("tags").and_then(|value| tags(value).ok()).unwrap_or_default(),
        given,
        expect: expect.map_err(|message| ("expect".to_owned(), message))?,
        place,
    })
}

/// Rows as they are given: in place, or in a file.
fn rows(
    root: &Path,
    rows: &Value,
    format: Option<Format>,
    fixture: Option<&str>,
) -> Result<Rows, String> {
    let text = match (fixture, rows) {
        (Some(name), _) => {
            let suffix = if matches!(format, Some(Format::Sql)) { "sql" } else { "csv" };
            let path = Path::new(FIXTURES).join(format!("{name}.{suffix}"));
            let text = std::fs::read_to_string(root.join(&path));
            Some(text.map_err(|error| format!("{} cannot be read: {error}", path.display()))?)
        }
        (None, Value::String(text)) => Some(text.clone()),
        (None, _) => None,
    };
    match (format.unwrap_or(Format::Dict), text) {
        (Format::Sql, Some(text)) => Ok(Rows::Sql(text)),
        (Format::Csv, Some(text)) => of_csv(&text).map(Rows::Values),
        (Format::Dict, None) => of_values(rows).map(Rows::Values),
        (Format::Dict, Some(text)) if fixture.is_some() => of_csv(&text).map(Rows::Values),
        _ => Err("rows are a list of `{column: value}`, or a text with `format: csv` or \
                  `format: sql`"
            .to_owned()),
    }
}

fn of_values(rows: &Value) -> Result<Vec<BTreeMap<String, Option<String>>>, String> {
    let rows = match rows {
        Value::Null => return Ok(Vec::new()),
        Value::Sequence(rows) => rows,
        other => return Err(format!("rows are a list, not {}", shown(other))),
    };
    let cell = |(name, value): (&Value, &Value)| {
        let value = match value {
            Value::Null => None,
            Value::String(text) => Some(text.clone()),
            other => Some(shown(other)),
        };
        (name.as_str().unwrap_or_default().to_owned(), value)
    };
    let row = |row: &Value| match row {
        Value::Mapping(cells) => Ok(cells.iter().map(cell).collect()),
        other => Err(format!("a row is `{{column: value}}`, not {}", shown(other))),
    };
    rows.iter().map(row).collect()
}

fn of_csv(text: &str) -> Result<Vec<BTreeMap<String, Option<String>>>, String> {
    let records = csv::read(text).map_err(|(line, reason)| format!("line {line}: {reason}"))?;
    let mut records = records.into_iter().map(|(_, cells)| cells);
    let Some(header) = records.next() else { return Ok(Vec::new()) };
    let row = |cells: Vec<String>| {
        if cells.len() != header.len() {
            let message = format!("a row has {} cells, the header {}", cells.len(), header.len());
            return Err(message);
        }
        let cell = |(name, text): (&String, String)| {
            (name.trim().to_owned(), Some(text.trim().to_owned()).filter(|text| !text.is_empty()))
        };
        Ok(header.iter().zip(cells).map(cell).collect())
    };
    records.map(row).collect()
}
