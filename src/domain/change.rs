//! A change: rows with a weight, and what it does to a table whose rows have a key.

use arrow::array::{Array as _, BinaryArray, RecordBatch};

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

    /// Adds what changed after this.
    pub fn extend(&mut self, later: Self) {
        self.added.extend(later.added);
        self.removed.extend(later.removed);
    }
}

/// Column of a table whose rows have a key: the key, unique within the table. Persisted.
pub const KEY: &str = "__key";

/// What became of some keys of a table: it holds `rows` for them and nothing else.
#[derive(Debug, Clone)]
pub struct Patch {
    /// Every key once.
    pub keys: BinaryArray,
    /// As stored, [`KEY`] included. A key without a row is gone.
    pub rows: RecordBatch,
}

impl Patch {
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Bytes that it takes in memory.
    pub fn bytes(&self) -> usize {
        self.keys.get_array_memory_size() + self.rows.get_array_memory_size()
    }
}
