//! *recompute*: tables computed whole when their inputs moved.
//!
//! A round computes every outdated table, parents first, over one pinned view. Its results are
//! visible at once and are committed at a mark, each with the positions that it was computed from.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
};

use arrow::{
    array::RecordBatch,
    datatypes::SchemaRef,
    row::{RowConverter, SortField},
};
use datafusion::{
    error::DataFusionError, execution::runtime_env::RuntimeEnv, prelude::SessionConfig,
};

use crate::{
    domain::{Positions, TableName},
    lake::{
        Committed, Lake, LakeError, LakeView, Move, Overlay, RelationInfo, Table, TableSpec,
        TableState, reason_of,
        session::{Columns, session},
    },
    models::{Plan, storable_batch},
    process::{
        offset_table::{Followed, SealError},
        relations::{SEED_DIGEST, read_id, seed_position},
    },
};

/// What a table was computed from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Basis {
    /// Generation of every table it reads whose rows are replaced.
    generations: BTreeMap<TableName, u64>,
    /// Positions of the tables and streams it reads that grow.
    positions: Positions,
}

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
    digest: Option<Digest>,
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

/// Order-independent digest of rows.
type Digest = (u64, u64, usize);

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
        let mut positions = Positions::default();
        for followed in streams {
            for partition in 0..followed.partitions {
                if let Some(at) = table.position(&followed.input_app_id(partition)) {
                    positions.advance(&followed.stream, partition, at);
                }
            }
        }
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

/// The result of one table of a round.
pub(super) struct Computed {
    pub name: TableName,
    pub basis: Basis,
    pub positions: Positions,
    pub outcome: Outcome,
}

pub(super) enum Outcome {
    Rows(Vec<RecordBatch>, Digest),
    /// Its inputs moved without changing.
    Unchanged,
    Failed(String),
}

/// One table of a round.
pub(super) struct Job {
    pub plan: Arc<Plan>,
    pub schema: SchemaRef,
    /// Whether its inputs moved; else it only runs when one of its parents changed in this round.
    pub outdated: bool,
    /// Whether its last run failed.
    pub failing: bool,
    pub generation: u64,
    pub digest: Option<Digest>,
}

impl Job {
    pub(super) fn of(
        derived: &Derived,
        view: &LakeView,
        generations: &BTreeMap<TableName, u64>,
    ) -> Option<Self> {
        let plan = Arc::clone(derived.plan.as_ref()?);
        let outdated = derived.is_outdated(&basis(&plan, view, generations));
        Some(Self {
            schema: Arc::clone(derived.table.schema()),
            outdated,
            failing: derived.failure.is_some(),
            generation: derived.generation,
            digest: derived.digest,
            plan,
        })
    }
}

/// What `plan` would be computed from in `view`.
pub(super) fn basis(plan: &Plan, view: &LakeView, generations: &BTreeMap<TableName, u64>) -> Basis {
    let mut basis = Basis::default();
    for table in &plan.tables {
        match generations.get(table) {
            Some(generation) => {
                basis.generations.insert(table.clone(), *generation);
            }
            None => {
                if let Some(state) = view.tables.get(table) {
                    basis.positions.merge(&state.positions);
                }
            }
        }
    }
    basis.positions.merge(&view.positions.only(&plan.read_streams));
    basis
}

/// Whether a round over `jobs` would compute anything: what failed, and what reads it, waits until
/// its inputs move.
pub(super) fn is_due(jobs: &[Job]) -> bool {
    let mut waiting: BTreeSet<&TableName> = BTreeSet::new();
    for job in jobs {
        let reads_waiting = job.plan.tables.iter().any(|table| waiting.contains(table));
        if reads_waiting || (job.failing && !job.outdated) {
            waiting.insert(&job.plan.model.name);
        } else if job.outdated {
            return true;
        }
    }
    false
}

/// Computes what is outdated, parents first (the order of `jobs`), over one view.
pub(super) async fn run_round(
    view: Arc<LakeView>,
    jobs: Vec<Job>,
    mut generations: BTreeMap<TableName, u64>,
) -> Vec<Computed> {
    let runtime = Arc::new(RuntimeEnv::default());
    let mut view = view;
    let mut changed: BTreeSet<TableName> = BTreeSet::new();
    let mut failed: BTreeSet<TableName> = BTreeSet::new();
    let mut results = Vec::new();
    for job in jobs {
        let name = job.plan.model.name.clone();
        let reads =
            |tables: &BTreeSet<TableName>| job.plan.tables.iter().any(|t| tables.contains(t));
        let moved = job.outdated || reads(&changed);
        if reads(&failed) || (job.failing && !moved) {
            // It stays as it is, and so do its children, until what failed runs again.
            failed.insert(name);
            continue;
        }
        let basis = basis(&job.plan, &view, &generations);
        let positions = reachable(&job.plan, &view);
        let outcome = if moved {
            match compute(&view, &job, &runtime).await {
                Ok((rows, digest)) => Outcome::Rows(rows, digest),
                Err(error) => Outcome::Failed(reason_of(&error)),
            }
        } else {
            Outcome::Unchanged
        };
        if matches!(outcome, Outcome::Failed(_)) {
            failed.insert(name.clone());
        } else {
            let rows = match &outcome {
                Outcome::Rows(rows, digest) if job.digest != Some(*digest) => Some(rows),
                _ => None,
            };
            if rows.is_some() {
                generations.insert(name.clone(), job.generation + 1);
                changed.insert(name.clone());
            }
            view = shown(&view, &name, rows, &positions);
        }
        results.push(Computed { name, basis, positions, outcome });
    }
    results
}

/// How far into its streams a model reaches when computed from `view`.
fn reachable(plan: &Plan, view: &LakeView) -> Positions {
    let mut reached = view.positions.only(&plan.streams);
    for table in &plan.tables {
        let Some(parent) = view.tables.get(table).filter(|parent| !parent.streams.is_empty())
        else {
            continue;
        };
        let others: Vec<String> =
            plan.streams.iter().filter(|s| !parent.streams.contains(s)).cloned().collect();
        let mut lowered = reached.only(&parent.streams).meet(&parent.positions);
        lowered.merge(&reached.only(&others));
        reached = lowered;
    }
    reached
}

/// `view` with a table at new positions, and new rows where it has them.
fn shown(
    view: &Arc<LakeView>,
    name: &TableName,
    rows: Option<&Vec<RecordBatch>>,
    positions: &Positions,
) -> Arc<LakeView> {
    let mut next = LakeView::clone(view);
    if let Some(state) = view.tables.get(name) {
        let mut state = TableState::clone(state);
        state.positions = positions.clone();
        if let Some(rows) = rows {
            state.overlay = Overlay::Replace(rows.clone());
        }
        next.tables.insert(name.clone(), Arc::new(state));
    }
    Arc::new(next)
}

async fn compute(
    view: &Arc<LakeView>,
    job: &Job,
    runtime: &Arc<RuntimeEnv>,
) -> Result<(Vec<RecordBatch>, Digest), DataFusionError> {
    // One core: rounds are to take a bounded share of the machine.
    let config = SessionConfig::new().with_target_partitions(1);
    let context = session(view, Columns::Model, config, Arc::clone(runtime));
    let rows = context.sql(&job.plan.model.sql).await?.collect().await?;
    let rows: Result<Vec<_>, _> =
        rows.iter().map(|batch| storable_batch(batch, &job.schema)).collect();
    let rows = rows?;
    let digest = digest(&rows, &job.schema)?;
    Ok((rows, digest))
}

fn digest(rows: &[RecordBatch], schema: &SchemaRef) -> Result<Digest, DataFusionError> {
    let fields = schema.fields().iter().map(|field| SortField::new(field.data_type().clone()));
    let converter = RowConverter::new(fields.collect())?;
    let (mut sum, mut mixed, mut count) = (0_u64, 0_u64, 0);
    for batch in rows {
        for row in &converter.convert_columns(batch.columns())? {
            let mut hasher = DefaultHasher::new();
            row.as_ref().hash(&mut hasher);
            let hash = hasher.finish();
            sum = sum.wrapping_add(hash);
            mixed = mixed.wrapping_add(hash.wrapping_mul(hash | 1).rotate_left(29));
            count += 1;
        }
    }
    Ok((sum, mixed, count))
}
