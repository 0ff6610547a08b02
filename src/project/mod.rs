//! A project folder in dbt's layout: streams, models, seeds, checked and in order.
//!
//! Reading touches nothing but the folder. Everything that is wrong is reported at once.

mod compared;
mod diagnostic;
mod models;
mod properties;
mod seeds;
mod streams;
mod yaml;

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

pub use compared::{compared, vanished};
pub use diagnostic::{Diagnostic, Diagnostics, Level};
pub use properties::{PropertiesText, check_described};
use serde::Deserialize;

use crate::domain::{TableName, contract::Contract};

/// A project, read and checked.
#[derive(Debug)]
pub struct Project {
    pub root: PathBuf,
    pub name: String,
    pub streams: Vec<Contract>,
    pub seeds: Vec<Seed>,
    /// Parents before children.
    pub models: Vec<Model>,
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
    pub materialized: Materialized,
    /// Whether it is an error that it can only be kept by computing it whole.
    pub refuses_recompute: bool,
    /// Models and seeds it reads.
    pub refs: Vec<TableName>,
    /// Streams it reads.
    pub sources: Vec<TableName>,
    pub description: String,
    pub columns: BTreeMap<String, String>,
    /// The file that describes its columns.
    pub described_in: Option<Arc<PropertiesText>>,
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

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ProjectFile {
    name: String,
    #[serde(default)]
    #[allow(dead_code, reason = "dbt projects carry it")]
    version: Option<serde_yaml_ng::Value>,
    #[serde(default)]
    vars: BTreeMap<String, serde_yaml_ng::Value>,
}

/// Reads and checks the project in `root`.
pub fn load(root: &Path) -> Result<Project, Diagnostics> {
    let mut found = Diagnostics::default();
    if !root.is_dir() {
        let message = "no such project folder".to_owned();
        found.push(Diagnostic::file(root, message).hint("pass the folder that holds sluice.yml"));
        return Err(found);
    }
    let file = root.join("sluice.yml");
    if !file.is_file() {
        let message = "a project needs a sluice.yml".to_owned();
        let hint = "create it with a line `name: my_project`";
        found.push(Diagnostic::file(Path::new("sluice.yml"), message).hint(hint));
        return Err(found);
    }
    let head: ProjectFile =
        yaml::read(root, Path::new("sluice.yml"), &mut found).unwrap_or_default();
    let streams = streams::read(root, &mut found);
    let properties = properties::read(root, &mut found);
    let seeds = seeds::read(root, &properties, &mut found);
    for seed in &seeds {
        let file = properties.get(&seed.name.name).and_then(|p| p.file.as_deref());
        let schema = seed.rows.schema();
        let columns: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
        check_described(&seed.name.name, seed.columns.keys(), file, &columns, &mut found);
    }
    let models = models::read(root, &head.vars, &streams, &seeds, &properties, &mut found);
    if found.is_empty() {
        Ok(Project { root: root.to_path_buf(), name: head.name, streams, seeds, models })
    } else {
        Err(found)
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
    (distance <= name.len().max(3) / 2).then(|| format!("did you mean `{best}`?"))
}

/// Whether `name` can be a table, column or stream name without quotes.
fn is_identifier(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(|c| c.is_ascii_lowercase() || c == '_')
        && chars.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}
