//! The open pipeline: micro-batches, rounds, seals.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::future::try_join_all;
use tokio::time::Instant;

use crate::{
    bronze::bronze_rows,
    domain::{Offset, Partition, Positions, TableName},
    lake::LakeView,
    log::{Chunk, Reader},
    models::Class,
    process::{
        Deps, Error, Settings,
        derived::{Derived, Job, basis, run_round},
        metrics,
        open::{self, Opened},
        status::{ModelStatus, StreamStatus},
        stream::StreamTables,
    },
};

/// On stop, data that is still in the log is taken in for this long.
const DRAIN: Duration = Duration::from_millis(1_500);
/// Tables whose inputs moved without changing them commit their positions this often.
const POSITIONS_EVERY: Duration = Duration::from_secs(600);

pub(super) struct Pipeline {
    settings: Settings,
    deps: Deps,
    streams: Vec<StreamTables>,
    derived: Vec<Derived>,
    base: LakeView,
    reader: Option<Box<dyn Reader>>,
    last_seal: Instant,
    last_positions: Instant,
    /// Not before then may tables be recomputed again.
    next_round: Instant,
    /// Not before then may recomputed tables be committed again.
    next_publish: Instant,
    settled: u64,
}

impl Pipeline {
    pub async fn open(settings: &Settings, deps: &Deps) -> Result<Self, Error> {
        let Opened { streams, derived, base, stopped } = open::open(deps).await?;
        let now = Instant::now();
        let mut pipeline = Self {
            settings: settings.clone(),
            deps: deps.clone(),
            streams,
            derived,
            base,
            reader: None,
            last_seal: now,
            last_positions: now,
            next_round: now,
            next_publish: now,
            settled: 0,
        };
        pipeline.report_models(&stopped);
        pipeline.swap();
        Ok(pipeline)
    }

    /// Brings every table up to Bronze, from the tables.
    pub async fn catch_up(&mut self) -> Result<(), Error> {
        for i in 0..self.streams.len() {
            while self.streams[i].catch_up().await? {
                if self.tail_bytes() > self.settings.seal_bytes {
                    self.seal(false).await?;
                }
            }
        }
        let view = self.swap();
        self.trust_recorded(&view);
        let names: Vec<String> = self.streams.iter().map(|s| s.name().to_owned()).collect();
        let mut after = Positions::default();
        for stream in &self.streams {
            after.merge(&stream.bronze.positions());
        }
        self.reader = Some(Arc::clone(&self.deps.log).reader(&names, &after).await?);
        Ok(())
    }

    /// Takes in everything that is in the log now.
    pub async fn follow_to_end(&mut self) -> Result<(), Error> {
        let ends = self.log_ends().await?;
        while !self.reaches(&ends) {
            self.poll().await?;
            self.seal_if_due().await?;
        }
        self.round().await;
        self.swap();
        Ok(())
    }

    /// One micro-batch and what is due after it.
    pub async fn step(&mut self) -> Result<(), Error> {
        let moved = self.poll().await?;
        if Instant::now() >= self.next_round && self.round().await {
            self.swap();
        } else if moved {
            self.swap();
        }
        self.seal_if_due().await?;
        self.settle().await
    }

    /// Takes in what is left in the log, for a while, and commits everything.
    pub async fn finish(mut self) -> Result<(), Error> {
        let ends = self.log_ends().await?;
        let deadline = Instant::now() + DRAIN;
        while !self.reaches(&ends) && Instant::now() < deadline {
            self.poll().await?;
        }
        self.round().await;
        self.swap();
        self.seal(true).await
    }

    /// The next records from the log, through every table. Whether there were any.
    async fn poll(&mut self) -> Result<bool, Error> {
        let Some(reader) = &mut self.reader else {
            return Err(Error::Internal("the log has no reader".to_owned()));
        };
        let wait = Duration::from_millis(self.settings.poll_wait_ms);
        let chunks = reader.poll(self.settings.batch_bytes, wait).await?;
        let mut moved = false;
        for chunk in chunks.into_iter().filter(|chunk| !chunk.records.is_empty()) {
            self.ingest(chunk)?;
            moved = true;
        }
        Ok(moved)
    }

    fn ingest(&mut self, mut chunk: Chunk) -> Result<(), Error> {
        let (log_id, now) = (self.deps.log.id().to_owned(), self.deps.clock.now_us());
        let Some(stream) = self.streams.iter_mut().find(|s| s.name() == chunk.stream) else {
            return Err(Error::Internal(format!("records of unknown stream {}", chunk.stream)));
        };
        chunk.records.sort_by_key(|r| (r.timestamp_us, r.partition, r.offset));
        let rows = bronze_rows(&log_id, stream.judge.contract(), &chunk.records, now)?;
        stream.ingest(rows)?;
        let (count, counts) = (chunk.records.len() as u64, stream.counts);
        metrics::records(&chunk.stream, count, counts);
        let identities = stream.identities.len();
        self.deps.status.update(|status| {
            let entry = status.streams.entry(chunk.stream).or_default();
            *entry = StreamStatus {
                records: entry.records + count,
                accepted: counts.accepted,
                repeats: counts.repeats,
                quarantined: counts.quarantined,
                identities,
            };
        });
        Ok(())
    }

    /// Computes outdated tables. Whether any table's content or positions changed.
    async fn round(&mut self) -> bool {
        let view = Arc::new(self.build_view());
        let generations = self.generations();
        let jobs: Vec<Job> =
            self.derived.iter().filter_map(|d| Job::of(d, &view, &generations)).collect();
        if !jobs.iter().any(|job| job.outdated) {
            return false;
        }
        let started = Instant::now();
        let results = run_round(view, jobs, generations).await;
        let took = started.elapsed();
        for result in results {
            if let Some(derived) = self.derived.iter_mut().find(|d| d.info.name == result.name) {
                derived.install(result);
            }
        }
        self.next_round = started + took + self.pause_after(took);
        self.report_round(took);
        true
    }

    /// The pause after work of this length that keeps it at its share of the time.
    fn pause_after(&self, took: Duration) -> Duration {
        let percent = self.settings.recompute_percent.clamp(1, 100);
        took * (100 - percent) / percent
    }

    async fn seal_if_due(&mut self) -> Result<(), Error> {
        let interval = Duration::from_millis(self.settings.seal_interval_ms);
        let full = self.tail_bytes() > self.settings.seal_bytes;
        if full || self.last_seal.elapsed() >= interval {
            self.seal(false).await?;
        }
        Ok(())
    }

    /// Commits what is not committed, in the order Bronze, acceptance, what follows from them,
    /// replaced tables; `all`: also positions that moved without rows, and tables that were
    /// committed only recently.
    async fn seal(&mut self, all: bool) -> Result<(), Error> {
        let started = Instant::now();
        let positions_too = all || self.last_positions.elapsed() >= POSITIONS_EVERY;
        if positions_too {
            self.last_positions = started;
        }
        let bronze = self.streams.iter_mut().map(|stream| stream.bronze.seal(positions_too));
        let mut committed = try_join_all(bronze).await?.into_iter().filter(|done| *done).count();
        self.trim_log().await?;
        let others = self.streams.iter_mut().flat_map(|stream| stream.tables_mut().skip(1));
        let others = others.map(|table| table.seal(positions_too));
        committed += try_join_all(others).await?.into_iter().filter(|done| *done).count();
        if all || Instant::now() >= self.next_publish {
            let publishing = Instant::now();
            committed += self.publish(positions_too).await?;
            self.next_publish = Instant::now() + self.pause_after(publishing.elapsed());
        }
        self.last_seal = Instant::now();
        if committed > 0 {
            self.swap();
            self.report_seal(committed, started.elapsed());
            self.checkpoint().await;
        }
        Ok(())
    }

    /// Commits recomputed tables, parents first, one level side by side.
    async fn publish(&mut self, positions_too: bool) -> Result<usize, Error> {
        let mut versions: BTreeMap<TableName, i64> = BTreeMap::new();
        let mut committed = 0;
        let levels = self.derived.iter().map(|derived| derived.level).max().unwrap_or_default();
        for level in 0..=levels {
            let at_level = self.derived.iter_mut().filter(|derived| derived.level == level);
            let due = at_level
                .filter(|derived| derived.plan.is_some())
                .filter(|derived| derived.is_due(positions_too, &versions));
            let published = due.map(|derived| derived.publish(&versions));
            committed += try_join_all(published).await?.len();
            let done = self.derived.iter().filter(|derived| derived.level == level);
            versions.extend(done.map(|derived| (derived.info.name.clone(), derived.version())));
        }
        Ok(committed)
    }

    /// Lets the log forget what Bronze holds durably.
    async fn trim_log(&self) -> Result<(), Error> {
        for stream in &self.streams {
            for partition in 0..stream.judge.contract().partitions {
                if let Some(through) = stream.bronze.committed_at(partition) {
                    self.deps.log.trim(stream.name(), partition, through).await?;
                }
            }
        }
        Ok(())
    }

    /// Writes checkpoints that are due. One that fails costs time at the next start, nothing else.
    async fn checkpoint(&mut self) {
        let tables = self.streams.iter_mut().flat_map(StreamTables::tables_mut);
        let tables = tables.map(|table| &table.table);
        for table in tables.chain(self.derived.iter().map(|derived| &derived.table)) {
            if let Err(error) = table.checkpoint_if_due().await {
                tracing::warn!(%error, "checkpoint not written");
            }
        }
    }

    /// Answers those who wait for everything that is in the log.
    async fn settle(&mut self) -> Result<(), Error> {
        let wanted = self.deps.view.settle_wanted();
        if wanted <= self.settled {
            return Ok(());
        }
        let ends = self.log_ends().await?;
        while !self.reaches(&ends) {
            self.poll().await?;
        }
        self.round().await;
        self.swap();
        self.seal(true).await?;
        self.settled = wanted;
        self.deps.view.mark_settled(wanted);
        Ok(())
    }

    async fn log_ends(&self) -> Result<Vec<(usize, Partition, Offset)>, Error> {
        let mut ends = Vec::new();
        for (i, stream) in self.streams.iter().enumerate() {
            let extents = self.deps.log.extents(stream.name()).await?;
            ends.extend((0..).zip(extents).map(|(partition, extent)| (i, partition, extent.end)));
        }
        Ok(ends)
    }

    fn reaches(&self, ends: &[(usize, Partition, Offset)]) -> bool {
        ends.iter().all(|(i, partition, end)| {
            let at = self.streams[*i].bronze.at(*partition);
            *end == 0 || at.is_some_and(|at| at + 1 >= *end)
        })
    }

    fn tail_bytes(&mut self) -> usize {
        let tails: usize = self
            .streams
            .iter_mut()
            .flat_map(StreamTables::tables_mut)
            .map(|table| table.tail_bytes())
            .sum();
        tails + self.derived.iter().map(Derived::pending_bytes).sum::<usize>()
    }

    fn generations(&self) -> BTreeMap<TableName, u64> {
        self.derived.iter().map(|d| (d.info.name.clone(), d.generation)).collect()
    }

    /// After catching up: recomputed tables whose recorded inputs are those of now need no run.
    fn trust_recorded(&mut self, view: &LakeView) {
        let generations = self.generations();
        let mut versions = BTreeMap::new();
        for derived in &mut self.derived {
            if let Some(plan) = derived.plan.clone() {
                let basis = basis(&plan, view, &generations);
                let positions = view.positions.only(&plan.streams);
                derived.trust_if_current(basis, &positions, &versions);
            }
            versions.insert(derived.info.name.clone(), derived.version());
        }
    }

    /// Makes what is in memory visible.
    fn swap(&mut self) -> LakeView {
        let view = self.build_view();
        self.deps.view.swap(view.clone());
        let bytes = self.tail_bytes();
        metrics::tail_bytes(bytes);
        view
    }

    fn build_view(&mut self) -> LakeView {
        let mut view = self.base.clone();
        for stream in &mut self.streams {
            view.positions.merge(&stream.bronze.positions());
            for table in stream.tables_mut() {
                view.tables.insert(table.info.name.clone(), table.state());
            }
        }
        for derived in &self.derived {
            view.tables.insert(derived.info.name.clone(), Arc::new(derived.state()));
        }
        view
    }

    fn report_models(&self, stopped: &BTreeMap<TableName, String>) {
        let log_id = self.deps.log.id().to_owned();
        let planned = Arc::clone(&self.deps.planned);
        self.deps.status.update(|status| {
            status.log_id = log_id;
            for judge in &planned.judges {
                status.streams.entry(judge.contract().name.clone()).or_default();
            }
            for plan in &planned.plans {
                let name = plan.model.name.to_string();
                let failure = stopped.get(&plan.model.name).cloned();
                let (class, reason) = (plan.class.to_string(), plan.reason.clone());
                status.models.insert(name, ModelStatus { class, reason, failure });
            }
        });
    }

    fn report_round(&self, took: Duration) {
        metrics::round(took);
        let failures: Vec<(String, Option<String>)> = self
            .derived
            .iter()
            .filter(|d| d.plan.as_ref().is_some_and(|plan| plan.class == Class::Recompute))
            .map(|d| (d.info.name.to_string(), d.failure.clone()))
            .collect();
        self.deps.status.update(|status| {
            status.last_round_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
            for (name, failure) in failures {
                if let Some(model) = status.models.get_mut(&name) {
                    model.failure = failure;
                }
            }
        });
    }

    fn report_seal(&self, tables: usize, took: Duration) {
        metrics::sealed(tables, took);
        tracing::debug!(tables, ?took, "sealed");
        self.deps.status.update(|status| {
            status.seals += 1;
            status.last_seal_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        });
    }
}
