//! A project folder in dbt's layout: streams, models, seeds, checked and in order.
//!
//! Reading touches nothing but the folder. Everything that is wrong is reported at once.

mod compared;
mod config;
mod data_tests;
mod diagnostic;
mod docs;
mod exposures;
mod jinja;
mod models;
mod properties;
mod schemas;
mod seeds;
pub mod select;
mod settings;
mod snapshots;
mod streams;
mod unit_tests;
mod yaml;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

pub use compared::{compared, vanished};
pub use data_tests::{DataTest, SINGULAR, Severity};
pub use diagnostic::{Diagnostic, Diagnostics, Level};
pub use exposures::{Exposure, Group, Owner};
pub use jinja::{Columns, Places, Templates, Variables, byte_at};
pub use properties::{PropertiesText, check_described};
pub use schemas::{FileSchema, schemas};
pub use unit_tests::{Rows, UnitTest};

use crate::domain::{ACCEPTED, TableName, contract::Contract};

/// A project, read and checked.
#[derive(Debug)]
pub struct Project {
    pub root: PathBuf,
    pub name: String,
    pub streams: Vec<Contract>,
    pub seeds: Vec<Seed>,
    /// Parents before children.
    pub models: Vec<Model>,
    pub tests: Vec<DataTest>,
    pub unit_tests: Vec<UnitTest>,
    pub exposures: Vec<Exposure>,
    pub groups: Vec<Group>,
    /// What renders models whose text asks for columns of what they read.
    pub templates: Arc<Templates>,
    /// What is odd, and no error (but see [`load_partly`]).
    pub warnings: Diagnostics,
}

/// One SQL model, rendered.
#[derive(Debug, Clone)]
pub struct Model {
    pub name: TableName,
    /// Path relative to the project, for messages.
    pub file: PathBuf,
    /// The text as written.
    pub source: String,
    /// Plain SQL over `silver.x`, `gold.x`, `seeds.x` and `accepted.<stream>`.
    pub sql: String,
    /// Where parts of the SQL stand in the text as written.
    pub places: Places,
    pub materialized: Materialized,
    /// Whether it is an error that it can only be kept by computing it whole.
    pub refuses_recompute: bool,
    pub tags: Vec<String>,
    /// Models and seeds it reads.
    pub refs: Vec<TableName>,
    /// Streams it reads.
    pub sources: Vec<TableName>,
    /// Whether its SQL is known only when the columns are of all that it reads: see
    /// [`Project::with_columns`].
    pub asks_columns: bool,
    /// Whether its SQL is a query whose own columns decide what stands around it: see
    /// [`Project::with_own_columns`].
    pub is_open: bool,
    pub description: String,
    pub columns: BTreeMap<String, String>,
    /// Described columns that data tests name.
    pub tested: Vec<String>,
    /// The file that describes its columns.
    pub described_in: Option<Arc<PropertiesText>>,
    options: config::Options,
}

/// What the project asks for; the planner may refine it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Materialized {
    #[default]
    Table,
    View,
}

/// Reference data, typed.
#[derive(Debug, Clone)]
pub struct Seed {
    pub name: TableName,
    pub file: PathBuf,
    pub rows: arrow::array::RecordBatch,
    /// Digest of content and types.
    pub digest: String,
    pub description: String,
    pub columns: BTreeMap<String, String>,
}

/// Schema of seeds.
pub const SEEDS: &str = "seeds";
/// Schema under which views see the records of a stream that were set aside.
pub const QUARANTINE: &str = "quarantine";

/// Schema of the views that show what data tests find.
pub const FAILURES: &str = "test_failures";

/// What a project is read with.
#[derive(Clone)]
pub struct Options {
    /// What `env_var(…)` reads.
    pub variables: Variables,
}

impl Default for Options {
    /// No environment variable is set.
    fn default() -> Self {
        Self { variables: Arc::new(|_| None) }
    }
}

/// Reads and checks the project in `root`, without environment variables.
pub fn load(root: &Path) -> Result<Project, Diagnostics> {
    load_with(root, &Options::default())
}

/// Reads and checks the project in `root`.
pub fn load_with(root: &Path, options: &Options) -> Result<Project, Diagnostics> {
    let project = load_partly(root, options)?;
    if project.warnings.has_errors() { Err(project.warnings) } else { Ok(project) }
}

/// Reads what can be read of the project in `root`: what is wrong stands among its warnings, so that
/// what is wrong with the rest can be told too.
pub fn load_partly(root: &Path, options: &Options) -> Result<Project, Diagnostics> {
    let mut found = Diagnostics::default();
    if !root.is_dir() {
        let message = "no such project folder".to_owned();
        let hint = "pass the folder that holds sluice.yml or dbt_project.yml";
        found.push(Diagnostic::file(root, message).hint(hint));
        return Err(found);
    }
    let Some(settings) = settings::read(root, &options.variables, &mut found) else {
        return Err(found);
    };
    let streams = streams::read(root, &mut found);
    let mut properties = properties::read(root, &settings, &mut found);
    let (mut seeds, seeds_off) = seeds::read(root, &settings, &properties.of, &mut found);
    let fed = Fed { streams: &streams, seeds: &seeds, seeds_off };
    let templates = templates(root, &settings, &properties, fed, options, &mut found);
    properties.check_tests(&templates.tests(), &mut found);
    properties.describe(&templates, &mut found);
    for seed in &mut seeds {
        let Some(described) = properties.of.get(&seed.name.name) else { continue };
        seed.description.clone_from(&described.description);
        seed.columns.clone_from(&described.columns);
        let schema = seed.rows.schema();
        let columns: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
        let (name, file) = (&seed.name.name, described.file.as_deref());
        check_described(name, seed.columns.keys(), &described.tested, file, &columns, &mut found);
    }
    let described = models::Described { of: &properties.of, snapshots: &properties.snapshots };
    let sources = models::sources(root, &settings, &described, &mut found);
    let name_of = |source: &models::Source| {
        let seed = seeds.iter().find(|seed| seed.name.name == source.name)?;
        let message = format!("model `{}` has the same name as {}", source.name, seed.name);
        Some(Diagnostic::file(&source.file, message).hint("names are unique in a project"))
    };
    sources.iter().filter_map(name_of).for_each(|diagnostic| found.push(diagnostic));
    let mut models = models::read(sources, &templates, &seeds, &properties.of, &mut found);
    let (given, described) = (properties.tests, &properties.singular);
    let mut tests = data_tests::read(root, &settings, given, described, &templates, &mut found);
    data_tests::take_out(&mut models, &mut tests, &mut found);
    let units = properties.unit_tests;
    let unit_tests = unit_tests::read(root, units, &models, &templates, &mut found);
    let exposures = exposures::read(properties.exposures, &templates, &mut found);
    let groups = exposures::groups(properties.groups, &models, &mut found);
    Ok(Project {
        root: root.to_path_buf(),
        name: settings.name,
        streams,
        seeds,
        models,
        tests,
        unit_tests,
        exposures,
        groups,
        templates: Arc::new(templates),
        warnings: found,
    })
}

/// What templates read that is no model.
struct Fed<'a> {
    streams: &'a [Contract],
    seeds: &'a [Seed],
    /// Seeds that are switched off.
    seeds_off: BTreeSet<String>,
}

/// The templates of the project, with all that they find but the names of models.
fn templates(
    root: &Path,
    settings: &settings::Settings,
    properties: &properties::All,
    fed: Fed<'_>,
    options: &Options,
    found: &mut Diagnostics,
) -> Templates {
    let mut macro_files = Vec::new();
    let generic = settings.test_paths.iter().map(|folder| format!("{folder}/generic"));
    for folder in settings.macro_paths.iter().cloned().chain(generic) {
        for file in files(root, &folder, &[".sql"], found) {
            let Some(text) = yaml::text(root, &file, found) else { continue };
            macro_files.push(jinja::MacroFile { package: settings.dbt_name.clone(), file, text });
        }
    }
    for (package, file) in packages(root, found) {
        let Some(text) = yaml::text(root, &file, found) else { continue };
        macro_files.push(jinja::MacroFile { package, file, text });
    }
    // What is wrong with a contract is told with it, not with what reads its stream.
    let broken = files(root, "streams", &[".yml", ".yaml"], &mut Diagnostics::default());
    let broken = broken.iter().filter_map(|file| file.file_stem());
    let broken = broken.map(|stem| stem.to_string_lossy().into_owned());
    let shared = jinja::Shared {
        project: settings.dbt_name.clone(),
        macros: jinja::macros(macro_files, found),
        names: std::sync::Mutex::default(),
        docs: docs::read(root, &settings.docs_paths, found),
        sources: properties.sources.clone(),
        streams: fed.streams.iter().map(|stream| stream.name.clone()).chain(broken).collect(),
        deletes: fed
            .streams
            .iter()
            .filter_map(|stream| Some((stream.name.clone(), stream.deletes.clone()?)))
            .collect(),
        seeds: fed.seeds.iter().map(|seed| (seed.name.name.clone(), seed.rows.clone())).collect(),
        seeds_off: fed.seeds_off,
        vars: jinja::vars(&settings.vars),
        variables: Arc::clone(&options.variables),
        page: std::sync::Mutex::default(),
    };
    Templates::new(shared, found)
}

/// Files of macros of installed packages, except those that Sluice brings along.
fn packages(root: &Path, found: &mut Diagnostics) -> Vec<(String, PathBuf)> {
    const INSTALLED: &str = "dbt_packages";
    let macros = files(root, INSTALLED, &[".sql"], found);
    let of_package = |file: PathBuf| {
        let mut parts = file.components().skip(1).map(|c| c.as_os_str().to_string_lossy());
        let package = parts.next()?.into_owned();
        let is_macro = parts.next().is_some_and(|folder| folder == "macros");
        (is_macro && package != "dbt_utils" && package != "dbt").then_some((package, file))
    };
    macros.into_iter().filter_map(of_package).collect()
}

impl Model {
    /// Every option as it was given.
    fn options(&self) -> &BTreeMap<String, serde_yaml_ng::Value> {
        &self.options.all
    }

    /// The group that it belongs to.
    pub fn group(&self) -> Option<&str> {
        self.options().get("group").and_then(serde_yaml_ng::Value::as_str)
    }

    /// What its author noted about it, for people and other tools.
    pub fn meta(&self) -> Option<&serde_yaml_ng::Value> {
        self.options().get("meta")
    }

    /// The relations that its SQL names.
    pub fn reads(&self) -> impl Iterator<Item = TableName> {
        let relation = |source: &TableName| match source.schema.as_str() {
            QUARANTINE => source.clone(),
            _ => TableName::new(ACCEPTED, &source.name),
        };
        self.refs.iter().cloned().chain(self.sources.iter().map(relation))
    }
}

impl Project {
    /// A model that asks for columns, rendered with these: those of all that it reads.
    pub fn with_columns(&self, model: &Model, columns: Columns) -> Result<Model, Box<Diagnostic>> {
        models::render(model, &self.templates, Some(columns))
    }

    /// An open model whose query has these columns.
    pub fn with_own_columns(
        &self,
        model: &Model,
        columns: &[String],
    ) -> Result<Model, Box<Diagnostic>> {
        models::with_own_columns(model, &self.templates, columns)
    }
}

/// Files below `root/folder` whose name ends with one of `suffixes`, sorted, relative to `root`.
fn files(root: &Path, folder: &str, suffixes: &[&str], found: &mut Diagnostics) -> Vec<PathBuf> {
    let mut pending = vec![root.join(folder)];
    let mut files = Vec::new();
    while let Some(directory) = pending.pop() {
        let entries = match std::fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => {
                found.push(Diagnostic::file(&directory, format!("cannot be read: {error}")));
                continue;
            }
        };
        for entry in entries.flatten() {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            if path.is_dir() {
                pending.push(path);
            } else if suffixes.iter().any(|suffix| name.ends_with(suffix)) {
                files.push(path.strip_prefix(root).unwrap_or(&path).to_path_buf());
            }
        }
    }
    files.sort();
    files
}

/// The nearest of `known` to a name that does not exist, as a hint.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let scored = known.into_iter().map(|k| (strsim::damerau_levenshtein(name, k), k));
    let (distance, best) = scored.min()?;
    (distance <= (name.len() / 3).max(1)).then(|| format!("did you mean `{best}`?"))
}

/// Whether `name` can be a table, column or stream name without quotes.
pub fn is_identifier(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(|c| c.is_ascii_lowercase() || c == '_')
        && chars.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

/// The name that `name` becomes when what cannot be part of one is left out.
pub fn nearest_identifier(name: &str) -> Option<String> {
    let name: String = name
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
        .skip_while(|c| !c.is_ascii_lowercase())
        .collect();
    is_identifier(&name).then_some(name)
}
