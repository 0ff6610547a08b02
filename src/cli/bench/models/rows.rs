//! The rows that are put through.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, BinaryArray, Int32Array, Int64Array, RecordBatch, new_null_array},
    datatypes::{DataType, Field, Schema, SchemaRef},
};
use rand::{Rng as _, rngs::StdRng};

use super::failed;
use crate::{cli::Failure, domain::change::Change, models::with_key};

/// `count` rows with keys below `groups`: each in turn, or random.
pub(super) fn batch(
    count: u64,
    groups: u64,
    first: Option<u64>,
    random: &mut StdRng,
) -> RecordBatch {
    let most = i64::try_from(groups).unwrap_or(i64::MAX);
    let key = |at: u64| i64::try_from(at % groups).unwrap_or_default();
    let keys: Int64Array = (0..count)
        .map(|at| Some(first.map_or_else(|| random.random_range(0..most), |first| key(first + at))))
        .collect();
    let values: Int64Array = (0..count).map(|_| Some(random.random_range(0..1_000))).collect();
    let widths: Int64Array = values.unary(|v| 2 * v);
    let columns: Vec<ArrayRef> = vec![Arc::new(keys), Arc::new(values), Arc::new(widths)];
    RecordBatch::try_new(schema(), columns).unwrap_or_else(|_| RecordBatch::new_empty(schema()))
}

pub(super) fn schema() -> SchemaRef {
    let field = |name| Field::new(name, DataType::Int64, true);
    Arc::new(Schema::new(vec![field("k"), field("v"), field("w")]))
}

/// The same as rows of the stream, with a place each.
pub(super) fn streamed(rows: &RecordBatch, schema: &SchemaRef, first: u64) -> RecordBatch {
    let count = rows.num_rows();
    let columns = schema.fields().iter().map(|field| -> ArrayRef {
        let offsets = || (first..).take(count).map(|at| i64::try_from(at).unwrap_or(i64::MAX));
        match field.name().as_str() {
            "k" | "v" => Arc::clone(&rows[field.name().as_str()]),
            "_offset" => Arc::new(Int64Array::from_iter_values(offsets())),
            "_partition" | "_index" => Arc::new(Int32Array::from(vec![0; count])),
            _ => new_null_array(field.data_type(), count),
        }
    });
    let columns = columns.collect();
    RecordBatch::try_new(Arc::clone(schema), columns)
        .unwrap_or_else(|_| RecordBatch::new_empty(Arc::clone(schema)))
}

/// Rows of a table, each with a key of its own.
#[derive(Debug, Default)]
pub(super) struct Keyed(u64);

impl Keyed {
    /// These rows with the next keys.
    pub(super) fn next(&mut self, rows: &RecordBatch) -> Result<RecordBatch, Failure> {
        let after = self.0 + rows.num_rows() as u64;
        let keys = BinaryArray::from_iter_values((self.0..after).map(u64::to_be_bytes));
        self.0 = after;
        with_key(rows, Arc::new(keys)).map_err(failed)
    }
}

pub(super) fn added(rows: &RecordBatch) -> Change {
    Change { added: vec![rows.clone()], removed: Vec::new() }
}
