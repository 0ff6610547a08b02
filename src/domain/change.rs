//! A change: rows with a weight.

use arrow::array::RecordBatch;

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
}
