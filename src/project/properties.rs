//! The properties of models and seeds: what `models/**/*.yml` and `seeds/*.yml` say of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::Deserialize;
use serde_yaml_ng::Value;

use crate::project::{Diagnostic, Diagnostics, diagnostic::whole_word, files, nearest, yaml};

/// The data tests that a model or column can have.
const TESTS: [&str; 6] =
    ["not_null", "unique", "relationships", "accepted_values", "expression", "freshness"];

/// What `models/**/*.yml` and `seeds/*.yml` say about one model or seed.
#[derive(Debug, Default, Clone)]
pub(super) struct Properties {
    pub description: String,
    pub columns: BTreeMap<String, String>,
    pub column_types: BTreeMap<String, String>,
    pub file: Option<Arc<PropertiesText>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "read so that a known key is no error")]
struct PropertiesFile {
    version: Option<u32>,
    #[serde(default)]
    models: Vec<PropertiesEntry>,
    #[serde(default)]
    seeds: Vec<PropertiesEntry>,
    #[serde(default)]
    sources: Vec<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "read so that a known key is no error")]
struct PropertiesEntry {
    name: String,
    #[serde(default)]
    description: String,
    #[serde(default)]
    columns: Vec<ColumnEntry>,
    #[serde(default)]
    config: ConfigEntry,
    #[serde(default, alias = "data_tests")]
    tests: Vec<Value>,
    meta: Option<Value>,
    docs: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "read so that a known key is no error")]
struct ColumnEntry {
    name: String,
    #[serde(default)]
    description: String,
    data_type: Option<String>,
    #[serde(default, alias = "data_tests")]
    tests: Vec<Value>,
    meta: Option<Value>,
    tags: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "read so that a known key is no error")]
struct ConfigEntry {
    #[serde(default)]
    column_types: BTreeMap<String, String>,
    tags: Option<Value>,
    meta: Option<Value>,
}

/// The properties of all models and seeds, by name.
pub(super) fn read(root: &Path, found: &mut Diagnostics) -> BTreeMap<String, Properties> {
    let mut all: BTreeMap<String, Properties> = BTreeMap::new();
    for folder in ["models", "seeds"] {
        for file in files(root, folder, &[".yml", ".yaml"], found) {
            let Some(entries) = yaml::read::<PropertiesFile>(root, &file, found) else { continue };
            let text = yaml::text(root, &file, found).unwrap_or_default();
            let file = Arc::new(PropertiesText { file, text });
            for entry in entries.models.into_iter().chain(entries.seeds) {
                if !names_a_file(root, folder, &entry.name, found) {
                    let message = format!("describes `{}`, which does not exist", entry.name);
                    found.push(file.at(&entry.name, None, message));
                }
                check(&file, &entry, found);
                if let Some(other) = all.get(&entry.name).and_then(|other| other.file.as_ref()) {
                    let message = format!(
                        "`{}` is described twice, first in {}",
                        entry.name,
                        other.file.display()
                    );
                    let diagnostic = file.at_last(&entry.name, message);
                    found.push(diagnostic.hint("put both into one entry"));
                    continue;
                }
                let columns =
                    entry.columns.into_iter().map(|column| (column.name, column.description));
                let properties = Properties {
                    description: entry.description,
                    columns: columns.collect(),
                    column_types: entry.config.column_types,
                    file: Some(Arc::clone(&file)),
                };
                all.insert(entry.name, properties);
            }
        }
    }
    all
}

/// Refuses columns that are described twice and tests that do not exist.
fn check(file: &PropertiesText, entry: &PropertiesEntry, found: &mut Diagnostics) {
    let mut seen = BTreeSet::new();
    for column in &entry.columns {
        if !seen.insert(&column.name) {
            let message = format!("column `{}` is described twice", column.name);
            found.push(file.at(&entry.name, Some(&column.name), message));
        }
    }
    let of_columns = entry.columns.iter().flat_map(|column| &column.tests);
    for test in entry.tests.iter().chain(of_columns).map(test_name) {
        if TESTS.contains(&test.as_str()) {
            continue;
        }
        let message = format!("`{}`: there is no test `{test}`", entry.name);
        let known = format!("tests are {}", TESTS.join(", "));
        let hint = nearest(&test, TESTS).map(|near| format!("{near} ({known})"));
        found.push(file.at(&entry.name, Some(&test), message).hint(hint.unwrap_or(known)));
    }
}

/// `unique`, or the one key of `accepted_values: {…}`, as dbt writes tests; in its long form a test
/// has a name of its own beside `test_name`.
fn test_name(test: &Value) -> String {
    let key = match test {
        Value::Mapping(map) => {
            map.get("test_name").or_else(|| map.keys().find(|key| *key != "name"))
        }
        other => Some(other),
    };
    match key {
        Some(Value::String(name)) => name.clone(),
        other => serde_yaml_ng::to_string(&other).unwrap_or_default().trim().to_owned(),
    }
}

/// Refuses descriptions of columns that `name` does not have. `columns` are those that it has.
pub fn check_described<'a>(
    name: &str,
    described: impl IntoIterator<Item = &'a String>,
    file: Option<&PropertiesText>,
    columns: &[&str],
    found: &mut Diagnostics,
) {
    let Some(file) = file else { return };
    for column in described.into_iter().filter(|column| !columns.contains(&column.as_str())) {
        let message = format!("`{name}` has no column `{column}`");
        let hint = nearest(column, columns.iter().copied())
            .unwrap_or_else(|| format!("its columns are {}", columns.join(", ")));
        found.push(file.at(name, Some(column), message).hint(hint));
    }
}

/// A file of properties as written, for messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PropertiesText {
    /// Relative to the project folder.
    pub file: PathBuf,
    pub text: String,
}

impl PropertiesText {
    /// Points at the entry of `name`, or at `word` in it.
    fn at(&self, name: &str, word: Option<&str>, message: String) -> Diagnostic {
        let diagnostic = Diagnostic::file(&self.file, message);
        let Some(start) = self.entries(name).next() else { return diagnostic };
        let Some(word) = word else { return diagnostic.at_byte(&self.text, start) };
        let behind = start + name.len();
        let place = whole_word(&self.text[behind..], word).map(|at| behind + at);
        diagnostic.at_byte(&self.text, place.unwrap_or(start))
    }

    /// Points at the last entry of `name`.
    fn at_last(&self, name: &str, message: String) -> Diagnostic {
        let diagnostic = Diagnostic::file(&self.file, message);
        match self.entries(name).last() {
            Some(start) => diagnostic.at_byte(&self.text, start),
            None => diagnostic,
        }
    }

    /// Where values `name: <name>` stand.
    fn entries<'a>(&'a self, name: &'a str) -> impl Iterator<Item = usize> + 'a {
        self.text.match_indices("name:").filter_map(move |(at, key)| {
            let value = at + key.len();
            let line = self.text[value..].lines().next().unwrap_or_default();
            let first = line.split([',', '}', '#']).next().unwrap_or_default();
            let is_it = first.trim().trim_matches(['"', '\'']) == name;
            is_it.then(|| value + line.find(name).unwrap_or(0))
        })
    }
}

fn names_a_file(root: &Path, folder: &str, name: &str, found: &mut Diagnostics) -> bool {
    let wanted = [format!("{name}.sql"), format!("{name}.csv"), format!("{name}.csv.gz")];
    files(root, folder, &[".sql", ".csv", ".csv.gz"], found).iter().any(|file| {
        file.file_name().is_some_and(|n| wanted.iter().any(|w| n.to_string_lossy() == *w))
    })
}
