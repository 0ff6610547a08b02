//! A change: rows with a weight, and what it does to a table whose rows have a key.

use std::collections::HashMap;

use arrow::{
    array::{Array as _, BinaryArray, BooleanArray, RecordBatch},
    compute::filter_record_batch,
    error::ArrowError,
    row::{OwnedRow, RowConverter, SortField},
};

/// Rows that came (+1) or went (−1). Between tables only changes travel: on the hot path from
/// memory, after a restart read back from the tables.
#[derive(Debug, Clone, Default)]
pub struct Change {
    pub added: Vec<RecordBatch>,
    pub removed: Vec<RecordBatch>,
}

impl Change {
    pub fn is_empty(&self) -> bool {
        self.added_rows() == 0 && self.removed_rows() == 0
    }

    pub fn added_rows(&self) -> usize {
        self.added.iter().map(RecordBatch::num_rows).sum()
    }

    pub fn removed_rows(&self) -> usize {
        self.removed.iter().map(RecordBatch::num_rows).sum()
    }

    /// Bytes that the rows take in memory.
    pub fn bytes(&self) -> usize {
        self.added.iter().chain(&self.removed).map(RecordBatch::get_array_memory_size).sum()
    }

    /// The same without rows that came as often as they went.
    pub fn without_cancelled(self) -> Result<Self, ArrowError> {
        let (Some(first), false) = (self.added.first(), self.removed.is_empty()) else {
            return Ok(self);
        };
        let schema = first.schema();
        let fields = schema.fields().iter().map(|f| SortField::new(f.data_type().clone()));
        let converter = RowConverter::new(fields.collect())?;
        let mut weights: HashMap<OwnedRow, i64> = HashMap::new();
        for (batches, weight) in [(&self.added, 1), (&self.removed, -1)] {
            for batch in batches {
                for row in &converter.convert_columns(batch.columns())? {
                    *weights.entry(row.owned()).or_default() += weight;
                }
            }
        }
        let mut keep = |batches: &[RecordBatch], sign: i64| {
            let kept = batches.iter().map(|batch| {
                let rows = converter.convert_columns(batch.columns())?;
                let mask: BooleanArray = rows
                    .iter()
                    .map(|row| {
                        let weight = weights.get_mut(&row.owned()).filter(|w| **w * sign > 0);
                        Some(weight.map(|w| *w -= sign).is_some())
                    })
                    .collect();
                filter_record_batch(batch, &mask)
            });
            kept.collect::<Result<Vec<_>, _>>()
        };
        let (added, removed) = (keep(&self.added, 1)?, keep(&self.removed, -1)?);
        Ok(Self { added, removed })
    }

    /// Adds what changed after this.
    pub fn extend(&mut self, later: Self) {
        self.added.extend(later.added);
        self.removed.extend(later.removed);
    }
}

/// Column of a table whose rows have a key: the key, unique within the table. Persisted.
pub const KEY: &str = "__key";

/// What became of some keys of a table: it holds `rows` for them and nothing else.
///
/// A key that is new and was never used before need not be among `keys`: then nobody has to look for
/// it in what is stored.
#[derive(Debug, Clone)]
pub struct Patch {
    /// Keys that the table may hold already, each once.
    pub keys: BinaryArray,
    /// As stored, [`KEY`] included, each key once: those of `keys` that are not gone, and new ones.
    pub rows: RecordBatch,
}

impl Patch {
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.rows.num_rows() == 0
    }

    /// Bytes that it takes in memory.
    pub fn bytes(&self) -> usize {
        self.keys.get_array_memory_size() + self.rows.get_array_memory_size()
    }
}
