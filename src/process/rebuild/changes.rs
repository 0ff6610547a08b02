//! What a deployment of a project would change in a lake.

use std::collections::BTreeMap;

use arrow::datatypes::{DataType, Schema};

use crate::{
    domain::TableName,
    lake::{Lake, view::is_hidden},
    models::Plan,
    process::{Error, Planned, rebuild::stored},
};

/// A table that is not as the project defines it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableChange {
    pub table: TableName,
    /// Whether there is none yet.
    pub is_new: bool,
    pub columns: Vec<ColumnChange>,
}

/// A column that is not as the project defines it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ColumnChange {
    Added(String),
    Removed(String),
    /// Its type was one and will be the other.
    Retyped(String, DataType, DataType),
}

impl TableChange {
    /// Whether queries that were right can fail: of columns that go, or become something else.
    pub fn is_breaking(&self) -> bool {
        self.columns.iter().any(|column| !matches!(column, ColumnChange::Added(_)))
    }
}

/// The tables that a deployment makes or makes anew, by their own definition, parents first.
pub async fn changes(planned: &Planned, lake: &Lake) -> Result<Vec<TableChange>, Error> {
    let mut found = Vec::new();
    for plan in stored(planned) {
        let table = plan.model.name.clone();
        let Some(stored) = lake.stored(&table).await? else {
            found.push(TableChange { table, is_new: true, columns: Vec::new() });
            continue;
        };
        if stored.table.fingerprint()? != plan.fingerprint {
            let columns = columns(stored.table.schema(), plan);
            found.push(TableChange { table, is_new: false, columns });
        }
    }
    Ok(found)
}

fn columns(before: &Schema, plan: &Plan) -> Vec<ColumnChange> {
    let types = |schema: &Schema| -> BTreeMap<String, DataType> {
        let fields = schema.fields().iter().filter(|field| !is_hidden(field.name()));
        fields.map(|field| (field.name().clone(), field.data_type().clone())).collect()
    };
    let (before, after) = (types(before), types(&plan.schema));
    let added = after.keys().filter(|name| !before.contains_key(*name));
    let mut changes: Vec<ColumnChange> = added.cloned().map(ColumnChange::Added).collect();
    for (name, was) in before {
        match after.get(&name) {
            None => changes.push(ColumnChange::Removed(name)),
            Some(is) if *is != was => changes.push(ColumnChange::Retyped(name, was, is.clone())),
            Some(_) => {}
        }
    }
    changes
}
