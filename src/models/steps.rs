//! Projections and filters, compiled: run on a batch they give a batch, row by row.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions},
    compute::filter_record_batch,
    datatypes::{Field, Schema, SchemaRef},
};
use datafusion::{
    common::{DFSchema, cast::as_boolean_array},
    error::DataFusionError,
    execution::SessionState,
    logical_expr::{Expr, LogicalPlan, utils::split_conjunction},
    physical_expr::PhysicalExpr,
};

use crate::domain::sql_exprs::compile;

/// A chain of projections and filters.
#[derive(Debug)]
pub(super) struct Steps(Vec<Step>);

#[derive(Debug)]
enum Step {
    /// A predicate, and what all has to hold for it, in its order.
    Filter(Arc<dyn PhysicalExpr>, Vec<Arc<dyn PhysicalExpr>>),
    Project(Vec<Arc<dyn PhysicalExpr>>, SchemaRef),
}

impl Steps {
    /// Compiles the projections and filters at the top of an analysed plan. Also returns what is
    /// below them.
    pub(super) fn compile<'plan>(
        plan: &'plan LogicalPlan,
        state: &SessionState,
    ) -> Result<(Self, &'plan LogicalPlan), DataFusionError> {
        let mut steps = Vec::new();
        let mut node = plan;
        loop {
            node = match node {
                LogicalPlan::Projection(projection) => {
                    let exprs = physical(&projection.expr, projection.input.schema(), state)?;
                    steps.push(Step::Project(exprs, Arc::clone(projection.schema.inner())));
                    &projection.input
                }
                LogicalPlan::Filter(filter) => {
                    let input = filter.input.schema();
                    let parts = split_conjunction(&filter.predicate).into_iter().cloned();
                    let parts = physical(&parts.collect::<Vec<_>>(), input, state)?;
                    let predicate = compile(filter.predicate.clone(), input, state)?;
                    steps.push(Step::Filter(predicate, parts));
                    &filter.input
                }
                LogicalPlan::SubqueryAlias(alias) => &alias.input,
                below => {
                    steps.reverse();
                    return Ok((Self(steps), below));
                }
            };
        }
    }

    /// The output rows of `input`, and with each the row of `carried` (same length as `input`)
    /// that belongs to it.
    pub(super) fn run(
        &self,
        input: &RecordBatch,
        carried: &RecordBatch,
    ) -> Result<(RecordBatch, RecordBatch), DataFusionError> {
        let mut carried = carried.clone();
        let rows = self.run_with(input, |keep| {
            carried = filter_record_batch(&carried, keep)?;
            Ok(())
        })?;
        Ok((rows, carried))
    }

    /// The output rows of `input`; what each filter keeps is told to `filtered`.
    pub(super) fn run_with(
        &self,
        input: &RecordBatch,
        mut filtered: impl FnMut(&BooleanArray) -> Result<(), DataFusionError>,
    ) -> Result<RecordBatch, DataFusionError> {
        let mut rows = input.clone();
        for step in &self.0 {
            match step {
                Step::Filter(predicate, parts) => match kept(predicate, &rows) {
                    Ok(keep) => {
                        rows = filter_record_batch(&rows, &keep)?;
                        filtered(&keep)?;
                    }
                    // Whether a part is computed where an earlier one does not hold is up to the
                    // batch. One after the other they need not be.
                    Err(_) if parts.len() > 1 => {
                        for part in parts {
                            let keep = kept(part, &rows)?;
                            rows = filter_record_batch(&rows, &keep)?;
                            filtered(&keep)?;
                        }
                    }
                    Err(error) => return Err(error),
                },
                Step::Project(exprs, schema) => {
                    let columns = evaluate(exprs, &rows)?;
                    rows = named(columns, schema, rows.num_rows())?;
                }
            }
        }
        Ok(rows)
    }
}

/// The rows for which a predicate holds.
fn kept(
    predicate: &Arc<dyn PhysicalExpr>,
    rows: &RecordBatch,
) -> Result<BooleanArray, DataFusionError> {
    let keep = predicate.evaluate(rows)?.into_array(rows.num_rows())?;
    Ok(as_boolean_array(&keep)?.clone())
}

pub(super) fn physical(
    exprs: &[Expr],
    schema: &DFSchema,
    state: &SessionState,
) -> Result<Vec<Arc<dyn PhysicalExpr>>, DataFusionError> {
    exprs.iter().map(|expr| compile(expr.clone(), schema, state)).collect()
}

/// The values of every expression for every row.
pub(super) fn evaluate(
    exprs: &[Arc<dyn PhysicalExpr>],
    rows: &RecordBatch,
) -> Result<Vec<ArrayRef>, DataFusionError> {
    exprs.iter().map(|expr| expr.evaluate(rows)?.into_array(rows.num_rows())).collect()
}

/// A batch in the names of `schema` and the types and nullability that the columns really have.
pub(super) fn named(
    columns: Vec<ArrayRef>,
    schema: &Schema,
    rows: usize,
) -> Result<RecordBatch, DataFusionError> {
    let fields = schema.fields().iter().zip(&columns);
    let fields =
        fields.map(|(field, column)| Field::new(field.name(), column.data_type().clone(), true));
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(schema, columns, &options)?)
}
