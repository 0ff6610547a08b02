//! The properties of models and seeds: what `models/**/*.yml` and `seeds/*.yml` say of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::Deserialize;
use serde_yaml_ng::{Mapping, Value};

use crate::project::{
    Diagnostic, Diagnostics, Level, config::Options, diagnostic::whole_word, files,
    jinja::Templates, nearest, settings::Settings, yaml,
};

/// Data tests beside those that are macros.
const TESTS: [&str; 2] = ["expression", "freshness"];

/// What `models/**/*.yml` and `seeds/*.yml` say about one model or seed.
#[derive(Debug, Default, Clone)]
pub(super) struct Properties {
    pub description: String,
    pub columns: BTreeMap<String, String>,
    /// Columns that have data tests, which must exist.
    pub tested: Vec<String>,
    pub options: Options,
    pub file: Option<Arc<PropertiesText>>,
}

/// What all properties files say.
#[derive(Debug, Default)]
pub(super) struct All {
    pub of: BTreeMap<String, Properties>,
    /// Tables of sources, as (source, table) → the stream or seed that feeds it.
    pub sources: BTreeMap<(String, String), String>,
    /// Data tests, each with the file and entry that names it.
    tests: Vec<(Arc<PropertiesText>, String, String)>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "read so that a known key is no error")]
struct PropertiesFile {
    version: Option<Value>,
    #[serde(default)]
    models: Vec<PropertiesEntry>,
    #[serde(default)]
    seeds: Vec<PropertiesEntry>,
    #[serde(default)]
    sources: Vec<SourceEntry>,
    #[serde(default)]
    snapshots: Vec<Value>,
    #[serde(default)]
    analyses: Vec<Value>,
    #[serde(default)]
    macros: Vec<Value>,
    #[serde(default)]
    exposures: Vec<Value>,
    #[serde(default)]
    groups: Vec<Value>,
    #[serde(default, alias = "data_tests")]
    tests: Vec<Value>,
    #[serde(default)]
    unit_tests: Vec<Value>,
    #[serde(default)]
    metrics: Vec<Value>,
    #[serde(default)]
    semantic_models: Vec<Value>,
    #[serde(default)]
    saved_queries: Vec<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "read so that a known key is no error")]
struct SourceEntry {
    name: String,
    #[serde(default)]
    tables: Vec<SourceTable>,
    description: Option<Value>,
    database: Option<Value>,
    schema: Option<Value>,
    loader: Option<Value>,
    loaded_at_field: Option<Value>,
    loaded_at_query: Option<Value>,
    freshness: Option<Value>,
    quoting: Option<Value>,
    overrides: Option<Value>,
    config: Option<Value>,
    meta: Option<Value>,
    tags: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "read so that a known key is no error")]
struct SourceTable {
    name: String,
    identifier: Option<String>,
    description: Option<Value>,
    columns: Option<Value>,
    #[serde(alias = "data_tests")]
    tests: Option<Value>,
    loaded_at_field: Option<Value>,
    loaded_at_query: Option<Value>,
    freshness: Option<Value>,
    quoting: Option<Value>,
    external: Option<Value>,
    config: Option<Value>,
    meta: Option<Value>,
    tags: Option<Value>,
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
    config: Mapping,
    #[serde(default, alias = "data_tests")]
    tests: Vec<Value>,
    meta: Option<Value>,
    docs: Option<Value>,
    tags: Option<Value>,
    access: Option<Value>,
    group: Option<Value>,
    constraints: Option<Value>,
    latest_version: Option<Value>,
    deprecation_date: Option<Value>,
    time_spine: Option<Value>,
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
    quote: Option<Value>,
    constraints: Option<Value>,
    config: Option<Value>,
    policy_tags: Option<Value>,
    granularity: Option<Value>,
}

/// The properties of all models and seeds, by name, and the sources.
pub(super) fn read(root: &Path, settings: &Settings, found: &mut Diagnostics) -> All {
    let mut all = All::default();
    for folder in settings.model_paths.iter().chain(&settings.seed_paths) {
        for file in files(root, folder, &[".yml", ".yaml"], found) {
            let Some(entries) = yaml::read::<PropertiesFile>(root, &file, found) else { continue };
            let text = yaml::text(root, &file, found).unwrap_or_default();
            let file = Arc::new(PropertiesText { file, text });
            for source in entries.sources {
                for table in source.tables {
                    let fed_by = table.identifier.unwrap_or_else(|| table.name.clone());
                    all.sources.insert((source.name.clone(), table.name), fed_by);
                }
            }
            for entry in entries.models.into_iter().chain(entries.seeds) {
                if !names_a_file(root, folder, &entry.name, found) {
                    let message = format!("describes `{}`, which does not exist", entry.name);
                    found.push(file.at(&entry.name, None, message));
                }
                check(&file, &entry, &mut all.tests, found);
                let described = all.of.get(&entry.name).and_then(|other| other.file.as_ref());
                if let Some(other) = described {
                    let message = format!(
                        "`{}` is described twice, first in {}",
                        entry.name,
                        other.file.display()
                    );
                    let diagnostic = file.at_last(&entry.name, message);
                    found.push(diagnostic.hint("put both into one entry"));
                    continue;
                }
                let name = entry.name.clone();
                let properties = properties(&file, entry, found);
                all.of.insert(name, properties);
            }
        }
    }
    all
}

/// What an entry says.
fn properties(
    file: &Arc<PropertiesText>,
    entry: PropertiesEntry,
    found: &mut Diagnostics,
) -> Properties {
    let mut options = Options::default();
    let tags = entry.tags.map(|tags| (Value::from("tags"), tags));
    for (key, value) in entry.config.into_iter().chain(tags) {
        let key = key.as_str().unwrap_or_default();
        if let Err(message) = options.take(key, &value) {
            let (message, hint) = message.split_once('\u{1}').unwrap_or((&message, ""));
            let diagnostic =
                file.at(&entry.name, Some(key), format!("`{}`: {message}", entry.name));
            found.push(diagnostic.maybe_hint((!hint.is_empty()).then(|| hint.to_owned())));
        }
    }
    let tested = entry.columns.iter().filter(|column| !column.tests.is_empty());
    let tested = tested.map(|column| column.name.clone()).collect();
    let columns = entry.columns.into_iter().map(|column| (column.name, column.description));
    Properties {
        description: entry.description,
        columns: columns.collect(),
        tested,
        options,
        file: Some(Arc::clone(file)),
    }
}

impl Properties {
    /// The types of a seed's columns that are given.
    pub(super) fn column_types(&self, base: &Options) -> BTreeMap<String, String> {
        let mut types = BTreeMap::new();
        for options in [base, &self.options] {
            let Some(Value::Mapping(given)) = options.all.get("column_types") else { continue };
            let named = given.iter().filter_map(|(k, v)| Some((k.as_str()?, v.as_str()?)));
            types.extend(named.map(|(column, of_type)| (column.to_owned(), of_type.to_owned())));
        }
        types
    }
}

impl All {
    /// Refuses data tests that there are not; `known` are those that are macros.
    pub(super) fn check_tests(&self, known: &[String], found: &mut Diagnostics) {
        let known: Vec<&str> = known.iter().map(String::as_str).chain(TESTS).collect();
        for (file, entry, test) in &self.tests {
            if known.contains(&test.as_str()) {
                continue;
            }
            let message = format!("`{entry}`: there is no test `{test}`");
            let plain: Vec<&str> =
                known.iter().copied().filter(|name| !name.contains('.')).collect();
            let names = format!("tests are {}", plain.join(", "));
            let near = nearest(test, known.iter().copied());
            let hint = near.map(|near| format!("{near} ({names})"));
            found.push(file.at(entry, Some(test), message).hint(hint.unwrap_or(names)));
        }
    }

    /// Quotes the blocks of documentation that descriptions name.
    pub(super) fn describe(&mut self, templates: &Templates, found: &mut Diagnostics) {
        for (name, properties) in &mut self.of {
            let Properties { description, columns, file, .. } = properties;
            for text in columns.values_mut().chain([description]) {
                match (templates.describe(text), &file) {
                    (Ok(described), _) => *text = described,
                    (Err(message), Some(file)) => {
                        let word = message.split('\'').nth(1);
                        found.push(file.at(name, word, format!("`{name}`: {message}")));
                    }
                    (Err(_), None) => {}
                }
            }
        }
    }
}

/// Refuses columns that are described twice; notes the data tests.
fn check(
    file: &Arc<PropertiesText>,
    entry: &PropertiesEntry,
    tests: &mut Vec<(Arc<PropertiesText>, String, String)>,
    found: &mut Diagnostics,
) {
    let mut seen = BTreeSet::new();
    for column in &entry.columns {
        if !seen.insert(&column.name) {
            let message = format!("column `{}` is described twice", column.name);
            found.push(file.at(&entry.name, Some(&column.name), message));
        }
    }
    let of_columns = entry.columns.iter().flat_map(|column| &column.tests);
    let named = entry.tests.iter().chain(of_columns).map(test_name);
    tests.extend(named.map(|test| (Arc::clone(file), entry.name.clone(), test)));
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

/// Reports columns that are described and that `name` does not have: an error where one is tested,
/// else a warning. `columns` are those that it has.
pub fn check_described<'a>(
    name: &str,
    described: impl IntoIterator<Item = &'a String>,
    tested: &[String],
    file: Option<&PropertiesText>,
    columns: &[&str],
    found: &mut Diagnostics,
) {
    let Some(file) = file else { return };
    for column in described.into_iter().filter(|column| !columns.contains(&column.as_str())) {
        let is_tested = tested.contains(column);
        let level = if is_tested { Level::Error } else { Level::Warning };
        let message = format!("`{name}` has no column `{column}`");
        let hint = nearest(column, columns.iter().copied())
            .unwrap_or_else(|| format!("its columns are {}", columns.join(", ")));
        found.push(file.at(name, Some(column), message).hint(hint).level(level));
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
