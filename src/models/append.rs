//! *append*: a model whose every output row comes from exactly one input row.

use std::sync::Arc;

use arrow::{
    array::{BooleanArray, RecordBatch, RecordBatchOptions},
    compute::filter_record_batch,
    datatypes::SchemaRef,
};
use datafusion::{
    common::DFSchema,
    error::DataFusionError,
    execution::SessionState,
    logical_expr::{Expr, LogicalPlan},
    physical_expr::PhysicalExpr,
};

use crate::{domain::ErrorKind, models::types::storable_batch};

/// A row-wise model, compiled: run on new input rows, it gives new output rows.
#[derive(Debug)]
pub struct RowProgram {
    steps: Vec<Step>,
    schema: SchemaRef,
}

#[derive(Debug)]
enum Step {
    Filter(Arc<dyn PhysicalExpr>),
    Project(Vec<Arc<dyn PhysicalExpr>>, SchemaRef),
}

#[derive(Debug, thiserror::Error)]
#[error("evaluate a row-wise model: {}", self.reason())]
pub struct RowProgramError(#[from] DataFusionError);

impl RowProgramError {
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Data
    }

    /// What the engine says.
    pub fn reason(&self) -> String {
        self.0.strip_backtrace()
    }
}

impl From<arrow::error::ArrowError> for RowProgramError {
    fn from(error: arrow::error::ArrowError) -> Self {
        Self(error.into())
    }
}

impl RowProgram {
    /// Compiles an analysed plan of projections and filters over one table; `schema` is that of the
    /// stored rows.
    pub(super) fn compile(
        plan: &LogicalPlan,
        state: &SessionState,
        schema: SchemaRef,
    ) -> Result<Self, DataFusionError> {
        let mut steps = Vec::new();
        let mut node = plan;
        loop {
            node = match node {
                LogicalPlan::Projection(projection) => {
                    let input = projection.input.schema();
                    let exprs = physical(&projection.expr, input, state)?;
                    let schema = Arc::clone(projection.schema.inner());
                    steps.push(Step::Project(exprs, schema));
                    &projection.input
                }
                LogicalPlan::Filter(filter) => {
                    let input = filter.input.schema();
                    let predicate = filter.predicate.clone();
                    steps.push(Step::Filter(state.create_physical_expr(predicate, input)?));
                    &filter.input
                }
                LogicalPlan::SubqueryAlias(alias) => &alias.input,
                LogicalPlan::TableScan(_) => break,
                other => {
                    let text = format!("{} is not row-wise", other.display());
                    return Err(DataFusionError::Internal(text));
                }
            };
        }
        steps.reverse();
        Ok(Self { steps, schema })
    }

    /// The output rows of `input`, and with each the row of `carried` (same length as `input`)
    /// that belongs to it.
    pub fn run(
        &self,
        input: &RecordBatch,
        carried: &RecordBatch,
    ) -> Result<(RecordBatch, RecordBatch), RowProgramError> {
        let (mut rows, mut carried) = (input.clone(), carried.clone());
        for step in &self.steps {
            match step {
                Step::Filter(predicate) => {
                    let keep = predicate.evaluate(&rows)?.into_array(rows.num_rows())?;
                    let keep: &BooleanArray = datafusion::common::cast::as_boolean_array(&keep)?;
                    rows = filter_record_batch(&rows, keep)?;
                    carried = filter_record_batch(&carried, keep)?;
                }
                Step::Project(exprs, schema) => {
                    let n = rows.num_rows();
                    let columns: Result<Vec<_>, DataFusionError> =
                        exprs.iter().map(|expr| expr.evaluate(&rows)?.into_array(n)).collect();
                    rows = untyped(columns?, schema, n)?;
                }
            }
        }
        Ok((storable_batch(&rows, &self.schema)?, carried))
    }
}

fn physical(
    exprs: &[Expr],
    schema: &DFSchema,
    state: &SessionState,
) -> Result<Vec<Arc<dyn PhysicalExpr>>, DataFusionError> {
    exprs.iter().map(|expr| state.create_physical_expr(expr.clone(), schema)).collect()
}

/// A batch in the names of `schema` and the types and nullability that the columns really have.
fn untyped(
    columns: Vec<arrow::array::ArrayRef>,
    schema: &SchemaRef,
    rows: usize,
) -> Result<RecordBatch, DataFusionError> {
    let fields: Vec<_> = schema
        .fields()
        .iter()
        .zip(&columns)
        .map(|(field, column)| {
            arrow::datatypes::Field::new(field.name(), column.data_type().clone(), true)
        })
        .collect();
    let schema = Arc::new(arrow::datatypes::Schema::new(fields));
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(schema, columns, &options)?)
}
