//! A table that only grows: its snapshot, its tail in memory, and how far into the log each
//! reaches.
//!
//! Several processors append to it side by side, each the partitions that it holds. Of those its
//! own belief of how far they are committed counts, and a commit is refused where the table says
//! otherwise; of the others, what the table says.

use std::{collections::BTreeMap, sync::Arc};

use arrow::{array::RecordBatch, compute::concat_batches, datatypes::SchemaRef};

use crate::{
    domain::{Offset, Partition, Positions},
    lake::{
        CommitError, Committed, Compacted, Lake, LakeError, Move, OffsetWindow, Overlay,
        RelationInfo, Table, TableSpec, TableState,
    },
    process::Error,
};

/// Batches of a tail are merged while the newest ones are smaller than this.
const MERGE_BELOW_ROWS: usize = 8_192;
/// A tail is merged when it has more batches than this.
const MERGE_ABOVE_BATCHES: usize = 32;

/// Which stream, of which log, a table follows.
#[derive(Debug, Clone)]
pub(super) struct Followed {
    pub log_id: String,
    pub stream: String,
    pub partitions: Partition,
}

impl Followed {
    /// The position of a partition in Bronze. Persisted: must stay stable.
    pub(super) fn bronze_app_id(&self, partition: Partition) -> String {
        format!("{}/{}/{partition}", self.log_id, self.stream)
    }

    /// The position of a partition in every other table. Persisted: must stay stable.
    pub(super) fn input_app_id(&self, partition: Partition) -> String {
        format!("in/{}/{}/{partition}", self.log_id, self.stream)
    }
}

pub(super) struct OffsetTable {
    pub info: Arc<RelationInfo>,
    pub table: Table,
    followed: Followed,
    app_ids: Vec<String>,
    /// Names of the columns that hold partition and offset.
    columns: (&'static str, &'static str),
    committed: Committed,
    tail: Vec<RecordBatch>,
    tail_bytes: usize,
    /// What the next seal commits, if more may come before it.
    cut: Option<Cut>,
    /// Per partition, the last offset included, tail included.
    at: Vec<Option<Offset>>,
    /// Per partition, the last offset that is committed: as we did it, or as the table says.
    sealed: Vec<Option<Offset>>,
    /// The partitions whose rows this process writes.
    held: Vec<bool>,
    state: Option<Arc<TableState>>,
}

/// The beginning of a tail.
struct Cut {
    batches: usize,
    /// How far the table reaches with it.
    at: Vec<Option<Offset>>,
}

impl OffsetTable {
    pub(super) async fn open(
        lake: &Lake,
        spec: &TableSpec,
        info: RelationInfo,
        followed: Followed,
        app_ids: Vec<String>,
        columns: (&'static str, &'static str),
    ) -> Result<Self, LakeError> {
        let table = lake.open(spec, app_ids.iter().cloned()).await?;
        let committed = table.committed().await?;
        let at: Vec<_> = app_ids.iter().map(|app_id| table.position(app_id)).collect();
        Ok(Self {
            sealed: at.clone(),
            held: vec![false; app_ids.len()],
            info: Arc::new(info),
            table,
            followed,
            app_ids,
            columns,
            committed,
            tail: Vec::new(),
            tail_bytes: 0,
            cut: None,
            at,
            state: None,
        })
    }

    pub(super) fn schema(&self) -> &SchemaRef {
        self.table.schema()
    }

    /// The last offset of `partition` included, tail included.
    pub(super) fn at(&self, partition: Partition) -> Option<Offset> {
        self.at.get(partition as usize).copied().flatten()
    }

    /// The last offset of `partition` that is committed.
    pub(super) fn committed_at(&self, partition: Partition) -> Option<Offset> {
        self.sealed.get(partition as usize).copied().flatten()
    }

    /// Makes a partition this process's to write, or another's, as far as the snapshot tells.
    pub(super) fn hold(&mut self, partition: Partition, is_held: bool) {
        let i = partition as usize;
        let Some(held) = self.held.get_mut(i).filter(|held| **held != is_held) else { return };
        *held = is_held;
        self.sealed[i] = self.table.position(&self.app_ids[i]);
        self.at[i] = self.sealed[i];
        self.state = None;
    }

    /// Takes over what other processors committed. Whether they did.
    pub(super) async fn follow(&mut self) -> Result<bool, SealError> {
        let moved = self.table.follow().await?;
        if moved {
            self.committed = self.table.committed().await?;
            self.take_positions()?;
        }
        Ok(moved)
    }

    /// Reads more positions, and with them the newest snapshot, which others may have moved.
    pub(super) async fn also_read(&mut self, app_ids: Vec<String>) -> Result<(), SealError> {
        self.table.also_read(app_ids).await?;
        self.committed = self.table.committed().await?;
        self.take_positions()?;
        Ok(())
    }

    /// Takes over the positions of the snapshot, of partitions that others hold. Our own must be
    /// where we left them.
    fn take_positions(&mut self) -> Result<(), CommitError> {
        self.state = None;
        for (i, app_id) in self.app_ids.iter().enumerate() {
            let found = self.table.position(app_id);
            if !self.held[i] {
                (self.sealed[i], self.at[i]) = (found, found);
            } else if found != self.sealed[i] {
                let (table, app_id) = (self.table.name().clone(), app_id.clone());
                return Err(CommitError::Moved { table, app_id, expected: self.sealed[i], found });
            }
        }
        Ok(())
    }

    /// Whether the record at `offset` is not in the table yet.
    pub(super) fn wants(&self, partition: Partition, offset: Offset) -> bool {
        self.at(partition).is_none_or(|at| offset > at)
    }

    /// Adds rows; their positions follow with [`OffsetTable::advance`].
    pub(super) fn push(&mut self, rows: RecordBatch) -> Result<(), LakeError> {
        if rows.num_rows() == 0 {
            return Ok(());
        }
        self.tail_bytes += rows.get_array_memory_size();
        self.tail.push(rows);
        self.state = None;
        self.merge_small_batches()
    }

    /// Includes everything of the partitions up to these offsets.
    pub(super) fn advance(&mut self, to: &BTreeMap<Partition, Offset>) {
        for (partition, offset) in to {
            let i = *partition as usize;
            if let Some(at) = self.at.get_mut(i)
                && self.held[i]
                && at.is_none_or(|at| at < *offset)
            {
                *at = Some(*offset);
                self.state = None;
            }
        }
    }

    pub(super) fn tail_bytes(&self) -> usize {
        self.tail_bytes
    }

    /// What comes from now on is no part of the next seal.
    pub(super) fn cut(&mut self) {
        self.cut = Some(Cut { batches: self.tail.len(), at: self.at.clone() });
    }

    /// Commits the tail, or as much of it as was cut, with its positions. Positions alone are
    /// committed only when `force`d.
    pub(super) async fn seal(&mut self, force: bool) -> Result<bool, SealError> {
        let whole = || Cut { batches: self.tail.len(), at: self.at.clone() };
        let Cut { batches, at } = self.cut.take().unwrap_or_else(whole);
        let moves = self.moves_to(&at);
        if moves.is_empty() || (batches == 0 && !force) {
            return Ok(false);
        }
        self.table.append(&self.tail[..batches], moves).await?;
        self.committed = self.table.committed().await?;
        self.tail.drain(..batches);
        self.count_tail();
        self.sealed = at;
        self.take_positions()?;
        Ok(true)
    }

    /// Puts the new files in the place of those they were made of. Whether it was done.
    pub(super) async fn compact(&mut self, compacted: Compacted) -> Result<bool, SealError> {
        let done = self.table.compact(compacted).await?;
        self.committed = self.table.committed().await?;
        self.take_positions()?;
        Ok(done)
    }

    pub(super) fn committed(&self) -> &Committed {
        &self.committed
    }

    /// Files of the snapshot.
    pub(super) fn files(&self) -> u64 {
        self.committed.files
    }

    /// The columns that hold the place of a row's record.
    pub(super) fn columns(&self) -> [&'static str; 2] {
        [self.columns.0, self.columns.1]
    }

    fn moves_to(&self, at: &[Option<Offset>]) -> Vec<Move> {
        let ends = self.app_ids.iter().zip(self.sealed.iter().zip(at));
        ends.filter_map(|(app_id, (from, at))| {
            let (from, to) = (*from, (*at)?);
            (from != Some(to)).then(|| Move { app_id: app_id.clone(), from, to })
        })
        .collect()
    }

    /// Gives the positions of `from` to `to`, another name of the log. `also` is told how far the
    /// table reaches per partition and what else moves in the same commit.
    pub(super) async fn adopt(
        &mut self,
        from: &[Followed],
        to: &Followed,
        app_id: fn(&Followed, Partition) -> String,
        also: impl FnOnce(&[Option<Offset>]) -> Vec<Move>,
    ) -> Result<(), SealError> {
        let partitions = 0..to.partitions;
        let all = from.iter().chain([to]);
        let ids = all.flat_map(|log| partitions.clone().map(move |p| app_id(log, p)));
        self.table.also_read(ids.collect()).await?;
        let reached = |p| from.iter().filter_map(|log| self.table.position(&app_id(log, p))).max();
        let reached: Vec<Option<Offset>> = partitions.clone().map(reached).collect();
        let moves = partitions.zip(&reached).filter_map(|(p, at)| {
            let app_id = app_id(to, p);
            let from = self.table.position(&app_id);
            at.filter(|at| from != Some(*at)).map(|at| Move { app_id, from, to: at })
        });
        let mut moves: Vec<Move> = moves.collect();
        let also = also(&reached);
        self.table.also_read(also.iter().map(|moved| moved.app_id.clone()).collect()).await?;
        moves.extend(also);
        if !moves.is_empty() {
            self.table.append(&[], moves).await?;
        }
        Ok(())
    }

    /// Committed rows in `windows`.
    pub(super) async fn rows_in(
        &self,
        windows: &BTreeMap<Partition, OffsetWindow>,
    ) -> Result<Vec<RecordBatch>, LakeError> {
        self.table.rows_in(self.columns.0, self.columns.1, windows).await
    }

    /// Hands `columns` of the committed rows in `windows` to `take`, batch by batch, in any order.
    pub(super) async fn each_in(
        &self,
        columns: &[&str],
        windows: &BTreeMap<Partition, OffsetWindow>,
        take: impl FnMut(&RecordBatch) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.table.each_in(columns, self.columns, windows, take).await
    }

    /// How far the table reaches, tail included.
    pub(super) fn positions(&self) -> Positions {
        self.named(&self.at)
    }

    /// How far it is committed.
    pub(super) fn committed_positions(&self) -> Positions {
        self.named(&self.sealed)
    }

    fn named(&self, offsets: &[Option<Offset>]) -> Positions {
        let mut positions = Positions::default();
        for (partition, at) in (0..).zip(offsets) {
            if let Some(at) = at {
                positions.advance(&self.followed.stream, partition, *at);
            }
        }
        positions
    }

    /// The table as queries see it.
    pub(super) fn state(&mut self) -> Arc<TableState> {
        if let Some(state) = &self.state {
            return Arc::clone(state);
        }
        let overlay =
            if self.tail.is_empty() { Overlay::None } else { Overlay::Append(self.tail.clone()) };
        let state = Arc::new(TableState {
            info: Arc::clone(&self.info),
            schema: Arc::clone(self.table.schema()),
            committed: Some(self.committed.clone()),
            overlay,
            streams: vec![self.followed.stream.clone()],
            positions: self.positions(),
        });
        self.state = Some(Arc::clone(&state));
        state
    }

    fn merge_small_batches(&mut self) -> Result<(), LakeError> {
        if self.tail.len() <= MERGE_ABOVE_BATCHES {
            return Ok(());
        }
        let small = self.tail.iter().rev().take_while(|b| b.num_rows() < MERGE_BELOW_ROWS).count();
        let cut = self.cut.as_ref().map_or(0, |cut| cut.batches);
        let start = (self.tail.len() - small).max(cut);
        let merged = concat_batches(self.table.schema(), &self.tail[start..]);
        let merged = merged.map_err(|e| self.table.unread()(e.into()))?;
        self.tail.truncate(start);
        self.tail.push(merged);
        self.count_tail();
        Ok(())
    }

    fn count_tail(&mut self) {
        self.tail_bytes = self.tail.iter().map(RecordBatch::get_array_memory_size).sum();
    }
}

/// Why a seal did not go through.
#[derive(Debug, thiserror::Error)]
pub(super) enum SealError {
    #[error(transparent)]
    Commit(#[from] CommitError),
    #[error(transparent)]
    Lake(#[from] LakeError),
}
