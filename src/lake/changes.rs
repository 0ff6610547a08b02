//! What changed in a table since a position.
//!
//! By offset, for tables that only grow: rows of a partition beyond an offset. By version, for
//! tables whose rows are replaced: files of the newer snapshot that the older lacks (+1) and files
//! of the older that the newer lacks (−1), each read through its own snapshot; equal rows cancel.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use arrow::array::RecordBatch;
use datafusion::{
    catalog::TableProvider,
    prelude::{Expr, SessionContext, ident, lit},
};
use futures::TryStreamExt as _;

use crate::{
    domain::{Offset, Partition, change::Change},
    lake::table::{LakeError, Table},
};

/// Columns of every table by offset: where the row's record stands in the log. Persisted.
pub const STREAM: &str = "__stream";
pub const PARTITION: &str = "__partition";
pub const OFFSET: &str = "__offset";

/// Offsets beyond `after` (`None`: from the first) and up to `through`, included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OffsetWindow {
    pub after: Option<Offset>,
    pub through: Offset,
}

impl Table {
    /// The rows of the committed snapshot in `windows`, in order of (partition, offset).
    /// `partition` and `offset` name the columns that hold the position.
    pub async fn rows_in(
        &self,
        partition: &str,
        offset: &str,
        windows: &BTreeMap<Partition, OffsetWindow>,
    ) -> Result<Vec<RecordBatch>, LakeError> {
        let provider = self.scan(Arc::new(self.snapshot()?.clone()), None).await?;
        let Some(filter) = within(partition, offset, windows) else { return Ok(Vec::new()) };
        let order = vec![ident(partition).sort(true, false), ident(offset).sort(true, false)];
        let read = async {
            let frame = SessionContext::new().read_table(provider)?;
            frame.filter(filter)?.sort(order)?.collect().await
        };
        self.conform(read.await)
    }

    /// Hands `columns` of the committed rows in `windows` to `take`, batch by batch, in any order.
    pub async fn each_in<E: From<LakeError>>(
        &self,
        columns: &[&str],
        (partition, offset): (&str, &str),
        windows: &BTreeMap<Partition, OffsetWindow>,
        mut take: impl FnMut(&RecordBatch) -> Result<(), E>,
    ) -> Result<(), E> {
        let failed = self.unread();
        let provider = self.scan(Arc::new(self.snapshot()?.clone()), None).await?;
        let Some(filter) = within(partition, offset, windows) else { return Ok(()) };
        let wanted = columns.iter().filter_map(|name| self.schema().index_of(name).ok());
        let schema = self.schema().project(&wanted.collect::<Vec<_>>());
        let schema = Arc::new(schema.map_err(|e| failed(e.into()))?);
        let read = async {
            let frame = SessionContext::new().read_table(provider)?.filter(filter)?;
            frame.select_columns(columns)?.execute_stream().await
        };
        let mut rows = read.await.map_err(&failed)?;
        while let Some(batch) = rows.try_next().await.map_err(&failed)? {
            take(&conform(&batch, &schema).map_err(|e| failed(e.into()))?)?;
        }
        Ok(())
    }

    /// All rows of the committed snapshot.
    pub async fn all_rows(&self) -> Result<Vec<RecordBatch>, LakeError> {
        let provider = self.scan(Arc::new(self.snapshot()?.clone()), None).await?;
        self.read(provider).await
    }

    /// What version `from` (`None`: the empty table) lacks of the committed snapshot and what it
    /// has beyond it.
    pub async fn change_since(&self, from: Option<u64>) -> Result<Change, LakeError> {
        let newer = Arc::new(self.snapshot()?.clone());
        let Some(from) = from else {
            let added = self.read(self.scan(newer, None).await?).await?;
            return Ok(Change { added, removed: Vec::new() });
        };
        let older = Arc::new(self.snapshot_at(from).await?);
        let (mut added, mut removed) = (self.files(&newer).await?, self.files(&older).await?);
        let kept: HashSet<String> = {
            let old: HashSet<&String> = removed.iter().collect();
            added.iter().filter(|path| old.contains(path)).cloned().collect()
        };
        added.retain(|path| !kept.contains(path));
        removed.retain(|path| !kept.contains(path));
        let mut change = Change::default();
        if !added.is_empty() {
            change.added = self.read(self.scan(newer, Some(added)).await?).await?;
        }
        if !removed.is_empty() {
            change.removed = self.read(self.scan(older, Some(removed)).await?).await?;
        }
        change.without_cancelled().map_err(|error| self.unread()(error.into()))
    }

    async fn read(&self, provider: Arc<dyn TableProvider>) -> Result<Vec<RecordBatch>, LakeError> {
        let read = async { SessionContext::new().read_table(provider)?.collect().await };
        self.conform(read.await)
    }

    /// Casts what a scan returned to the types that the table declares.
    fn conform(
        &self,
        read: datafusion::error::Result<Vec<RecordBatch>>,
    ) -> Result<Vec<RecordBatch>, LakeError> {
        let failed = self.unread();
        let batches = read.map_err(&failed)?;
        let conformed = batches.iter().map(|batch| conform(batch, self.schema()));
        conformed.collect::<Result<_, _>>().map_err(|e| failed(e.into()))
    }
}

/// Whether a row's place is in one of `windows`; `None` where there are none.
fn within(
    partition: &str,
    offset: &str,
    windows: &BTreeMap<Partition, OffsetWindow>,
) -> Option<Expr> {
    let wanted = windows.iter().map(|(number, window)| {
        let here = ident(partition).eq(lit(i32::try_from(*number).unwrap_or(i32::MAX)));
        let here = here.and(ident(offset).lt_eq(lit(window.through)));
        match window.after {
            Some(after) => here.and(ident(offset).gt(lit(after))),
            None => here,
        }
    });
    wanted.reduce(Expr::or)
}

/// `batch` with the columns and types of `schema`, found by name.
pub fn conform(
    batch: &RecordBatch,
    schema: &arrow::datatypes::SchemaRef,
) -> Result<RecordBatch, arrow::error::ArrowError> {
    let columns = schema.fields().iter().map(|field| {
        let column = batch.column_by_name(field.name()).ok_or_else(|| {
            arrow::error::ArrowError::SchemaError(format!("column {} is missing", field.name()))
        })?;
        arrow::compute::cast(column, field.data_type())
    });
    RecordBatch::try_new(Arc::clone(schema), columns.collect::<Result<_, _>>()?)
}
