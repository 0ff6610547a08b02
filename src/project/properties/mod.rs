//! The properties of models and seeds: what `models/**/*.yml` and `seeds/*.yml` say of them.

mod file;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_yaml_ng::Value;

pub(in crate::project) use file::PropertiesFile;

use crate::project::{
    Diagnostic, Diagnostics, Level,
    config::{Of, Options},
    data_tests::{About, Described, Given, OPTIONS, Place, TestOptions},
    diagnostic::whole_word,
    exposures::{Entries, ExposureEntry, GroupEntry},
    files,
    jinja::Templates,
    nearest,
    properties::file::{ColumnEntry, PropertiesEntry, SourceEntry, TestEntry},
    settings::Settings,
    snapshots::OfRelation,
    unit_tests, yaml,
};

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
    /// The generic data tests.
    pub tests: Vec<Given>,
    /// What is said of singular ones.
    pub singular: Described,
    pub unit_tests: Vec<(Arc<PropertiesText>, unit_tests::Entry)>,
    pub snapshots: Vec<OfRelation>,
    pub exposures: Entries<ExposureEntry>,
    pub groups: Entries<GroupEntry>,
}

/// The properties of all models and seeds, by name, the sources, and the data tests.
pub(super) fn read(root: &Path, settings: &Settings, found: &mut Diagnostics) -> All {
    let mut all = All::default();
    let folders = settings.model_paths.iter().chain(&settings.seed_paths);
    let known = described(root, folders.clone(), found);
    for folder in folders.chain(&settings.test_paths).chain(&settings.snapshot_paths) {
        for file in files(root, folder, &[".yml", ".yaml"], found) {
            let Some(entries) = yaml::read::<PropertiesFile>(root, &file, found) else { continue };
            let text = yaml::text(root, &file, found).unwrap_or_default();
            let file = Arc::new(PropertiesText { file, text });
            for source in entries.sources {
                all.add_source(&file, source, found);
            }
            for entry in entries.models.into_iter().chain(entries.seeds) {
                if known.contains(&entry.name) {
                    all.add(&file, entry, Of::Model, found);
                } else {
                    let message = format!("describes `{}`, which does not exist", entry.name);
                    found.push(file.at(&entry.name, None, message));
                }
            }
            for mut entry in entries.snapshots {
                let relation = entry.relation.take();
                let (name, file_path) = (entry.name.clone(), file.file.clone());
                let made = relation.map(|relation| OfRelation { name, file: file_path, relation });
                all.snapshots.extend(made);
                all.add(&file, entry, Of::Snapshot, found);
            }
            for entry in entries.tests {
                all.add_singular(&file, entry, found);
            }
            let units = entries.unit_tests.into_iter().map(|entry| (Arc::clone(&file), entry));
            all.unit_tests.extend(units);
            let outside = entries.exposures.into_iter().map(|entry| (Arc::clone(&file), entry));
            all.exposures.extend(outside);
            all.groups.extend(entries.groups.into_iter().map(|entry| (Arc::clone(&file), entry)));
        }
    }
    all
}

impl All {
    /// Takes what an entry says of a model or seed.
    fn add(
        &mut self,
        file: &Arc<PropertiesText>,
        entry: PropertiesEntry,
        of: Of,
        found: &mut Diagnostics,
    ) {
        let described = self.of.get(&entry.name).and_then(|other| other.file.as_ref());
        if let Some(other) = described {
            let other = other.file.display();
            let message = format!("`{}` is described twice, first in {other}", entry.name);
            let diagnostic = file.at_last(&entry.name, message);
            found.push(diagnostic.hint("put both into one entry"));
            return;
        }
        check_columns(file, &entry, found);
        let about = About::Table(entry.name.clone());
        self.add_tests(file, &entry.name, &about, (&entry.columns, &entry.tests), found);
        let name = entry.name.clone();
        let properties = properties(file, entry, of, found);
        self.of.insert(name, properties);
    }

    /// Takes the data tests of an entry and of its columns.
    fn add_tests(
        &mut self,
        file: &Arc<PropertiesText>,
        entry: &str,
        about: &About,
        (columns, tests): (&[ColumnEntry], &[Value]),
        found: &mut Diagnostics,
    ) {
        let of_entry = tests.iter().map(|item| (None, item));
        let of_columns = columns
            .iter()
            .flat_map(|column| column.tests.iter().map(|item| (Some(&column.name), item)));
        for (column, item) in of_entry.chain(of_columns) {
            let path = [entry].into_iter().chain(column.map(String::as_str));
            let path = path.map(str::to_owned).collect();
            let place = Place { file: Arc::clone(file), path };
            match Given::read(place, about.clone(), column.cloned(), item) {
                Ok(given) => self.tests.push(given),
                Err(diagnostic) => found.push(*diagnostic),
            }
        }
    }

    /// Takes the tables of a source, with their data tests.
    fn add_source(
        &mut self,
        file: &Arc<PropertiesText>,
        source: SourceEntry,
        found: &mut Diagnostics,
    ) {
        for table in source.tables {
            let about = About::Source(source.name.clone(), table.name.clone());
            self.add_tests(file, &table.name, &about, (&table.columns, &table.tests), found);
            let age = table.freshness.or_else(|| source.freshness.clone());
            let column = table.loaded_at_field.or_else(|| source.loaded_at_field.clone());
            if let (Some(age), Some(column)) = (age, column) {
                let item = age.as_test();
                let place = Place { file: Arc::clone(file), path: vec![table.name.clone()] };
                match item.map(|item| Given::read(place, about, Some(column), &item)) {
                    Some(Ok(given)) => self.tests.push(given),
                    Some(Err(diagnostic)) => found.push(*diagnostic),
                    None => {}
                }
            }
            let fed_by = table.identifier.unwrap_or_else(|| table.name.clone());
            self.sources.insert((source.name.clone(), table.name), fed_by);
        }
    }

    /// Takes what is said of a test in a file of its own.
    fn add_singular(
        &mut self,
        file: &Arc<PropertiesText>,
        entry: TestEntry,
        found: &mut Diagnostics,
    ) {
        let place = Place { file: Arc::clone(file), path: vec![entry.name.clone()] };
        let mut options = TestOptions::default();
        for (key, value) in &entry.config {
            let key = key.as_str().unwrap_or_default();
            match options.take(key, value) {
                Ok(true) => {}
                Ok(false) => {
                    let hint = nearest(key, OPTIONS).unwrap_or_default();
                    let message = format!("there is no option `{key}`\u{1}{hint}");
                    found.push(place.wrong(key, message));
                }
                Err(message) => found.push(place.wrong(key, message)),
            }
        }
        self.singular.insert(entry.name, (place, entry.description, options));
    }
}

/// What an entry says.
fn properties(
    file: &Arc<PropertiesText>,
    entry: PropertiesEntry,
    of: Of,
    found: &mut Diagnostics,
) -> Properties {
    let mut options = Options { of, ..Options::default() };
    let tags = entry.tags.map(|tags| (Value::from("tags"), tags));
    let group = entry.group.map(|group| (Value::from("group"), group.into()));
    let meta = entry.meta.map(|meta| (Value::from("meta"), meta));
    for (key, value) in entry.config.into_iter().chain(tags).chain(group).chain(meta) {
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
    pub(super) fn check_tests(&mut self, known: &[String], found: &mut Diagnostics) {
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        self.tests.retain(|given| {
            let test = given.test.as_str();
            if known.contains(&test) {
                return true;
            }
            let hint = nearest_test(test, &known);
            found.push(given.place.wrong(test, format!("there is no test `{test}`\u{1}{hint}")));
            false
        });
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

/// What is meant by a test that there is not, and which there are.
fn nearest_test(test: &str, known: &[&str]) -> String {
    let package = test.split_once('.').map(|(package, _)| package);
    let of_package = |name: &&str| name.split_once('.').map(|(of, _)| of) == package;
    let listed = known.iter().copied().filter(|name| !name.ends_with("_by_row"));
    let listed: Vec<&str> = listed.filter(of_package).collect();
    let names = match package {
        Some(package) if listed.is_empty() => {
            let folder = format!("dbt_packages/{package}");
            return format!("tests of package `{package}` are read from {folder}: run `dbt deps`");
        }
        Some(package) => format!(
            "tests of {package} are {}",
            listed.join(", ").replace(&format!("{package}."), "")
        ),
        None => format!("tests are {}", listed.join(", ")),
    };
    nearest(test, known.iter().copied())
        .map_or_else(|| names.clone(), |near| format!("{near} ({names})"))
}

/// Refuses columns that are described twice.
fn check_columns(file: &PropertiesText, entry: &PropertiesEntry, found: &mut Diagnostics) {
    let mut seen = BTreeSet::new();
    for column in &entry.columns {
        if !seen.insert(&column.name) {
            let message = format!("column `{}` is described twice", column.name);
            found.push(file.at_last(&column.name, message));
        }
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

    /// Points at the last of the words in `path` that stand one after the other, the first as the
    /// name of an entry.
    pub(super) fn at_path(&self, path: &[&str], message: String) -> Diagnostic {
        let diagnostic = Diagnostic::file(&self.file, message);
        let Some((first, rest)) = path.split_first() else { return diagnostic };
        let Some(mut at) = self.entries(first).next() else { return diagnostic };
        let mut behind = at + first.len();
        for word in rest.iter().filter(|word| !word.is_empty()) {
            let Some(next) = whole_word(&self.text[behind..], word) else { break };
            at = behind + next;
            behind = at + word.len();
        }
        diagnostic.at_byte(&self.text, at)
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

/// The names of the models and seeds in `folders`, which can be described.
fn described<'a>(
    root: &Path,
    folders: impl Iterator<Item = &'a String>,
    found: &mut Diagnostics,
) -> BTreeSet<String> {
    const ENDS: [&str; 3] = [".sql", ".csv", ".csv.gz"];
    let all = folders.flat_map(|folder| files(root, folder, &ENDS, found));
    let stem = |file: PathBuf| {
        let name = file.file_name()?.to_string_lossy().into_owned();
        ENDS.iter().find_map(|end| name.strip_suffix(end)).map(str::to_owned)
    };
    all.filter_map(stem).collect()
}
