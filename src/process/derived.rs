//! *recompute*: tables computed whole when their inputs moved, by [`super::rounds`].
//!
//! What a round computed is visible at once and is committed at a mark, with the positions that it
//! was computed from.

use std::{collections::BTreeMap, sync::Arc};

use arrow::array::RecordBatch;

use crate::{
    domain::{Positions, TableName},
    lake::{Committed, Lake, LakeError, Move, Overlay, RelationInfo, Table, TableSpec, TableState},
    models::Plan,
    process::{
        offset_table::{Followed, SealError},
        relations::{SEED_DIGEST, read_id, seed_position},
        rounds::{Basis, Computed, Digest, Outcome},
    },
};

/// A table that is replaced as a whole: a recomputed model or a seed.
pub(super) struct Derived {
    pub info: Arc<RelationInfo>,
    pub table: Table,
    /// `None` for a seed.
    pub plan: Option<Arc<Plan>>,
    /// Above the levels of every replaced table that it reads.
    pub level: usize,
    /// The streams whose positions it carries.
    streams: Vec<Followed>,
    /// Table ids of the tables it reads by version.
    parent_ids: BTreeMap<TableName, String>,
    committed: Committed,
    /// Newer than the snapshot, not committed yet.
    pending: Option<Vec<RecordBatch>>,
    /// Raised whenever the content changes.
    pub generation: u64,
    pub digest: Option<Digest>,
    /// What the last run was over.
    basis: Option<Basis>,
    /// What the content was computed from; the last run may have failed.
    made_of: Option<Basis>,
    /// How far into the log the content reaches.
    pub positions: Positions,
    /// Why the last run failed.
    pub failure: Option<String>,
    /// When the content was last found to be that of its inputs, in microseconds.
    computed_at: Option<i64>,
}

impl Derived {
    pub(super) async fn open(
        lake: &Lake,
        spec: &TableSpec,
        info: RelationInfo,
        plan: Option<Arc<Plan>>,
        streams: &[Followed],
        parents: &[&Self],
    ) -> Result<Self, LakeError> {
        let mut parent_ids = BTreeMap::new();
        for parent in parents {
            parent_ids.insert(parent.info.name.clone(), parent.table.id()?);
        }
        let level = parents.iter().map(|parent| parent.level + 1).max().unwrap_or_default();
        let mut app_ids: Vec<String> = parent_ids.values().map(|id| read_id(id)).collect();
        for stream in streams {
            app_ids.extend((0..stream.partitions).map(|p| stream.input_app_id(p)));
        }
        app_ids.push(SEED_DIGEST.to_owned());
        let table = lake.open(spec, app_ids).await?;
        let committed = table.committed().await?;
        let positions = recorded(&table, streams);
        Ok(Self {
            info: Arc::new(info),
            table,
            plan,
            level,
            streams: streams.to_vec(),
            parent_ids,
            committed,
            pending: None,
            generation: 1,
            digest: None,
            basis: None,
            made_of: None,
            positions,
            failure: None,
            computed_at: None,
        })
    }

    /// Replaces a seed's rows when its file is not the one they came from.
    pub(super) async fn load_seed(
        &mut self,
        rows: &RecordBatch,
        digest: &str,
    ) -> Result<(), SealError> {
        let to = seed_position(digest);
        let from = self.table.position(SEED_DIGEST);
        if from == Some(to) {
            return Ok(());
        }
        let moves = vec![Move { app_id: SEED_DIGEST.to_owned(), from, to }];
        self.table.replace(std::slice::from_ref(rows), moves).await?;
        self.committed = self.table.committed().await?;
        self.generation += 1;
        Ok(())
    }

    /// Takes over the table as another processor committed it, or left it: what is in memory counts
    /// no more. Whether it had changed.
    pub(super) async fn follow(&mut self) -> Result<bool, SealError> {
        let moved = self.table.follow().await?;
        if moved {
            self.committed = self.table.committed().await?;
        }
        if moved || self.made_of.is_some() || self.pending.is_some() {
            (self.pending, self.digest) = (None, None);
            (self.basis, self.made_of, self.failure) = (None, None, None);
            self.positions = recorded(&self.table, &self.streams);
            self.generation += 1;
        }
        Ok(moved)
    }

    /// Takes over what the table records, where that is what its inputs are now.
    pub(super) fn trust_if_current(
        &mut self,
        basis: Basis,
        positions: &Positions,
        parents: &BTreeMap<TableName, i64>,
    ) {
        let by_version = self
            .parent_ids
            .iter()
            .all(|(name, id)| self.table.position(&read_id(id)) == parents.get(name).copied());
        if self.table.is_published() && by_version && self.positions == *positions {
            self.made_of = Some(basis.clone());
            self.basis = Some(basis);
        }
    }

    pub(super) fn is_outdated(&self, basis: &Basis) -> bool {
        self.basis.as_ref() != Some(basis)
    }

    /// Takes over the result of a round.
    pub(super) fn install(&mut self, result: Computed, now_us: i64) {
        if !matches!(result.outcome, Outcome::Failed(_)) {
            self.made_of = Some(result.basis.clone());
            self.computed_at = Some(now_us);
        }
        self.basis = Some(result.basis);
        match result.outcome {
            Outcome::Unchanged => self.positions = result.positions,
            Outcome::Rows(rows, digest) => {
                self.failure = None;
                self.positions = result.positions;
                if self.digest != Some(digest) {
                    self.digest = Some(digest);
                    self.pending = Some(rows);
                    self.generation += 1;
                }
            }
            Outcome::Failed(error) => {
                tracing::error!(table = %self.info.name, %error, "model failed");
                self.failure = Some(error);
            }
        }
    }

    /// Whether the content was built from its streams at least up to `positions`.
    pub(super) fn reaches(&self, positions: &Positions) -> bool {
        let streams: Vec<String> = self.streams.iter().map(|s| s.stream.clone()).collect();
        self.positions.covers(&positions.only(&streams))
    }

    /// When the content was last found to be that of its inputs, in microseconds.
    pub(super) fn computed_at(&self) -> Option<i64> {
        self.computed_at
    }

    pub(super) fn committed(&self) -> &Committed {
        &self.committed
    }

    pub(super) fn pending_bytes(&self) -> usize {
        let rows = self.pending.iter().flatten();
        rows.map(RecordBatch::get_array_memory_size).sum()
    }

    /// Gives the positions of `from` to `to`, another name of a stream's log.
    pub(super) async fn adopt(
        &mut self,
        from: &[Followed],
        to: &Followed,
    ) -> Result<(), SealError> {
        if self.streams.iter().all(|followed| followed.stream != to.stream) {
            return Ok(());
        }
        let partitions = 0..to.partitions;
        let all = from.iter().chain([to]);
        let ids = all.flat_map(|log| partitions.clone().map(move |p| log.input_app_id(p)));
        self.table.also_read(ids.collect()).await?;
        let moves = partitions.filter_map(|p| {
            let reached = from.iter().filter_map(|log| self.table.position(&log.input_app_id(p)));
            let (app_id, reached) = (to.input_app_id(p), reached.max()?);
            let from = self.table.position(&app_id);
            (from != Some(reached)).then_some(Move { app_id, from, to: reached })
        });
        let moves: Vec<Move> = moves.collect();
        if !moves.is_empty() {
            self.table.advance(moves).await?;
        }
        Ok(())
    }

    /// Whether a publication would write something: new rows, or (`force`) only positions. Not
    /// while the content was computed from others than the present `generations` of its parents,
    /// as after a failure: their versions would be recorded with it.
    pub(super) fn is_due(
        &self,
        force: bool,
        versions: &BTreeMap<TableName, i64>,
        generations: &BTreeMap<TableName, u64>,
    ) -> bool {
        let rests_on_present = self.made_of.as_ref().is_some_and(|basis| {
            basis.generations.iter().all(|(name, of)| generations.get(name) == Some(of))
        });
        rests_on_present && (self.pending.is_some() || (force && !self.moves(versions).is_empty()))
    }

    /// Commits pending rows, or only positions where nothing else is pending. `versions` are those
    /// of the tables it reads by version, which are published before it.
    pub(super) async fn publish(
        &mut self,
        versions: &BTreeMap<TableName, i64>,
    ) -> Result<(), SealError> {
        let moves = self.moves(versions);
        match self.pending.take() {
            Some(rows) => self.table.replace(&rows, moves).await?,
            None => self.table.advance(moves).await?,
        }
        self.committed = self.table.committed().await?;
        Ok(())
    }

    fn moves(&self, versions: &BTreeMap<TableName, i64>) -> Vec<Move> {
        let streams = self.positions.iter().filter_map(|(stream, partition, offset)| {
            let followed = self.streams.iter().find(|followed| followed.stream == stream)?;
            Some((followed.input_app_id(partition), offset))
        });
        let parents = self
            .parent_ids
            .iter()
            .filter_map(|(name, id)| versions.get(name).map(|version| (read_id(id), *version)));
        let all = streams.chain(parents);
        all.filter_map(|(app_id, to)| {
            let from = self.table.position(&app_id);
            (from != Some(to)).then_some(Move { app_id, from, to })
        })
        .collect()
    }

    /// The Delta version that holds the present content, once published.
    pub(super) fn version(&self) -> i64 {
        i64::try_from(self.table.version()).unwrap_or(i64::MAX)
    }

    /// The table as queries see it.
    pub(super) fn state(&self) -> TableState {
        let overlay = self.pending.clone().map_or(Overlay::None, Overlay::Replace);
        TableState {
            info: Arc::clone(&self.info),
            schema: Arc::clone(self.table.schema()),
            committed: Some(self.committed.clone()),
            overlay,
            streams: self.plan.as_ref().map_or_else(Vec::new, |plan| plan.streams.clone()),
            positions: self.positions.clone(),
        }
    }
}

/// How far into its streams a table's snapshot says that it was built.
fn recorded(table: &Table, streams: &[Followed]) -> Positions {
    let mut positions = Positions::default();
    for followed in streams {
        for partition in 0..followed.partitions {
            if let Some(at) = table.position(&followed.input_app_id(partition)) {
                positions.advance(&followed.stream, partition, at);
            }
        }
    }
    positions
}
