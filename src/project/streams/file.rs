//! A contract as its file has it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::domain::contract::{OnError, Severity, Validation};

const DEFAULT_PARTITIONS: u32 = 4;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::project) struct StreamFile {
    pub(super) name: String,
    #[serde(default)]
    pub(super) description: String,
    #[serde(default = "json")]
    pub(super) format: String,
    #[serde(default = "default_partitions")]
    pub(super) partitions: u32,
    #[serde(default)]
    pub(super) topic: TopicEntry,
    #[schemars(with = "Option<serde_json::Value>")]
    pub(super) key: Option<serde_yaml_ng::Value>,
    /// A field, a list of fields, `content` or `none`.
    #[schemars(with = "Option<serde_json::Value>")]
    pub(super) event_id: Option<serde_yaml_ng::Value>,
    pub(super) event_time: Option<String>,
    pub(super) deletes: Option<DeletesEntry>,
    #[serde(default)]
    pub(super) records: RecordsName,
    #[serde(default)]
    pub(super) on_error: OnErrorName,
    #[serde(default)]
    pub(super) validation: ValidationName,
    pub(super) field_rule: Option<String>,
    pub(super) fields: Vec<FieldEntry>,
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, serde_json::Value>")]
    pub(super) rules: BTreeMap<String, serde_yaml_ng::Value>,
}

fn json() -> String {
    "json".to_owned()
}

fn default_partitions() -> u32 {
    DEFAULT_PARTITIONS
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::project) struct TopicEntry {
    pub(super) name: Option<String>,
    #[serde(default)]
    pub(super) mode: TopicMode,
    pub(super) replication: Option<u16>,
    pub(super) retention: Option<String>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::project) enum TopicMode {
    #[default]
    Create,
    External,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::project) struct FieldEntry {
    pub(super) name: String,
    #[serde(rename = "type")]
    pub(super) data_type: String,
    pub(super) source: Option<String>,
    pub(super) format: Option<String>,
    #[serde(default)]
    pub(super) required: bool,
    pub(super) rule: Option<String>,
    /// A list, or [`AcceptedEntry`].
    #[schemars(with = "Option<serde_json::Value>")]
    pub(super) accepted_values: Option<serde_yaml_ng::Value>,
    pub(super) range: Option<RangeEntry>,
    #[serde(default)]
    pub(super) description: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::project) struct RangeEntry {
    pub(super) name: Option<String>,
    pub(super) min: Option<f64>,
    pub(super) max: Option<f64>,
}

/// What deletes.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::project) struct DeletesEntry {
    pub(super) field: String,
    #[schemars(with = "Vec<serde_json::Value>")]
    pub(super) values: Vec<serde_yaml_ng::Value>,
    #[serde(default)]
    pub(super) tombstones: bool,
}

/// What a record holds.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::project) enum RecordsName {
    #[default]
    Events,
    Arrays,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::project) enum OnErrorName {
    RejectBatch,
    RejectEvent,
    #[default]
    Quarantine,
}

#[derive(Debug, Default, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::project) enum ValidationName {
    None,
    Wire,
    #[default]
    Schema,
}

/// Accepted values with the name of their rule.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::project) struct AcceptedEntry {
    pub(super) name: Option<String>,
    #[schemars(with = "Vec<serde_json::Value>")]
    pub(super) values: Vec<serde_yaml_ng::Value>,
}

/// A rule that says more than its SQL.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::project) struct RuleEntry {
    pub(super) sql: String,
    #[serde(default)]
    pub(super) severity: SeverityName,
}

#[derive(Debug, Default, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::project) enum SeverityName {
    #[default]
    Error,
    Warn,
}

impl From<OnErrorName> for OnError {
    fn from(name: OnErrorName) -> Self {
        match name {
            OnErrorName::RejectBatch => Self::RejectBatch,
            OnErrorName::RejectEvent => Self::RejectEvent,
            OnErrorName::Quarantine => Self::Quarantine,
        }
    }
}

impl From<ValidationName> for Validation {
    fn from(name: ValidationName) -> Self {
        match name {
            ValidationName::None => Self::None,
            ValidationName::Wire => Self::Wire,
            ValidationName::Schema => Self::Schema,
        }
    }
}

impl From<SeverityName> for Severity {
    fn from(name: SeverityName) -> Self {
        match name {
            SeverityName::Error => Self::Error,
            SeverityName::Warn => Self::Warn,
        }
    }
}
