//! Properties files as they are written. Keys that say nothing to Sluice are read too, so that they
//! are no error.
#![allow(dead_code, reason = "read so that a known key is no error")]

use serde::Deserialize;
use serde_yaml_ng::{Mapping, Value};

use crate::project::unit_tests;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PropertiesFile {
    version: Option<Value>,
    #[serde(default)]
    pub models: Vec<PropertiesEntry>,
    #[serde(default)]
    pub seeds: Vec<PropertiesEntry>,
    #[serde(default)]
    pub sources: Vec<SourceEntry>,
    #[serde(default)]
    pub snapshots: Vec<PropertiesEntry>,
    #[serde(default)]
    analyses: Vec<Value>,
    #[serde(default)]
    macros: Vec<Value>,
    #[serde(default)]
    exposures: Vec<Value>,
    #[serde(default)]
    groups: Vec<Value>,
    #[serde(default, alias = "data_tests")]
    pub tests: Vec<TestEntry>,
    #[serde(default)]
    pub unit_tests: Vec<unit_tests::Entry>,
    #[serde(default)]
    metrics: Vec<Value>,
    #[serde(default)]
    semantic_models: Vec<Value>,
    #[serde(default)]
    saved_queries: Vec<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SourceEntry {
    pub name: String,
    #[serde(default)]
    pub tables: Vec<SourceTable>,
    pub description: Option<Value>,
    database: Option<Value>,
    schema: Option<Value>,
    loader: Option<Value>,
    pub loaded_at_field: Option<String>,
    loaded_at_query: Option<Value>,
    pub freshness: Option<Freshness>,
    quoting: Option<Value>,
    overrides: Option<Value>,
    pub config: Option<Value>,
    meta: Option<Value>,
    pub tags: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SourceTable {
    pub name: String,
    pub identifier: Option<String>,
    pub description: Option<Value>,
    #[serde(default)]
    pub columns: Vec<ColumnEntry>,
    #[serde(default, alias = "data_tests")]
    pub tests: Vec<Value>,
    pub loaded_at_field: Option<String>,
    loaded_at_query: Option<Value>,
    pub freshness: Option<Freshness>,
    quoting: Option<Value>,
    external: Option<Value>,
    pub config: Option<Value>,
    meta: Option<Value>,
    pub tags: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PropertiesEntry {
    pub name: String,
    #[serde(default)]
    pub description: String,
    #[serde(default)]
    pub columns: Vec<ColumnEntry>,
    #[serde(default)]
    pub config: Mapping,
    #[serde(default, alias = "data_tests")]
    pub tests: Vec<Value>,
    meta: Option<Value>,
    docs: Option<Value>,
    pub tags: Option<Value>,
    access: Option<Value>,
    group: Option<Value>,
    constraints: Option<Value>,
    latest_version: Option<Value>,
    deprecation_date: Option<Value>,
    time_spine: Option<Value>,
    /// What a snapshot is made of.
    pub relation: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ColumnEntry {
    pub name: String,
    #[serde(default)]
    pub description: String,
    data_type: Option<String>,
    #[serde(default, alias = "data_tests")]
    pub tests: Vec<Value>,
    meta: Option<Value>,
    pub tags: Option<Value>,
    quote: Option<Value>,
    constraints: Option<Value>,
    pub config: Option<Value>,
    policy_tags: Option<Value>,
    granularity: Option<Value>,
}

/// How old a source may be.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Freshness {
    pub warn_after: Option<Value>,
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
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TestEntry {
    pub name: String,
    #[serde(default)]
    pub description: String,
    #[serde(default)]
    pub config: Mapping,
    meta: Option<Value>,
    docs: Option<Value>,
    tags: Option<Value>,
}
