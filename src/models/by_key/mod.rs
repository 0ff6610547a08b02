//! *by key*: every other query that has a key through which changes of its inputs can be traced.
//!
//! A change touches the keys of its rows; the model's own SQL over the inputs' rows under these keys
//! gives what the table has to hold for them. So it is right by construction, whatever the SQL does
//! within a key, and a superset of the touched keys would only be slower. It is the method of
//! "recompute the affected groups" of materialized views (Gupta, Mumick: Maintenance of
//! Materialized Views, 1995).

mod cache;
mod safe;
mod state;
mod subqueries;
mod trace;

use std::{collections::BTreeSet, sync::Arc};

use arrow::{
    array::{ArrayRef, RecordBatch},
    datatypes::{DataType, SchemaRef},
    row::{RowConverter, SortField},
};
use datafusion::{
    common::tree_node::{TreeNode as _, TreeNodeRecursion},
    error::DataFusionError,
    execution::SessionState,
    logical_expr::{ExprSchemable as _, LogicalPlan, TableScan},
    physical_expr::PhysicalExpr,
};

use crate::{
    domain::{TableName, change::KEY, sql_exprs::compile},
    models::{
        KeptProgram, KeptState, ProgramError,
        by_key::{
            safe::{always_computes, never_fails},
            state::ByKeyState,
            trace::{Key, Traced, trace},
        },
        kept::with_hidden,
        lookup::Side,
        plan::{DEFAULT_SCHEMA, scanned_name},
        reads::columns_read,
        steps::evaluate,
        types::data_type,
    },
};

pub(super) use subqueries::decorrelated;

/// A model that is kept so, compiled.
#[derive(Debug)]
pub(super) struct ByKeyProgram {
    /// The model.
    plan: LogicalPlan,
    sides: Vec<Side>,
    inputs: Vec<InputRows>,
    /// The columns of the model that hold the key.
    key_columns: Vec<usize>,
    visible: SchemaRef,
    stored: SchemaRef,
}

/// What is known of the rows of one input.
#[derive(Debug)]
struct InputRows {
    schema: SchemaRef,
    /// The columns that the model reads.
    columns: Vec<usize>,
    /// Of a row its key, in types of the table.
    keys: Vec<Arc<dyn PhysicalExpr>>,
}

/// A plan whose rows follow, key by key, from those of some relations.
pub(super) struct Traceable<'plan> {
    /// The columns of the plan that hold the key, and what that is of a row of each relation.
    key: Vec<(usize, Key)>,
    scans: Vec<&'plan TableScan>,
    sides: Vec<&'plan LogicalPlan>,
}

impl<'plan> Traceable<'plan> {
    /// The plan as that; or why its rows cannot be traced to keys of all `driving` relations.
    pub(super) fn of(
        plan: &'plan LogicalPlan,
        driving: &BTreeSet<TableName>,
    ) -> Result<Result<Self, String>, DataFusionError> {
        let mut sides = Vec::new();
        let Traced { columns, keys } = match trace(plan, driving, &mut sides) {
            Ok(traced) => traced,
            Err(reason) => return Ok(Err(reason)),
        };
        let mut scans = Vec::new();
        for name in driving {
            match scan_of(plan, name)? {
                Some(scan) => scans.push(scan),
                None => return Ok(Err(format!("reads nothing of {name}"))),
            }
        }
        let mut key: Vec<(usize, Key)> = Vec::new();
        let mut may_fail = false;
        for (at, column) in columns.iter().enumerate() {
            let is_one = |column: &&Key| keys.as_ref().is_none_or(|keys| keys.contains(column));
            let Some(column) = column.key().filter(is_one) else { continue };
            if key.iter().any(|(_, other)| other == column) {
                continue;
            }
            let to = data_type(plan.schema().field(at).data_type());
            match can_be_computed(column, &scans, &to)? {
                Some(true) => key.push((at, column.clone())),
                Some(false) => may_fail = true,
                None => {}
            }
        }
        if key.is_empty() {
            let reason = match may_fail {
                true => "groups by what may fail for rows that it leaves out",
                false => "shows no column that its rows are grouped by",
            };
            return Ok(Err(reason.to_owned()));
        }
        Ok(Ok(Self { key, scans, sides }))
    }

    /// The plans of what is joined to the rows of the relations.
    pub(super) fn sides(&self) -> &[&'plan LogicalPlan] {
        &self.sides
    }
}

/// Whether a key can be computed as a value of one type for every row of the inputs, also for those
/// that the model leaves out. `None` if values of its own type cannot be told apart, encoded.
fn can_be_computed(
    key: &Key,
    scans: &[&TableScan],
    to: &DataType,
) -> Result<Option<bool>, DataFusionError> {
    let mut always = true;
    for scan in scans {
        let Some(expr) = key.get(&scanned_name(scan)) else { return Ok(Some(false)) };
        let schema = &scan.projected_schema;
        let of = expr.get_type(schema.as_ref())?;
        if of.is_floating() || of.is_nested() {
            return Ok(None);
        }
        always &= always_computes(expr, schema)? && never_fails(&of, to);
    }
    Ok(Some(always))
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
        let read = columns_read(plan.clone(), state, DEFAULT_SCHEMA)?;
        let mut inputs = Vec::new();
        for scan in &traceable.scans {
            let (name, schema) = (scanned_name(scan), &scan.projected_schema);
            let mut keys = Vec::new();
            for (at, key) in &traceable.key {
                let Some(expr) = key.get(&name) else { continue };
                let expr = expr.clone().cast_to(visible.field(*at).data_type(), schema.as_ref())?;
                keys.push(compile(expr, schema, state)?);
            }
            let read = read.get(&(name.schema, name.name));
            let is_read = |name| read.is_none_or(|read| read.contains(name));
            let all = schema.fields().iter().enumerate();
            let columns = all.filter(|(_, field)| is_read(field.name())).map(|(at, _)| at);
            let (schema, columns) = (Arc::clone(schema.inner()), columns.collect());
            inputs.push(InputRows { schema, columns, keys });
        }
        let plans = traceable.sides.iter().copied().cloned().zip(tables);
        let stored = with_hidden(&[KEY], &visible);
        Ok(Ok(Self {
            plan: plan.clone(),
            sides: plans.map(|(plan, tables)| Side { plan, tables }).collect(),
            inputs,
            key_columns: traceable.key.iter().map(|(at, _)| *at).collect(),
            visible,
            stored,
        }))
    }

    fn input(&self, number: usize) -> Result<&InputRows, DataFusionError> {
        let missing = || DataFusionError::Internal(format!("a model has no input {number}"));
        self.inputs.get(number).ok_or_else(missing)
    }

    /// The keys of rows of an input.
    fn keys_of(&self, input: usize, rows: &RecordBatch) -> Result<Vec<ArrayRef>, DataFusionError> {
        let input = self.input(input)?;
        let columns: Vec<usize> = (0..input.schema.fields().len()).collect();
        evaluate(&input.keys, &rows.project(&columns)?)
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
