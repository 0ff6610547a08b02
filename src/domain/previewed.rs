//! SQL of a project that is looked at before it is deployed.

use serde::{Deserialize, Serialize};

/// Rows of a preview at most.
pub const ROWS_MAX: usize = 10_000;

/// SQL over what can be queried now, accepted rows of streams included.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    pub sql: String,
    /// So many rows at most, of [`ROWS_MAX`].
    pub limit: usize,
}

/// Its rows, as text.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Previewed {
    pub columns: Vec<String>,
    pub rows: Vec<Vec<Option<String>>>,
}

impl Previewed {
    /// The number in a row, as counts are.
    pub fn number(&self, row: usize, column: usize) -> Option<u64> {
        self.rows.get(row)?.get(column)?.as_ref()?.parse().ok()
    }
}
