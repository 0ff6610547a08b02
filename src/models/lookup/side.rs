//! What a join finds on its other side, by key.

use std::collections::{HashMap, HashSet};

use arrow::{
    array::RecordBatch,
    buffer::NullBuffer,
    compute::concat_batches,
    row::{RowConverter, Rows, SortField},
};
use datafusion::error::DataFusionError;
use foldhash::fast::RandomState;

use crate::models::{lookup::Level, types::storable_batch};

/// Keys of a join, encoded.
pub(super) type Keys = HashSet<Box<[u8]>, RandomState>;

/// The rows of a side, found by key.
#[derive(Debug)]
pub(super) struct Content {
    rows: RecordBatch,
    index: HashMap<Box<[u8]>, Vec<u32>, RandomState>,
}

/// The keys of rows; none where a part is null.
pub(super) struct Encoded {
    /// `None` where rows are joined by nothing.
    pub rows: Option<Rows>,
    pub nulls: Option<NullBuffer>,
    pub count: usize,
}

impl Encoded {
    pub(super) fn iter(&self) -> impl Iterator<Item = Option<&[u8]>> {
        (0..self.count).map(|row| match (&self.rows, &self.nulls) {
            (_, Some(nulls)) if nulls.is_null(row) => None,
            (Some(rows), _) => Some(rows.row(row).data()),
            (None, _) => Some(&[][..]),
        })
    }
}

impl Content {
    pub(super) fn new(rows: &[RecordBatch], level: &Level) -> Result<Self, DataFusionError> {
        let rows: Result<Vec<_>, _> =
            rows.iter().map(|rows| storable_batch(rows, &level.right)).collect();
        let rows = concat_batches(&level.right, &rows?)?;
        let mut index: HashMap<Box<[u8]>, Vec<u32>, RandomState> = HashMap::default();
        for (row, key) in (0_u32..).zip(level.keys(&level.right_keys, &rows)?.iter()) {
            let Some(key) = key else { continue };
            match index.get_mut(key) {
                Some(found) => found.push(row),
                None => {
                    index.insert(key.into(), vec![row]);
                }
            }
        }
        Ok(Self { rows, index })
    }

    pub(super) fn rows(&self) -> &RecordBatch {
        &self.rows
    }

    /// The numbers of the rows that have a key.
    pub(super) fn met(&self, key: &[u8]) -> &[u32] {
        self.index.get(key).map_or(&[], Vec::as_slice)
    }

    /// The keys under which the other has other rows.
    pub(super) fn differs(&self, other: &Self) -> Result<Keys, DataFusionError> {
        let fields = self.rows.schema();
        let fields = fields.fields().iter().map(|f| SortField::new(f.data_type().clone()));
        let converter = RowConverter::new(fields.collect())?;
        let [ours, theirs] = [self, other].map(|side| match side.rows.num_columns() {
            0 => Ok(None),
            _ => converter.convert_columns(side.rows.columns()).map(Some),
        });
        let (ours, theirs) = (ours?, theirs?);
        let of = |all: &Option<Rows>, at: &[u32]| -> Vec<Vec<u8>> {
            let encoded =
                |row: &u32| all.as_ref().map(|all| all.row(*row as usize).data().to_vec());
            let mut rows: Vec<Vec<u8>> =
                at.iter().map(|row| encoded(row).unwrap_or_default()).collect();
            rows.sort_unstable();
            rows
        };
        let mut keys = Keys::default();
        for key in self.index.keys().chain(other.index.keys()) {
            if !keys.contains(key) && of(&ours, self.met(key)) != of(&theirs, other.met(key)) {
                keys.insert(key.clone());
            }
        }
        Ok(keys)
    }
}
