//! What all ways of keeping a table by changes of its inputs have in common.

use std::{fmt::Debug, sync::Arc};

use arrow::{
    array::{ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions},
    datatypes::{DataType, Field, Schema, SchemaRef},
    error::ArrowError,
};
use datafusion::{error::DataFusionError, logical_expr::LogicalPlan};

use crate::{
    domain::change::{Change, KEY, Patch},
    models::{ProgramError, lookup::Side},
};

/// A model that is kept by changes of its inputs, compiled.
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

    /// Whether its state holds the rows of the table; else these are in the table alone.
    fn holds_rows(&self) -> bool {
        true
    }

    /// Whether rows have to come with their keys.
    fn takes_keys(&self) -> bool {
        !self.sides().is_empty()
    }

    /// What it joins to the rows of its inputs, computed by SQL.
    fn sides(&self) -> &[Side] {
        &[]
    }

    /// The model, if it is computed again for the keys that were touched.
    fn by_key(&self) -> Option<&LogicalPlan> {
        None
    }

    /// What readers are told of stored rows: the columns that the model names, then the key.
    fn told(&self, rows: &RecordBatch) -> Result<RecordBatch, ProgramError> {
        Ok(with_key(&self.visible(rows)?, Arc::clone(rows.column(0)))?)
    }
}

/// The columns of a table: hidden ones that hold bytes, the key first, then those of the model.
pub(super) fn with_hidden(hidden: &[&str], visible: &SchemaRef) -> SchemaRef {
    let hidden = hidden.iter().map(|name| Arc::new(Field::new(*name, DataType::Binary, true)));
    Arc::new(Schema::new(hidden.chain(visible.fields().iter().cloned()).collect::<Vec<_>>()))
}

/// `rows` with the key of each as the last column.
pub fn with_key(rows: &RecordBatch, keys: ArrayRef) -> Result<RecordBatch, ArrowError> {
    let mut fields = rows.schema().fields().to_vec();
    fields.push(Arc::new(Field::new(KEY, DataType::Binary, true)));
    let mut columns = rows.columns().to_vec();
    columns.push(keys);
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
}

/// What such a model has in memory: what it needs to change its table.
pub trait KeptState: Debug + Send + Sync {
    /// Takes over stored rows, of keys that are not there yet.
    fn load(&mut self, rows: &RecordBatch) -> Result<(), ProgramError>;

    /// What the model has before any row came, if that is something.
    fn first(&mut self) -> Result<Option<Applied>, ProgramError>;

    /// Adds what came of its one input and takes out what went. After an error everything is as it was before.
    /// `is_read`: whether the rows that came and went are wanted.
    fn apply(&mut self, change: &Change, is_read: bool) -> Result<Applied, ProgramError>;

    /// The same for a model of several inputs, a change of each.
    fn apply_all(&mut self, changes: &[Change], is_read: bool) -> Result<Applied, ProgramError> {
        match changes {
            [change] => self.apply(change, is_read),
            _ => Err(of_one()),
        }
    }

    /// The table holds nothing of the rows that were taken in: all of them are redriven at the next
    /// look at the sides, and so are those that come before.
    fn empty(&mut self) {}

    /// Compares what the sides hold now with what the table was made with. Whether that differs.
    fn look(&mut self, _sides: &[Vec<RecordBatch>]) -> Result<bool, ProgramError> {
        Ok(false)
    }

    /// What has to become of rows of an input that were taken in, now that the sides differ.
    fn redrive(
        &self,
        _input: usize,
        _rows: &RecordBatch,
        _is_read: bool,
    ) -> Result<Option<Applied>, ProgramError> {
        Ok(None)
    }

    /// What [`KeptState::redrive`] gave for all rows, as changes of the table.
    fn redriven(
        &mut self,
        parts: Vec<Applied>,
        _is_read: bool,
    ) -> Result<Vec<Applied>, ProgramError> {
        Ok(parts)
    }

    /// The table is made with what the sides hold now.
    fn looked(&mut self) {}

    /// Whether rows came or went that the table does not show yet, since it is computed by key.
    fn is_touched(&self) -> bool {
        false
    }

    /// Which rows of an input are under keys that are computed again.
    fn touches(&self, _input: usize, _rows: &RecordBatch) -> Result<BooleanArray, ProgramError> {
        Err(not_by_key())
    }

    /// The rows of an input under these keys, with the columns that the model reads, if they are in
    /// memory. Else the input is read, all of it with [`KeptState::read`].
    fn touched_rows(&self, _input: usize) -> Result<Option<RecordBatch>, ProgramError> {
        Ok(None)
    }

    /// An input is read from its beginning.
    fn begin_reading(&mut self, _input: usize) {}

    /// Takes note of rows of an input.
    fn read(&mut self, _input: usize, _rows: &RecordBatch) -> Result<(), ProgramError> {
        Ok(())
    }

    /// All of an input was read.
    fn all_read(&mut self, _input: usize) {}

    /// Takes over `rows`, which the model gives over the inputs' rows under the touched keys.
    fn rerun(&mut self, _rows: &[RecordBatch], _is_read: bool) -> Result<Applied, ProgramError> {
        Err(not_by_key())
    }

    /// All stored rows, some at a time; none where the table alone has them.
    fn rows(&self) -> Box<dyn Iterator<Item = Result<RecordBatch, ProgramError>> + Send + '_>;

    /// How many rows there are.
    fn count(&self) -> usize;
}

fn of_one() -> ProgramError {
    DataFusionError::Internal("a model of one input was handed several".to_owned()).into()
}

fn not_by_key() -> ProgramError {
    DataFusionError::Internal("a model was run by key that is not kept so".to_owned()).into()
}

/// What a change of the input does to the table.
#[derive(Debug)]
pub struct Applied {
    pub patch: Patch,
    /// The same as rows that came and went, as readers are told of them, if somebody reads them.
    pub change: Change,
}
