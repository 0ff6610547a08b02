//! Tables whose rows are replaced: seeds, models computed whole when their inputs moved, by
//! [`super::rounds`], and models kept by changes ([`super::kept`]).
//!
//! What was computed is visible at once and is committed at a mark, with the positions that it was
//! computed from.

mod by_changes;

use std::{collections::BTreeMap, sync::Arc};

use arrow::array::RecordBatch;

use crate::{
    domain::{Positions, TableName},
    lake::{Committed, Lake, LakeError, Move, Overlay, RelationInfo, Table, TableSpec, TableState},
    models::Plan,
    process::{
        follow::Away,
        kept::{Kept, Standing},
        offset_table::{Followed, SealError},
        patch_log::PatchLog,
        relations::{SEED_DIGEST, read_id, seed_position},
        rounds::{Basis, Computed, Digest, Outcome},
    },
};

/// A table whose rows are replaced: a model, or a seed.
pub(super) struct Derived {
    pub info: Arc<RelationInfo>,
    pub table: Table,
    /// `None` for a seed.
    pub plan: Option<Arc<Plan>>,
    /// Present if it is kept by changes, and its state at hand.
    kept: Option<Kept>,
    /// Present while that is worked on beside the loop.
    away: Option<Away>,
    /// Whether it has to look at more than the rows that come.
    pub has_looks: bool,
    /// What was made of it by changes and is not committed.
    log: PatchLog,
    /// What its sides were made of when they were looked at, newest last, each with the generation
    /// of the table from which on it is made with them.
    looks: Vec<(u64, Mark)>,
    /// Above the levels of every replaced table that it reads.
    pub level: usize,
    /// The streams whose positions it carries.
    streams: Vec<Followed>,
    /// Table ids of the tables it reads by version.
    parent_ids: BTreeMap<TableName, String>,
    committed: Committed,
    /// Newer than the snapshot, not committed yet.
    pending: Option<Vec<RecordBatch>>,
    pub at: Standing,
    pub digest: Option<Digest>,
    /// What the last run was over.
    basis: Option<Basis>,
    /// What the content was computed from; the last run may have failed.
    made_of: Option<Basis>,
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
            kept: None,
            away: None,
            has_looks: false,
            log: PatchLog::default(),
            looks: Vec::new(),
            level,
            streams: streams.to_vec(),
            parent_ids,
            committed,
            pending: None,
            at: Standing { generation: 1, positions, failure: None, computed_at: None },
            digest: None,
            basis: None,
            made_of: None,
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
        self.at.generation += 1;
        Ok(())
    }

    /// Takes over the table as another processor committed it, or left it: what is in memory counts
    /// no more. Whether it had changed.
    pub(super) async fn follow(&mut self) -> Result<bool, SealError> {
        let moved = self.table.follow().await?;
        if moved {
            self.committed = self.table.committed().await?;
        }
        let is_loaded = self.kept.as_ref().is_some_and(Kept::is_loaded);
        if moved || is_loaded || self.made_of.is_some() || self.pending.is_some() {
            (self.pending, self.digest) = (None, None);
            (self.basis, self.made_of, self.at.failure) = (None, None, None);
            self.at.positions = recorded(&self.table, &self.streams);
            self.at.generation += 1;
        }
        if let Some(kept) = &mut self.kept {
            kept.forget(&self.at.positions);
        }
        (self.log, self.looks) = (PatchLog::default(), Vec::new());
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
        if self.table.is_published() && by_version && self.at.positions == *positions {
            self.made_of = Some(basis.clone());
            self.basis = Some(basis);
        }
    }

    /// The generation of the content that is committed; `None` if that is no more known.
    pub(super) fn published(&self) -> Option<u64> {
        match self.is_kept() {
            true => Some(self.log.first_pending().map_or(self.at.generation, |first| first - 1)),
            false => self.pending.is_none().then_some(self.at.generation),
        }
    }

    pub(super) fn is_outdated(&self, basis: &Basis) -> bool {
        self.basis.as_ref() != Some(basis)
    }

    /// Takes over the result of a round.
    pub(super) fn install(&mut self, result: Computed, now_us: i64) {
        if !matches!(result.outcome, Outcome::Failed(_)) {
            self.made_of = Some(result.basis.clone());
            self.at.computed_at = Some(now_us);
        }
        self.basis = Some(result.basis);
        match result.outcome {
            Outcome::Unchanged => self.at.positions = result.positions,
            Outcome::Rows(rows, digest) => {
                self.at.failure = None;
                self.at.positions = result.positions;
                if self.digest != Some(digest) {
                    self.digest = Some(digest);
                    self.pending = Some(rows);
                    self.at.generation += 1;
                }
            }
            Outcome::Failed(error) => {
                tracing::error!(table = %self.info.name, %error, "model failed");
                self.at.failure = Some(error);
            }
        }
    }

    /// Whether the content was built from its streams at least up to `positions`.
    pub(super) fn reaches(&self, positions: &Positions) -> bool {
        let streams: Vec<String> = self.streams.iter().map(|s| s.stream.clone()).collect();
        self.at.positions.covers(&positions.only(&streams))
    }

    /// When the content was last found to be that of its inputs, in microseconds.
    pub(super) fn computed_at(&self) -> Option<i64> {
        self.at.computed_at
    }

    pub(super) fn committed(&self) -> &Committed {
        &self.committed
    }

    pub(super) fn pending_bytes(&self) -> usize {
        let rows = self.pending.iter().flatten();
        let pending: usize = rows.map(RecordBatch::get_array_memory_size).sum();
        pending + self.log.shown().bytes() + self.handed_bytes()
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

    /// Commits what the table is at the `mark`: new rows, or (`force`) only positions. Not while
    /// its content was computed from others than those of its parents that are `published`, as
    /// after a failure: their `versions` would be recorded with it. Whether it did.
    pub(super) async fn publish(
        &mut self,
        mark: &Mark,
        published: &Published,
        force: bool,
    ) -> Result<bool, SealError> {
        let name = &self.info.name;
        if self.is_kept() {
            // What waits of a parent's changes is in its version, and not in this table.
            let is_waiting = self.kept.as_ref().is_some_and(Kept::is_waiting)
                || self.away.as_ref().is_some_and(|away| away.is_waiting);
            let mut parents = self.parent_ids.keys();
            let at = mark.get(name).copied().unwrap_or(self.at.generation).min(self.at.generation);
            let rests_on_mark = !is_waiting
                && parents.all(|name| published.generations.get(name) == mark.get(name))
                && self.was_made_with(at, &published.generations);
            if !self.parent_ids.is_empty() && !rests_on_mark {
                return Ok(false);
            }
            if let Some((patches, positions)) = self.log.up_to(at) {
                let moves = self.moves(&positions, published);
                self.table.patch(&patches, moves).await?;
                self.forget_committed(at);
            } else if force && at == self.at.generation && self.at.failure.is_none() {
                let moves = self.moves(&self.at.positions, published);
                if moves.is_empty() && self.table.is_published() {
                    return Ok(false);
                }
                self.table.advance(moves).await?;
            } else {
                return Ok(false);
            }
        } else {
            let rests_on_published = self.made_of.as_ref().is_some_and(|basis| {
                let mut made_of = basis.generations.iter();
                made_of.all(|(name, of)| published.generations.get(name) == Some(of))
            });
            let moves = self.moves(&self.at.positions, published);
            if !rests_on_published || (self.pending.is_none() && (!force || moves.is_empty())) {
                return Ok(false);
            }
            match self.pending.take() {
                Some(rows) => self.table.replace(&rows, moves).await?,
                None => self.table.advance(moves).await?,
            }
        }
        self.committed = self.table.committed().await?;
        Ok(true)
    }

    fn moves(&self, positions: &Positions, published: &Published) -> Vec<Move> {
        // Up to there it holds the same.
        let positions =
            &published.cut.as_ref().map_or_else(|| positions.clone(), |cut| positions.meet(cut));
        let streams = positions.iter().filter_map(|(stream, partition, offset)| {
            let followed = self.streams.iter().find(|followed| followed.stream == stream)?;
            Some((followed.input_app_id(partition), offset))
        });
        let parents = self
            .parent_ids
            .iter()
            .filter_map(|(name, id)| Some((read_id(id), *published.versions.get(name)?)));
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
        let overlay = match &self.pending {
            Some(rows) => Overlay::Replace(rows.clone()),
            None if !self.log.shown().is_empty() => Overlay::Patches(self.log.shown().clone()),
            None => Overlay::None,
        };
        TableState {
            info: Arc::clone(&self.info),
            schema: Arc::clone(self.table.schema()),
            committed: Some(self.committed.clone()),
            overlay,
            streams: self.plan.as_ref().map_or_else(Vec::new, |plan| plan.streams.clone()),
            positions: self.at.positions.clone(),
        }
    }
}

/// Per table kept by changes, the generation that is to be committed.
pub(super) type Mark = BTreeMap<TableName, u64>;

/// The tables that are committed before those which read them.
#[derive(Default)]
pub(super) struct Published {
    pub versions: BTreeMap<TableName, i64>,
    /// Of those whose content is known to be what the version holds.
    pub generations: BTreeMap<TableName, u64>,
    /// How far Bronze is committed, where more came since.
    pub cut: Option<Positions>,
}

impl Published {
    pub(super) fn add(&mut self, derived: &Derived) {
        let name = &derived.info.name;
        self.versions.insert(name.clone(), derived.version());
        self.generations.extend(derived.published().map(|of| (name.clone(), of)));
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
