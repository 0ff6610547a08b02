//! What configures a model: `config(…)` in its file, `config:` in a properties file, and the folders
//! of `dbt_project.yml`, of which the nearer wins.

use std::collections::BTreeMap;

use serde_yaml_ng::{Mapping, Value};

use crate::project::{
    Materialized,
    data_tests::{OPTIONS as TEST_OPTIONS, TestOptions},
    is_identifier, nearest,
    snapshots::OPTIONS as SNAPSHOT_OPTIONS,
};

/// Schemas that hold something else.
const TAKEN: [&str; 7] =
    ["bronze", "seeds", "quarantine", "system", "accepted", "test_failures", "information_schema"];

/// Options that Sluice acts on.
const OURS: [&str; 7] =
    ["materialized", "on_incremental_change", "schema", "alias", "enabled", "tags", "column_types"];

/// Options that say something to people or to other tools, or how another engine lays out, loads or
/// guards a table. They are read, and change nothing.
const OTHERS: [&str; 47] = [
    "access",
    "batch_size",
    "begin",
    "bind",
    "cluster_by",
    "concurrent_batches",
    "contract",
    "copy_grants",
    "database",
    "delimiter",
    "description",
    "dist",
    "docs",
    "event_time",
    "file_format",
    "freshness",
    "full_refresh",
    "grants",
    "group",
    "incremental_predicates",
    "incremental_strategy",
    "indexes",
    "labels",
    "location_root",
    "lookback",
    "merge_exclude_columns",
    "merge_update_columns",
    "meta",
    "name",
    "on_configuration_change",
    "on_schema_change",
    "packages",
    "partition_by",
    "partitions",
    "persist_docs",
    "quote_columns",
    "quoting",
    "require_partition_filter",
    "sort",
    "sort_type",
    "sql_header",
    "static_analysis",
    "tblproperties",
    "transient",
    "unique_key",
    "unlogged",
    "where",
];

/// Options that make other engines run statements around a model.
pub(super) const HOOKS: [&str; 4] = ["pre_hook", "post_hook", "pre-hook", "post-hook"];

/// What has options.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Of {
    #[default]
    Model,
    Seed,
    Test,
    Snapshot,
}

/// Options of a model, each where it is given.
#[derive(Debug, Clone, Default)]
pub(super) struct Options {
    pub materialized: Option<Materialized>,
    pub refuses_recompute: Option<bool>,
    pub schema: Option<String>,
    pub alias: Option<String>,
    pub is_enabled: Option<bool>,
    pub tags: Vec<String>,
    /// What they are of: some have more of them.
    pub of: Of,
    /// Every option as it was given.
    pub all: BTreeMap<String, Value>,
}

impl Options {
    /// Takes one option. An error has its hint behind U+0001.
    pub(super) fn take(&mut self, key: &str, value: &Value) -> Result<(), String> {
        let text = || match value {
            Value::Null => Ok(None),
            Value::String(text) => Ok(Some(text.clone())),
            other => Err(format!("{key} is a text, not {}\u{1}", shown(other))),
        };
        match key {
            "materialized" => self.materialized = materialized(text()?.as_deref())?,
            "on_incremental_change" => {
                self.refuses_recompute = refuses_recompute(text()?.as_deref())?;
            }
            "schema" => self.schema = text()?.map(schema).transpose()?,
            "alias" => self.alias = text()?,
            "enabled" => match value {
                Value::Bool(is_enabled) => self.is_enabled = Some(*is_enabled),
                other => {
                    let message = format!("enabled is true or false, not {}\u{1}", shown(other));
                    return Err(message);
                }
            },
            "tags" => self.tags.extend(tags(value)?),
            "delimiter" if text()?.is_some_and(|delimiter| delimiter != ",") => {
                let hint = "write the file with commas";
                return Err(format!("a seed's cells are parted by commas\u{1}{hint}"));
            }
            _ if self.of == Of::Test && TEST_OPTIONS.contains(&key) => {
                TestOptions::default().take(key, value)?;
            }
            "target_schema" if self.of == Of::Snapshot => {
                self.schema = text()?.map(schema).transpose()?;
            }
            _ if self.of == Of::Snapshot && SNAPSHOT_OPTIONS.contains(&key) => {}
            _ if OURS.contains(&key) || OTHERS.contains(&key) => {}
            _ if TEST_OPTIONS.contains(&key) => {
                return Err(format!("{key} is an option of data tests, not of models\u{1}"));
            }
            // It is told where the seed is read.
            _ if HOOKS.contains(&key) && self.of == Of::Seed => {}
            _ if HOOKS.contains(&key) => {
                let hint = "Sluice runs no statements of a project; remove it";
                return Err(format!("{key} is not run\u{1}{hint}"));
            }
            _ => {
                let known = OURS.into_iter().chain(OTHERS);
                let hint = nearest(key, known)
                    .unwrap_or_else(|| format!("options are {}", OURS.join(", ")));
                return Err(format!("there is no option `{key}`\u{1}{hint}"));
            }
        }
        self.all.insert(key.to_owned(), value.clone());
        Ok(())
    }

    /// These options, over those of `base` where both are given. Tags add up.
    pub(super) fn over(self, base: &Self) -> Self {
        let mut all = base.all.clone();
        all.extend(self.all);
        let mut tags = base.tags.clone();
        tags.extend(self.tags);
        Self {
            materialized: self.materialized.or(base.materialized),
            refuses_recompute: self.refuses_recompute.or(base.refuses_recompute),
            schema: self.schema.or_else(|| base.schema.clone()),
            alias: self.alias.or_else(|| base.alias.clone()),
            is_enabled: self.is_enabled.or(base.is_enabled),
            tags,
            of: if self.of == Of::Model { base.of } else { self.of },
            all,
        }
    }
}

/// The options that a tree of folders gives what stands at `path`: a project, its folders, and the
/// name of a model. Keys with `+` are options, and so are known ones without.
pub(super) fn of_folders(tree: &Mapping, path: &[&str], of: Of) -> Result<Options, String> {
    let mut options = Options { of, ..Options::default() };
    let mut base = options.clone();
    for (key, value) in tree {
        let Some(key) = key.as_str() else { continue };
        let plain = key.strip_prefix('+');
        let is_folder = value.is_mapping() && plain.is_none() && !OTHERS.contains(&key);
        if let Some(option) = plain.or_else(|| (!is_folder).then_some(key)) {
            base.take(option, value)?;
        } else if let (Some((first, rest)), Value::Mapping(inner)) = (path.split_first(), value)
            && key == *first
        {
            options = of_folders(inner, rest, of)?;
        }
    }
    Ok(options.over(&base))
}

/// The option `materialized`; an error has its hint behind U+0001.
fn materialized(option: Option<&str>) -> Result<Option<Materialized>, String> {
    match option {
        None => Ok(None),
        Some("table" | "incremental" | "materialized_view") => Ok(Some(Materialized::Table)),
        Some("view" | "ephemeral") => Ok(Some(Materialized::View)),
        Some(other) => {
            Err(format!("materialized='{other}' is not known\u{1}use 'table' or 'view'"))
        }
    }
}

/// The option `on_incremental_change`.
fn refuses_recompute(option: Option<&str>) -> Result<Option<bool>, String> {
    match option {
        None => Ok(None),
        Some("fallback") => Ok(Some(false)),
        Some("fail") => Ok(Some(true)),
        Some(other) => {
            let hint = "use 'fail' or 'fallback'";
            Err(format!("on_incremental_change='{other}' is not known\u{1}{hint}"))
        }
    }
}

fn schema(name: String) -> Result<String, String> {
    if TAKEN.contains(&name.as_str()) {
        let hint = "take another name, such as 'silver' or 'gold'";
        return Err(format!("schema '{name}' is not for models\u{1}{hint}"));
    }
    if is_identifier(&name) {
        Ok(name)
    } else {
        Err(format!("`{name}` cannot be a schema\u{1}use a-z, 0-9 and _"))
    }
}

pub(super) fn tags(value: &Value) -> Result<Vec<String>, String> {
    let wrong = || format!("tags are a text or a list of texts, not {}\u{1}", shown(value));
    match value {
        Value::Null => Ok(Vec::new()),
        Value::String(tag) => Ok(vec![tag.clone()]),
        Value::Sequence(tags) => {
            tags.iter().map(|tag| tag.as_str().map(str::to_owned).ok_or_else(wrong)).collect()
        }
        _ => Err(wrong()),
    }
}

/// A value as YAML has it, for messages.
pub(super) fn shown(value: &Value) -> String {
    serde_yaml_ng::to_string(value).unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearer_folder_wins_and_tags_add_up() {
        let tree = "+tags: all\nshop:\n  materialized: table\n  staging:\n    +materialized: view\n    \
                    +tags: [raw]\n    stg_a: {+schema: silver}\n";
        let tree: Mapping = serde_yaml_ng::from_str(tree).expect("yaml");
        let of = |path: &[&str]| of_folders(&tree, path, Of::Model).expect("options");
        let staged = of(&["shop", "staging", "stg_a"]);
        assert_eq!(staged.materialized, Some(Materialized::View));
        assert_eq!(staged.schema.as_deref(), Some("silver"));
        assert_eq!(staged.tags, ["all", "raw"]);
        assert_eq!(of(&["shop", "orders"]).materialized, Some(Materialized::Table));
        assert_eq!(of(&["other", "orders"]).materialized, None);
    }
}
