//! Rounds: every outdated table is computed whole, parents first, over one pinned view.

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
use tokio::{task::JoinError, time::Instant};

use crate::{
    domain::{Positions, TableName},
    lake::{
        LakeView, Overlay, TableState, reason_of,
        session::{Columns, session},
    },
    models::{Plan, storable_batch},
    process::{
        Error,
        derived::{Derived, Mark},
        pipeline::Pipeline,
    },
};

/// What a table was computed from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Basis {
    /// Generation of every table it reads whose rows are replaced.
    pub generations: BTreeMap<TableName, u64>,
    /// Positions of the tables and streams it reads that grow.
    pub positions: Positions,
}

/// Order-independent digest of rows.
pub(super) type Digest = (u64, u64, usize);

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
        let plan = Arc::clone(derived.plan.as_ref().filter(|_| !derived.is_kept())?);
        let outdated = derived.is_outdated(&basis(&plan, view, generations));
        Some(Self {
            schema: Arc::clone(derived.table.schema()),
            outdated,
            failing: derived.at.failure.is_some(),
            generation: derived.at.generation,
            digest: derived.digest,
            plan,
        })
    }
}

impl Pipeline {
    /// Begins to compute outdated tables beside the micro-batches, over the view of now. Whether
    /// there are any. What is recomputed from what is kept by changes comes with a look at that.
    pub(super) fn begin_round(&mut self) -> bool {
        if !self.is_owner {
            return false;
        }
        let generations = self.generations();
        let recomputes_kept = self.recomputes_kept();
        if recomputes_kept && self.is_some_due(&generations) {
            self.looks.wants_round = true;
            return false;
        }
        let (view, jobs) = self.outdated();
        if !is_due(&jobs) {
            for (name, reached) in passed_on(view, &jobs) {
                let of_name = self.derived.iter_mut().find(|derived| derived.info.name == name);
                of_name.into_iter().for_each(|derived| derived.at.positions.clone_from(&reached));
            }
            if self.is_quiet(&generations) {
                self.last_mark = generations;
                self.keep_marks();
            }
            return false;
        }
        if recomputes_kept {
            self.looks.wants_round = true;
            return false;
        }
        self.begin_computing(view, jobs, generations);
        true
    }

    /// Computes `jobs` over a view, in which tables are of these `generations`.
    pub(super) fn begin_computing(
        &mut self,
        view: Arc<LakeView>,
        jobs: Vec<Job>,
        generations: Mark,
    ) {
        self.round_started = Instant::now();
        self.round_mark.clone_from(&generations);
        self.keep_marks();
        self.rounds.spawn(run_round(view, jobs, generations));
    }

    /// The tables that may be recomputed, over the view of now.
    pub(super) fn outdated(&mut self) -> (Arc<LakeView>, Vec<Job>) {
        let view = Arc::new(self.build_view());
        let generations = self.generations();
        let jobs = self.derived.iter().filter_map(|d| Job::of(d, &view, &generations)).collect();
        (view, jobs)
    }

    /// Takes over a round that has ended. Whether there was one.
    pub(super) fn end_rounds(&mut self) -> Result<bool, Error> {
        let Some(results) = self.rounds.try_join_next() else { return Ok(false) };
        self.end_round(results).map(|()| true)
    }

    async fn finish_rounds(&mut self) -> Result<(), Error> {
        while let Some(results) = self.rounds.join_next().await {
            self.end_round(results)?;
        }
        Ok(())
    }

    /// Takes over the results of a round.
    fn end_round(&mut self, results: Result<Vec<Computed>, JoinError>) -> Result<(), Error> {
        let results = results.map_err(|e| Error::Internal(format!("recomputing tables: {e}")))?;
        let now = self.deps.clock.now_us();
        for result in results {
            if let Some(derived) = self.derived.iter_mut().find(|d| d.info.name == result.name) {
                derived.install(result, now);
            }
        }
        if self.recomputes_kept() {
            self.last_mark.clone_from(&self.round_mark);
            self.keep_marks();
        }
        self.last_round = self.round_started.elapsed();
        self.next_round = Instant::now() + self.pause_after(self.last_round);
        self.report_round(self.last_round);
        Ok(())
    }

    /// Computes everything that is outdated now, and waits for it.
    pub(super) async fn whole_round(&mut self) -> Result<(), Error> {
        self.finish_looks().await?;
        self.finish_rounds().await?;
        self.look_at_all(true).await?;
        loop {
            self.finish_rounds().await?;
            if !self.begin_round() {
                return Ok(());
            }
        }
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
    let mut waiting = BTreeSet::new();
    jobs.iter().any(|job| !waits(job, &mut waiting) && job.outdated)
}

/// Whether a table is not computed before its inputs move: it failed, or reads one that waits.
fn waits<'a>(job: &'a Job, waiting: &mut BTreeSet<&'a TableName>) -> bool {
    let reads_waiting = job.plan.tables.iter().any(|table| waiting.contains(table));
    let waits = reads_waiting || (job.failing && !job.outdated);
    if waits {
        waiting.insert(&job.plan.model.name);
    }
    waits
}

/// How far tables reach in `view` that are what their inputs make of them, where these have moved
/// without changing, as with events that came again.
pub(super) fn passed_on(mut view: Arc<LakeView>, jobs: &[Job]) -> Vec<(TableName, Positions)> {
    let mut waiting = BTreeSet::new();
    let mut passed = Vec::new();
    for job in jobs {
        if waits(job, &mut waiting) || job.outdated {
            continue;
        }
        let (name, reached) = (&job.plan.model.name, reachable(&job.plan, &view));
        if view.tables.get(name).is_some_and(|table| table.positions != reached) {
            view = shown(&view, name, None, &reached);
            passed.push((name.clone(), reached));
        }
    }
    passed
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
