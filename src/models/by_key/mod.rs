//! *by key*: every other query that has a key through which changes of its input can be traced.
//!
//! A change touches the keys of its rows; the model's own SQL over the input's rows under these keys
//! gives what the table has to hold for them. So it is right by construction, whatever the SQL does
//! within a key, and a superset of the touched keys would only be slower. It is the method of
//! "recompute the affected groups" of materialized views (Gupta, Mumick: Maintenance of
//! Materialized Views, 1995).

mod cache;
mod safe;
mod state;
mod trace;

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, RecordBatch},
    datatypes::SchemaRef,
    row::{RowConverter, SortField},
};
use datafusion::{
    common::tree_node::{TreeNode as _, TreeNodeRecursion},
    error::DataFusionError,
    execution::SessionState,
    logical_expr::{Expr, ExprSchemable as _, LogicalPlan, TableScan},
    physical_expr::PhysicalExpr,
};

use crate::{
    domain::{TableName, change::KEY, sql_exprs::compile},
    models::{
        KeptProgram, KeptState, ProgramError,
        by_key::{
            safe::{always_computes, never_fails},
            state::ByKeyState,
            trace::{Traced, trace},
        },
        kept::with_hidden,
        lookup::Side,
        plan::scanned_name,
        reads::columns_read,
        steps::evaluate,
        types::data_type,
    },
};

/// A model that is kept so, compiled.
#[derive(Debug)]
pub(super) struct ByKeyProgram {
    /// The model.
    plan: LogicalPlan,
    sides: Vec<Side>,
    /// The columns of the input, and those of them that the model reads.
    input: SchemaRef,
    columns: Vec<usize>,
    /// Of a row of the input its key, in types of the table.
    keys: Vec<Arc<dyn PhysicalExpr>>,
    /// The columns of the model that hold it.
    key_columns: Vec<usize>,
    visible: SchemaRef,
    stored: SchemaRef,
}

/// A plan whose rows follow, key by key, from those of one relation.
pub(super) struct Traceable<'plan> {
    /// The columns of the plan that hold the key, and what that is of a row of the relation.
    key: Vec<(usize, Expr)>,
    scan: &'plan TableScan,
    sides: Vec<&'plan LogicalPlan>,
}

impl<'plan> Traceable<'plan> {
    /// The plan as that; or why its rows cannot be traced to keys of `driving`.
    pub(super) fn of(
        plan: &'plan LogicalPlan,
        driving: &TableName,
    ) -> Result<Result<Self, String>, DataFusionError> {
        let mut sides = Vec::new();
        let traced = trace(plan, driving, &mut sides);
        let Traced { columns, keys } = match traced {
            Ok(traced) => traced,
            Err(reason) => return Ok(Err(reason)),
        };
        let Some(scan) = scan_of(plan, driving)? else {
            return Ok(Err(format!("reads nothing of {driving}")));
        };
        let Some(keys) = keys else { return Ok(Err("groups no rows".to_owned())) };
        let schema = &scan.projected_schema;
        let mut key: Vec<(usize, Expr)> = Vec::new();
        let mut may_fail = false;
        for (at, column) in columns.into_iter().enumerate() {
            let Some(column) = column.filter(|c| keys.contains(c)) else {
                continue;
            };
            let of = column.get_type(schema.as_ref())?;
            let is_there = key.iter().any(|(_, other)| *other == column);
            // Encoded, equal ones may be told apart.
            if is_there || of.is_floating() || of.is_nested() {
                continue;
            }
            // It is computed for every row, also for those that the model leaves out.
            match always_computes(&column, schema)? && never_fails(&of, &data_type(&of)) {
                true => key.push((at, column)),
                false => may_fail = true,
            }
        }
        if key.is_empty() {
            let reason = match may_fail {
                true => "groups by what may fail for rows that it leaves out",
                false => "shows no column that its rows are grouped by",
            };
            return Ok(Err(reason.to_owned()));
        }
        Ok(Ok(Self { key, scan, sides }))
    }

    /// The plans of what is joined to the rows of the relation.
    pub(super) fn sides(&self) -> &[&'plan LogicalPlan] {
        &self.sides
    }
}

/// The first scan of a relation in a plan.
fn scan_of<'plan>(
    plan: &'plan LogicalPlan,
    name: &TableName,
) -> Result<Option<&'plan TableScan>, DataFusionError> {
    let mut found = None;
    plan.apply(|node| match node {
        LogicalPlan::TableScan(scan) if scanned_name(scan) == *name => {
            found = Some(scan);
            Ok(TreeNodeRecursion::Stop)
        }
        _ => Ok(TreeNodeRecursion::Continue),
    })?;
    Ok(found)
}

impl ByKeyProgram {
    /// Compiles `plan`, which is `traceable`. `tables`: the stored tables behind each side.
    pub(super) fn compile(
        plan: &LogicalPlan,
        traceable: &Traceable<'_>,
        tables: Vec<Vec<TableName>>,
        state: &SessionState,
        visible: SchemaRef,
    ) -> Result<Result<Self, String>, DataFusionError> {
        let all = visible.fields().iter().map(|f| SortField::new(f.data_type().clone()));
        if !RowConverter::supports_fields(&all.collect::<Vec<_>>()) {
            return Ok(Err("has columns of a type that cannot be compared".to_owned()));
        }
        let schema = &traceable.scan.projected_schema;
        let (mut keys, mut key_columns) = (Vec::new(), Vec::new());
        for (at, expr) in &traceable.key {
            let expr = expr.clone().cast_to(visible.field(*at).data_type(), schema.as_ref())?;
            keys.push(compile(expr, schema, state)?);
            key_columns.push(*at);
        }
        let name = scanned_name(traceable.scan);
        let read = columns_read(plan.clone(), state, &name.schema)?;
        let read = read.get(&(name.schema, name.name));
        let all = schema.fields().iter().enumerate();
        let columns = all.filter(|(_, field)| read.is_none_or(|read| read.contains(field.name())));
        let plans = traceable.sides.iter().copied().cloned().zip(tables);
        let stored = with_hidden(&[KEY], &visible);
        Ok(Ok(Self {
            plan: plan.clone(),
            sides: plans.map(|(plan, tables)| Side { plan, tables }).collect(),
            input: Arc::clone(schema.inner()),
            columns: columns.map(|(at, _)| at).collect(),
            keys,
            key_columns,
            visible,
            stored,
        }))
    }

    /// The keys of rows of the input.
    fn keys_of(&self, rows: &RecordBatch) -> Result<Vec<ArrayRef>, DataFusionError> {
        let columns: Vec<usize> = (0..self.input.fields().len()).collect();
        evaluate(&self.keys, &rows.project(&columns)?)
    }
}

impl KeptProgram for ByKeyProgram {
    fn stored_schema(&self) -> &SchemaRef {
        &self.stored
    }

    fn schema(&self) -> &SchemaRef {
        &self.visible
    }

    fn begin(self: Arc<Self>) -> Result<Box<dyn KeptState>, ProgramError> {
        Ok(Box::new(ByKeyState::new(self)?))
    }

    fn sides(&self) -> &[Side] {
        &self.sides
    }

    fn by_key(&self) -> Option<&LogicalPlan> {
        Some(&self.plan)
    }
}
