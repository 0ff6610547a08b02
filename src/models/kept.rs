//! What all ways of keeping a table by changes of its one input have in common.

use std::{fmt::Debug, sync::Arc};

use arrow::{
    array::{RecordBatch, RecordBatchOptions},
    datatypes::SchemaRef,
};

use crate::{
    domain::change::{Change, Patch},
    models::ProgramError,
};

/// A model that is kept by changes of its input, compiled.
pub trait KeptProgram: Debug + Send + Sync {
    /// The columns of the table: the key, what else it needs to go on, then those of the model.
    fn stored_schema(&self) -> &SchemaRef;

    /// The columns of the model.
    fn schema(&self) -> &SchemaRef;

    /// A state of nothing.
    fn begin(self: Arc<Self>) -> Result<Box<dyn KeptState>, ProgramError>;

    /// The columns of stored rows that the model names.
    fn visible(&self, rows: &RecordBatch) -> Result<RecordBatch, ProgramError> {
        let hidden = self.stored_schema().fields().len() - self.schema().fields().len();
        let columns = rows.columns()[hidden..].to_vec();
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        let schema = Arc::clone(self.schema());
        Ok(RecordBatch::try_new_with_options(schema, columns, &options)?)
    }
}

/// What such a model has in memory: all that its table holds, ready to be changed.
pub trait KeptState: Debug + Send + Sync {
    /// Takes over stored rows, of keys that are not there yet.
    fn load(&mut self, rows: &RecordBatch) -> Result<(), ProgramError>;

    /// What the model has before any row came, if that is something.
    fn first(&mut self) -> Result<Option<Applied>, ProgramError>;

    /// Adds what came and takes out what went. After an error everything is as it was before.
    /// `is_read`: whether the visible rows that came and went are wanted.
    fn apply(&mut self, change: &Change, is_read: bool) -> Result<Applied, ProgramError>;

    /// All stored rows, some at a time.
    fn rows(&self) -> Box<dyn Iterator<Item = Result<RecordBatch, ProgramError>> + Send + '_>;

    /// How many rows there are.
    fn count(&self) -> usize;
}

/// What a change of the input does to the table.
#[derive(Debug)]
pub struct Applied {
    pub patch: Patch,
    /// The same as visible rows that came and went, where somebody reads them.
    pub change: Change,
}
