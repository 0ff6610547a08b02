//! Other content, and another form, for a table: new files beside the old ones, then one commit that
//! removes all of the old, adds the new and moves the positions.
//!
//! Readers see the old table until that commit. What was written before a crash is named by no
//! version.

use std::{collections::BTreeMap, sync::Arc};

use arrow::array::RecordBatch;
use deltalake::{
    DeltaTable, DeltaTableBuilder, DeltaTableError,
    kernel::{Action, Add, Metadata, MetadataExt as _},
    writer::{DeltaWriter as _, RecordBatchWriter},
};
use object_store::memory::InMemory;
use url::Url;

use crate::{
    domain::{Offset, Partition, TableName},
    lake::{
        audit::read_log,
        changes::conform,
        commit::{self, Commit, CommitError, Move},
        files,
        table::{Lake, LakeError, PUBLISHED, Table, TableSpec, create},
        upkeep::UPKEEP,
    },
};

/// A table as it is stored, whatever its definition is now.
pub struct Stored {
    pub table: Table,
    /// The newest value of every position that it records.
    pub positions: BTreeMap<String, i64>,
}

/// A table that gets other content.
pub struct Rebuild {
    table: Table,
    spec: TableSpec,
    metadata: Metadata,
    writer: RecordBatchWriter,
    rows: u64,
}

/// Rows and files that a table has now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rebuilt {
    pub rows: u64,
    pub files: usize,
}

impl Lake {
    /// Opens a table to be read as it is stored; `None` where there is none.
    pub async fn stored(&self, name: &TableName) -> Result<Option<Stored>, LakeError> {
        let Some(table) = self.open_stored(name).await? else { return Ok(None) };
        let (versions, _) = read_log(&table.delta().log_store(), table.version())
            .await
            .map_err(|reason| LakeError::Log { table: name.clone(), reason })?;
        let positions = versions.into_iter().flat_map(|version| version.positions).collect();
        Ok(Some(Stored { table, positions }))
    }

    /// Begins to write other content for the table `spec`, which is made where it is missing.
    /// `app_ids` are the positions that the caller will move.
    pub async fn rebuild(
        &self,
        spec: &TableSpec,
        app_ids: impl IntoIterator<Item = String>,
    ) -> Result<Rebuild, LakeError> {
        let table = self.open(spec, app_ids).await?;
        let (metadata, writer) = form(&table, spec).await.map_err(table.failed("write anew"))?;
        Ok(Rebuild { table, spec: spec.clone(), metadata, writer, rows: 0 })
    }
}

/// The metadata of the new form, under the table's own id, and a writer of files of that form.
async fn form(
    table: &Table,
    spec: &TableSpec,
) -> Result<(Metadata, RecordBatchWriter), DeltaTableError> {
    // The writer takes its form from a snapshot, so there is one in memory that has it.
    let invalid = |e: url::ParseError| DeltaTableError::InvalidTableLocation(e.to_string());
    let url = Url::parse("memory:///").map_err(invalid)?;
    let scratch = DeltaTableBuilder::from_url(url.clone())?;
    let scratch = scratch.with_storage_backend(Arc::new(InMemory::new()), url).build()?;
    create(&scratch, spec).await?;
    let mut formed = DeltaTable::new(scratch.log_store());
    formed.load().await?;
    let id = table.delta().snapshot()?.metadata().id().to_owned();
    let metadata = formed.snapshot()?.metadata().clone().with_table_id(id)?;
    let mut target = DeltaTable::new(table.delta().log_store());
    target.state = formed.state;
    Ok((metadata, files::writer(&target)?))
}

impl Rebuild {
    /// The position that the table records under `app_id` now.
    pub fn position(&self, app_id: &str) -> Option<i64> {
        self.table.position(app_id)
    }

    /// Writes rows of the new content.
    pub async fn write(&mut self, rows: &RecordBatch) -> Result<(), LakeError> {
        if rows.num_rows() == 0 {
            return Ok(());
        }
        let unread = self.table.unread();
        let rows = conform(rows, &self.spec.schema).map_err(|e| unread(e.into()))?;
        self.rows += rows.num_rows() as u64;
        self.writer.write(rows).await.map_err(self.table.failed("write files"))
    }

    /// Puts the new content in the place of the old and moves positions, in one commit on the
    /// newest version. `is_published`: the table is one whose rows are replaced.
    pub async fn commit(
        mut self,
        mut moves: Vec<Move>,
        is_published: bool,
    ) -> Result<Rebuilt, CommitError> {
        let unread = |source| CommitError::Unreadable(Box::new(source));
        let adds = self.writer.flush().await;
        let adds: Vec<Add> = adds.map_err(self.table.failed("write files")).map_err(unread)?;
        let removes = self.table.removals().await;
        let removes = removes.map_err(self.table.failed("list its files")).map_err(unread)?;
        let counted = [(UPKEEP, true), (PUBLISHED, is_published)];
        for (app_id, _) in counted.into_iter().filter(|(_, is_counted)| *is_counted) {
            let from = self.table.position(app_id);
            moves.push(Move { app_id: app_id.to_owned(), from, to: from.unwrap_or(0) + 1 });
        }
        let rebuilt = Rebuilt { rows: self.rows, files: adds.len() };
        let actions = [Action::Metadata(self.metadata)].into_iter().chain(removes);
        let actions = actions.chain(adds.into_iter().map(Action::Add)).collect();
        let commit = Commit { actions, moves, removes: true };
        let (name, delta, recorded) = self.table.parts();
        commit::commit(name, delta, recorded, commit).await?;
        Ok(rebuilt)
    }
}

impl Table {
    /// Per partition the first offset that the table holds.
    pub async fn first_offsets(
        &self,
        (partition, offset): (&str, &str),
    ) -> Result<BTreeMap<Partition, Offset>, LakeError> {
        use arrow::{
            array::AsArray as _,
            compute::cast,
            datatypes::{DataType, Int64Type},
        };
        use datafusion::{
            functions_aggregate::expr_fn::min,
            prelude::{SessionContext, ident},
        };
        let provider = self.scan(Arc::new(self.snapshot()?.clone()), None).await?;
        let read = async {
            let frame = SessionContext::new().read_table(provider)?;
            let least = frame.aggregate(vec![ident(partition)], vec![min(ident(offset))])?;
            let mut first = BTreeMap::new();
            for rows in least.collect().await? {
                let partitions = cast(rows.column(0), &DataType::Int64)?;
                let offsets = cast(rows.column(1), &DataType::Int64)?;
                let partitions = partitions.as_primitive::<Int64Type>().values().iter();
                let offsets = offsets.as_primitive::<Int64Type>().values().iter();
                let each = partitions.zip(offsets);
                first.extend(each.filter_map(|(p, at)| Some((Partition::try_from(*p).ok()?, *at))));
            }
            Ok(first)
        };
        read.await.map_err(self.unread())
    }
}
