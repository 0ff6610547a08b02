//! What stands outside of a project and reads its tables, and who owns what: dbt's exposures and
//! groups.

use std::{path::PathBuf, sync::Arc};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    domain::{ACCEPTED, TableName},
    project::{
        Diagnostic, Diagnostics, Model, jinja::Templates, nearest, properties::PropertiesText,
        yaml::Ignored,
    },
};

/// A dashboard, notebook or program that reads tables.
#[derive(Debug, Clone)]
pub struct Exposure {
    pub name: String,
    /// The file that it stands in.
    pub file: PathBuf,
    pub label: String,
    pub kind: String,
    pub url: Option<String>,
    pub description: String,
    pub owner: Owner,
    pub depends_on: Vec<TableName>,
    pub tags: Vec<String>,
}

/// Models that belong together, and to whom.
#[derive(Debug, Clone)]
pub struct Group {
    pub name: String,
    pub owner: Owner,
    pub description: String,
}

/// Who answers for something.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub struct Owner {
    pub name: Option<String>,
    pub email: Option<String>,
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.name, &self.email) {
            (Some(name), Some(email)) => write!(f, "{name} <{email}>"),
            (Some(one), None) | (None, Some(one)) => f.write_str(one),
            (None, None) => Ok(()),
        }
    }
}

/// An exposure as its file has it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "read so that a known key is no error")]
pub(super) struct ExposureEntry {
    name: String,
    label: Option<String>,
    #[serde(rename = "type")]
    kind: Kind,
    owner: Owner,
    url: Option<String>,
    #[serde(default)]
    description: String,
    #[serde(default)]
    depends_on: Vec<String>,
    #[serde(default)]
    tags: Vec<String>,
    maturity: Option<Maturity>,
    meta: Option<Ignored>,
    config: Option<Ignored>,
    enabled: Option<Ignored>,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Dashboard,
    Notebook,
    Analysis,
    Ml,
    Application,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Maturity {
    Low,
    Medium,
    High,
}

/// A group as its file has it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "read so that a known key is no error")]
pub(super) struct GroupEntry {
    name: String,
    owner: Owner,
    #[serde(default)]
    description: String,
    config: Option<Ignored>,
    meta: Option<Ignored>,
}

/// Entries with the file that each stands in.
pub(super) type Entries<T> = Vec<(Arc<PropertiesText>, T)>;

/// The exposures; what is wrong with them is reported.
pub(super) fn read(
    entries: Entries<ExposureEntry>,
    templates: &Templates,
    found: &mut Diagnostics,
) -> Vec<Exposure> {
    let mut exposures: Vec<Exposure> = Vec::new();
    for (file, entry) in entries {
        if exposures.iter().any(|other| other.name == entry.name) {
            let message = format!("exposure `{}`: there is another of that name", entry.name);
            found.push(file.at_path(&[&entry.name], message));
            continue;
        }
        let mut depends_on = Vec::new();
        for call in &entry.depends_on {
            match templates.relation(call) {
                Ok(table) if table.schema == ACCEPTED => {
                    depends_on.push(TableName::new("bronze", &table.name));
                }
                Ok(table) => depends_on.push(table),
                Err(message) => {
                    let (message, hint) = message.split_once('\u{1}').unwrap_or((&message, ""));
                    let text = format!("exposure `{}`: {message}", entry.name);
                    let diagnostic = file.at_path(&[&entry.name, call], text);
                    found.push(diagnostic.maybe_hint((!hint.is_empty()).then(|| hint.to_owned())));
                }
            }
        }
        exposures.push(Exposure {
            label: entry.label.unwrap_or_else(|| entry.name.clone()),
            kind: format!("{:?}", entry.kind).to_lowercase(),
            name: entry.name,
            file: file.file.clone(),
            url: entry.url,
            description: entry.description,
            owner: entry.owner,
            depends_on,
            tags: entry.tags,
        });
    }
    exposures
}

/// The groups; models of groups that there are not are reported.
pub(super) fn groups(
    entries: Entries<GroupEntry>,
    models: &[Model],
    found: &mut Diagnostics,
) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for (file, entry) in entries {
        let GroupEntry { name, owner, description, .. } = entry;
        if groups.iter().any(|other| other.name == name) {
            let message = format!("group `{name}`: there is another of that name");
            found.push(file.at_path(&[&name], message));
            continue;
        }
        groups.push(Group { name, owner, description });
    }
    for model in models {
        let Some(group) = model.group() else { continue };
        if groups.iter().any(|known| known.name == group) {
            continue;
        }
        let message = format!("model `{}`: there is no group `{group}`", model.name.name);
        let near = nearest(group, groups.iter().map(|known| known.name.as_str()));
        let hint = near.unwrap_or_else(|| "groups are described under `groups:`".to_owned());
        let diagnostic = match &model.described_in {
            Some(file) if !model.source.contains(group) => {
                file.at_path(&[&model.name.name, group], message)
            }
            _ => Diagnostic::file(&model.file, message).find(&model.source, group),
        };
        found.push(diagnostic.hint(hint));
    }
    groups
}
