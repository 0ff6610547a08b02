//! What the planner remembers of relations that queries read.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use arrow::datatypes::SchemaRef;

use crate::{
    domain::{ACCEPTED, TableName},
    models::{
        Class, Plan, Relation,
        classify::{Rows, Seen},
    },
    project::Seed,
};

/// What the planner remembers of a relation.
pub(super) struct Known {
    pub fingerprint: String,
    /// Whether it is part of what reads it, as if that had its SQL in it.
    pub is_view: bool,
    /// What decides the values of each column, where the fingerprint does not cover that.
    decided_by: BTreeMap<String, String>,
    rows: Rows,
    /// See [`Seen::is_side`].
    is_side: bool,
    pub streams: Vec<String>,
    pub schema: SchemaRef,
}

impl Known {
    pub(super) fn stream(stream: &str, relation: &Relation) -> Self {
        Self {
            fingerprint: TableName::new(ACCEPTED, stream).to_string(),
            is_view: false,
            decided_by: relation.columns.clone(),
            rows: Rows::Arrive,
            is_side: false,
            streams: vec![stream.to_owned()],
            schema: Arc::clone(&relation.schema),
        }
    }

    pub(super) fn quarantine(name: &TableName, relation: &Relation) -> Self {
        Self {
            fingerprint: name.to_string(),
            is_view: false,
            decided_by: BTreeMap::new(),
            rows: Rows::Replaced,
            is_side: false,
            streams: vec![name.name.clone()],
            schema: Arc::clone(&relation.set_aside),
        }
    }

    pub(super) fn seed(seed: &Seed) -> Self {
        // A seed's rows are no part of a fingerprint: a changed seed is a change like any other.
        Self {
            fingerprint: seed.name.to_string(),
            is_view: false,
            decided_by: BTreeMap::new(),
            rows: Rows::Replaced,
            is_side: true,
            streams: Vec::new(),
            schema: seed.rows.schema(),
        }
    }

    pub(super) fn model(plan: &Plan) -> Self {
        Self {
            fingerprint: plan.fingerprint.clone(),
            is_view: plan.class == Class::View,
            decided_by: BTreeMap::new(),
            rows: match plan.class {
                Class::Append => Rows::Grow,
                Class::View | Class::Recompute => Rows::Replaced,
                _ => Rows::Change,
            },
            is_side: !plan.class.is_by_offset(),
            streams: plan.streams.clone(),
            schema: Arc::clone(&plan.schema),
        }
    }

    pub(super) fn columns(&self) -> impl Iterator<Item = &str> {
        self.schema.fields().iter().map(|field| field.name().as_str())
    }

    pub(super) fn seen(&self) -> Seen {
        let Self { rows, is_side, .. } = *self;
        Seen { rows, is_side, is_fed: !self.streams.is_empty() }
    }

    /// What it adds to the fingerprint of a model that reads these columns of it.
    pub(super) fn fingerprint_of(&self, read: Option<&BTreeSet<String>>) -> String {
        let read =
            self.decided_by.iter().filter(|(name, _)| read.is_none_or(|r| r.contains(*name)));
        let columns: Vec<String> = read.map(|(name, by)| format!("{name} {by}")).collect();
        format!("{} {}", self.fingerprint, columns.join(","))
    }
}
