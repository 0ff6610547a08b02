//! *append*: a model whose every output row comes from exactly one input row.
//!
//! With `unnest` one input row may become several. All of a record come from one batch, so their
//! number among them is part of their place.

use arrow::{array::RecordBatch, datatypes::SchemaRef, error::ArrowError};
use datafusion::{error::DataFusionError, execution::SessionState, logical_expr::LogicalPlan};

use crate::{
    domain::ErrorKind,
    models::{steps::Steps, types::storable_batch},
};

/// A row-wise model, compiled: run on new input rows, it gives new output rows.
#[derive(Debug)]
pub struct RowProgram {
    steps: Steps,
    schema: SchemaRef,
}

/// Why a model could not be computed for a change of its input.
#[derive(Debug, thiserror::Error)]
#[error("compute a model for a change: {}", self.reason())]
pub struct ProgramError(#[from] DataFusionError);

impl ProgramError {
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Data
    }

    /// What the engine says.
    pub fn reason(&self) -> String {
        self.0.strip_backtrace()
    }
}

impl From<ArrowError> for ProgramError {
    fn from(error: ArrowError) -> Self {
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
        match Steps::compile(plan, state)? {
            (steps, LogicalPlan::TableScan(_)) => Ok(Self { steps, schema }),
            (_, other) => {
                let text = format!("{} is not row-wise", other.display());
                Err(DataFusionError::Internal(text))
            }
        }
    }

    /// The output rows of `input`, and with each the row of `carried` (same length as `input`)
    /// that belongs to it.
    pub fn run(
        &self,
        input: &RecordBatch,
        carried: &RecordBatch,
    ) -> Result<(RecordBatch, RecordBatch), ProgramError> {
        let (rows, carried) = self.steps.run(input, carried)?;
        Ok((storable_batch(&rows, &self.schema)?, carried))
    }

    /// Whether an input row may become several, so that their places have to be told apart.
    pub fn unnests(&self) -> bool {
        self.steps.unnests()
    }
}
