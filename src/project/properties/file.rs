//! Properties files as they are written. Keys that say nothing to Sluice are read too, so that they
//! are no error.
#![allow(dead_code, reason = "read so that a known key is no error")]

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_yaml_ng::{Mapping, Value};

use crate::project::{
    exposures::{ExposureEntry, GroupEntry},
    unit_tests,
    yaml::Ignored,
};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::project) struct PropertiesFile {
    version: Option<Ignored>,
    #[serde(default)]
    pub models: Vec<PropertiesEntry>,
    #[serde(default)]
    pub seeds: Vec<PropertiesEntry>,
    #[serde(default)]
    pub sources: Vec<SourceEntry>,
    #[serde(default)]
    pub snapshots: Vec<PropertiesEntry>,
    #[serde(default)]
    analyses: Vec<Ignored>,
    #[serde(default)]
    macros: Vec<Ignored>,
    #[serde(default)]
    pub exposures: Vec<ExposureEntry>,
    #[serde(default)]
    pub groups: Vec<GroupEntry>,
    #[serde(default, alias = "data_tests")]
    pub tests: Vec<TestEntry>,
    #[serde(default)]
    pub unit_tests: Vec<unit_tests::Entry>,
    #[serde(default)]
    metrics: Vec<Ignored>,
    #[serde(default)]
    semantic_models: Vec<Ignored>,
    #[serde(default)]
    saved_queries: Vec<Ignored>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::project) struct SourceEntry {
    pub name: String,
    #[serde(default)]
    pub tables: Vec<SourceTable>,
    #[schemars(with = "Option<serde_json::Value>")]
    pub description: Option<Value>,
    database: Option<Ignored>,
    schema: Option<Ignored>,
    loader: Option<Ignored>,
    pub loaded_at_field: Option<String>,
    loaded_at_query: Option<Ignored>,
    pub freshness: Option<Freshness>,
    quoting: Option<Ignored>,
    overrides: Option<Ignored>,
    #[schemars(with = "Option<serde_json::Value>")]
    pub config: Option<Value>,
    meta: Option<Ignored>,
    #[schemars(with = "Option<serde_json::Value>")]
    pub tags: Option<Value>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::project) struct SourceTable {
    pub name: String,
    pub identifier: Option<String>,
    #[schemars(with = "Option<serde_json::Value>")]
    pub description: Option<Value>,
    #[serde(default)]
    pub columns: Vec<ColumnEntry>,
    #[serde(default, alias = "data_tests")]
    #[schemars(with = "Vec<serde_json::Value>")]
    pub tests: Vec<Value>,
    pub loaded_at_field: Option<String>,
    loaded_at_query: Option<Ignored>,
    pub freshness: Option<Freshness>,
    quoting: Option<Ignored>,
    external: Option<Ignored>,
    #[schemars(with = "Option<serde_json::Value>")]
    pub config: Option<Value>,
    meta: Option<Ignored>,
    #[schemars(with = "Option<serde_json::Value>")]
    pub tags: Option<Value>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::project) struct PropertiesEntry {
    pub name: String,
    #[serde(default)]
    pub description: String,
    #[serde(default)]
    pub columns: Vec<ColumnEntry>,
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, serde_json::Value>")]
    pub config: Mapping,
    #[serde(default, alias = "data_tests")]
    #[schemars(with = "Vec<serde_json::Value>")]
    pub tests: Vec<Value>,
    #[schemars(with = "Option<serde_json::Value>")]
    pub meta: Option<Value>,
    docs: Option<Ignored>,
    #[schemars(with = "Option<serde_json::Value>")]
    pub tags: Option<Value>,
    access: Option<Ignored>,
    pub group: Option<String>,
    constraints: Option<Ignored>,
    latest_version: Option<Ignored>,
    deprecation_date: Option<Ignored>,
    time_spine: Option<Ignored>,
    /// What a snapshot is made of.
    pub relation: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::project) struct ColumnEntry {
    pub name: String,
    #[serde(default)]
    pub description: String,
    data_type: Option<String>,
    #[serde(default, alias = "data_tests")]
    #[schemars(with = "Vec<serde_json::Value>")]
    pub tests: Vec<Value>,
    meta: Option<Ignored>,
    #[schemars(with = "Option<serde_json::Value>")]
    pub tags: Option<Value>,
    quote: Option<Ignored>,
    constraints: Option<Ignored>,
    #[schemars(with = "Option<serde_json::Value>")]
    pub config: Option<Value>,
    policy_tags: Option<Ignored>,
    granularity: Option<Ignored>,
}

/// How old a source may be.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::project) struct Freshness {
    #[schemars(with = "Option<serde_json::Value>")]
    pub warn_after: Option<Value>,
    #[schemars(with = "Option<serde_json::Value>")]
    pub error_after: Option<Value>,
    pub filter: Option<String>,
}

impl Freshness {
    /// It as a data test, unless it asks for nothing.
    pub(super) fn as_test(&self) -> Option<Value> {
        let limits = [("warn_after", &self.warn_after), ("error_after", &self.error_after)];
        let is_none =
            |value: &&Value| value.is_null() || value.get("count").is_some_and(Value::is_null);
        let limits = limits.into_iter().filter_map(|(key, limit)| {
            Some((Value::from(key), limit.as_ref().filter(|limit| !is_none(limit))?.clone()))
        });
        let mut inner: Mapping = limits.collect();
        if inner.is_empty() {
            return None;
        }
        if let Some(filter) = &self.filter {
            inner.insert("where".into(), filter.as_str().into());
        }
        Some(Value::Mapping(
            [(Value::from("freshness"), Value::Mapping(inner))].into_iter().collect(),
        ))
    }
}

/// A data test that is a query in a file of its own.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::project) struct TestEntry {
    pub name: String,
    #[serde(default)]
    pub description: String,
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, serde_json::Value>")]
    pub config: Mapping,
    meta: Option<Ignored>,
    docs: Option<Ignored>,
    tags: Option<Ignored>,
}
