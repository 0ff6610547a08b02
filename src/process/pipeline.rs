//! The open pipeline: micro-batches, rounds, seals.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::future::try_join_all;
use tokio::{task::JoinSet, time::Instant};

use crate::{
    bronze::bronze_rows,
    domain::{Assignment, Offset, Partition, Positions, TableName, chain},
    lake::LakeView,
    log::{Chunk, Reader},
    ops::crash,
    process::{
        Deps, Error, Halted, Settings,
        derived::{Derived, Mark},
        ends::if_reachable,
        looks::Looks,
        metrics::{self, Stage},
        offset_table::OffsetTable,
        open::{self, Opened},
        quarantine::DiscardTable,
        rounds::Computed,
        settle::Settling,
        stream::StreamTables,
        upkeep::Upkeep,
    },
};

/// On stop, data that is still in the log is taken in for this long.
const DRAIN: Duration = Duration::from_millis(1_000);
/// On stop, tables are recomputed once more only where that takes no longer; else the next start
/// does it.
const ROUND_ON_STOP: Duration = Duration::from_millis(1_000);
/// Tables whose inputs moved without changing them commit their positions this often.
const POSITIONS_EVERY: Duration = Duration::from_secs(600);

/// When replaced tables have more in memory than they may, they are committed this often.
const PUBLISH_AGAIN: Duration = Duration::from_secs(1);

pub(super) struct Pipeline {
    pub(super) settings: Settings,
    pub(super) deps: Deps,
    pub(super) streams: Vec<StreamTables>,
    pub(super) derived: Vec<Derived>,
    base: LakeView,
    pub(super) discarded: DiscardTable,
    /// Models that were not started, with the reason.
    pub(super) stopped: BTreeMap<TableName, String>,
    pub(super) reader: Option<Box<dyn Reader>>,
    last_seal: Instant,
    last_positions: Instant,
    /// The round that is under way, if one is; ends with the pipeline.
    pub(super) rounds: JoinSet<Vec<Computed>>,
    pub(super) round_started: Instant,
    /// The generations that it rests on.
    pub(super) round_mark: Mark,
    /// Those that what is recomputed rests on.
    pub(super) last_mark: Mark,
    /// Those that are being committed, if a seal is under way.
    pub(super) seal_mark: Mark,
    pub(super) last_round: Duration,
    /// Not before then may tables be recomputed again.
    pub(super) next_round: Instant,
    pub(super) looks: Looks,
    /// Not before then may recomputed tables be committed again.
    pub(super) next_publish: Instant,
    pub(super) settled: u64,
    pub(super) settling: Option<Settling>,
    /// The partitions that it reads.
    pub(super) held: Assignment,
    /// Whether it writes the tables that have one owner.
    pub(super) is_owner: bool,
    pub(super) upkeep: Upkeep,
    /// Where the log ended at the last seal.
    pub(super) ends: Vec<(usize, Partition, Offset)>,
}

impl Pipeline {
    /// Opens every table. The streams `halted`, with the reason, are not followed.
    pub(super) async fn open(
        settings: &Settings,
        deps: &Deps,
        halted: &Halted,
    ) -> Result<Self, Error> {
        let Opened { mut streams, derived, base, stopped } = open::open_tables(deps).await?;
        for stream in &mut streams {
            stream.halted = halted.get(stream.name()).cloned();
        }
        let (now, looks) = (Instant::now(), Looks::of(&derived));
        let mut pipeline = Self {
            settings: settings.clone(),
            deps: deps.clone(),
            streams,
            derived,
            base,
            discarded: DiscardTable::open(&deps.lake).await?,
            stopped,
            reader: None,
            last_seal: now,
            last_positions: now,
            rounds: JoinSet::new(),
            round_started: now,
            round_mark: Mark::new(),
            last_mark: Mark::new(),
            seal_mark: Mark::new(),
            last_round: Duration::ZERO,
            next_round: now,
            looks,
            next_publish: now,
            settled: 0,
            settling: None,
            held: Assignment::default(),
            is_owner: false,
            upkeep: Upkeep::default(),
            ends: Vec::new(),
        };
        pipeline.report_models();
        pipeline.swap();
        Ok(pipeline)
    }

    /// Takes in everything that is in the log now.
    pub(super) async fn follow_to_end(&mut self) -> Result<(), Error> {
        let ends = self.log_ends().await?;
        while !self.reaches(&ends) {
            self.regroup().await?;
            if !self.poll().await? && self.pass_over_holes(&ends).await? {
                break;
            }
            self.seal_if_due().await?;
        }
        self.whole_round().await?;
        self.swap();
        Ok(())
    }

    /// One micro-batch and what is due after it.
    pub(super) async fn step(&mut self) -> Result<(), Error> {
        self.regroup().await?;
        if self.derived.iter().map(Derived::handed_bytes).sum::<usize>() > self.settings.seal_bytes
        {
            self.finish_looks().await?;
        }
        let moved = self.poll().await?;
        let recomputed = self.end_rounds()?;
        let ended = self.end_looks()?;
        if self.rounds.is_empty() && Instant::now() >= self.next_round {
            self.begin_round();
        }
        let looked = ended | self.begin_looks().await?;
        if moved || recomputed || looked {
            self.swap();
        }
        self.seal_if_due().await?;
        self.take_discards().await?;
        self.settle().await
    }

    /// Takes in what is left in the log, for a while, and commits everything.
    pub(super) async fn finish(mut self) -> Result<(), Error> {
        // Where the log cannot be reached, the next start takes in what it holds.
        let ends = if_reachable(self.log_ends().await)?.unwrap_or_default();
        let deadline = Instant::now() + DRAIN;
        while !self.reaches(&ends) && Instant::now() < deadline {
            if !self.poll().await? && self.pass_over_holes(&ends).await? {
                break;
            }
        }
        if self.last_round <= ROUND_ON_STOP {
            self.whole_round().await?;
        }
        self.swap();
        self.seal(true).await
    }

    /// The next records from the log, through every table. Whether there were any.
    pub(super) async fn poll(&mut self) -> Result<bool, Error> {
        self.poll_for(Duration::from_millis(self.settings.poll_wait_ms)).await
    }

    async fn poll_for(&mut self, wait: Duration) -> Result<bool, Error> {
        let Some(reader) = &mut self.reader else {
            return Err(Error::Internal("the log has no reader".to_owned()));
        };
        let chunks = reader.poll(self.settings.batch_bytes, wait).await?;
        let mut moved = false;
        for chunk in chunks.into_iter().filter(|chunk| !chunk.records.is_empty()) {
            crash::point("process.polled");
            self.ingest(chunk)?;
            crash::point("process.applied");
            moved = true;
        }
        Ok(moved)
    }

    fn ingest(&mut self, mut chunk: Chunk) -> Result<(), Error> {
        let (now, started) = (self.deps.clock.now_us(), Instant::now());
        let oldest = chunk.records.iter().map(|record| record.timestamp_us).min();
        let waited = u64::try_from(now.saturating_sub(oldest.unwrap_or(now))).unwrap_or_default();
        metrics::stage(Stage::Log, Duration::from_micros(waited));
        let Some(number) = self.streams.iter().position(|s| s.name() == chunk.stream) else {
            return Err(Error::Internal(format!("records of unknown stream {}", chunk.stream)));
        };
        let stream = &mut self.streams[number];
        stream.anchors.read(&chunk.records);
        stream.raise_times(&mut chunk.records, now);
        chunk.records.sort_by_key(|r| (r.timestamp_us, r.partition, r.offset));
        let rows = bronze_rows(&stream.origin, stream.judge.contract(), &chunk.records, now)?;
        stream.ingest(rows)?;
        let through = Instant::now();
        metrics::stage(Stage::Rows, through - started);
        self.feed(number)?;
        metrics::stage(Stage::Models, through.elapsed());
        let stream = &self.streams[number];
        let (count, counts) = (chunk.records.len() as u64, stream.counts);
        let has_failed = stream.models.iter().any(|model| model.failure.is_some());
        metrics::records(&chunk.stream, count, counts);
        let identities = stream.identities.len();
        self.deps.status.update(|status| {
            let entry = status.streams.entry(chunk.stream).or_default();
            entry.records += count;
            entry.accepted = counts.accepted;
            entry.repeats = counts.repeats;
            entry.quarantined = counts.quarantined;
            entry.identities = identities;
        });
        if has_failed {
            self.report_models();
        }
        Ok(())
    }

    /// The pause after work of this length on one core that keeps it at its share of the machine.
    pub(super) fn pause_after(&self, took: Duration) -> Duration {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let share = f64::from(self.settings.recompute_percent.clamp(1, 100)) / 100.0;
        #[allow(clippy::cast_precision_loss, reason = "a handful of cores")]
        let busy = (share * cores as f64).min(1.0);
        took.mul_f64((1.0 - busy) / busy)
    }

    async fn seal_if_due(&mut self) -> Result<(), Error> {
        let interval = Duration::from_millis(self.settings.seal_interval_ms);
        let waited = self.last_seal.elapsed();
        let patches: usize = self.derived.iter().map(Derived::pending_bytes).sum();
        let tails = self.tail_bytes() - patches;
        // What is pending of replaced tables may have to wait for a mark: not at each micro-batch.
        let is_publishing = patches > self.settings.seal_bytes && waited >= PUBLISH_AGAIN;
        if is_publishing {
            self.next_publish = Instant::now();
        }
        let is_full = tails > self.settings.seal_bytes;
        let is_due = is_publishing || waited >= interval;
        // What was made of others is committed with them, where all of it is of one moment; however
        // often what grows has to be committed meanwhile.
        let needs_mark = self.needs_mark();
        self.looks.wants_mark |= needs_mark && (is_full || is_due);
        let waits = needs_mark && waited < 2 * interval;
        if is_full || (is_due && !waits) {
            self.follow_others().await?;
            self.seal(false).await?;
        }
        Ok(())
    }

    pub(super) fn poll_wait(&self) -> Duration {
        Duration::from_millis(self.settings.poll_wait_ms)
    }

    /// Commits what is not committed, in the order Bronze, acceptance, what follows from them,
    /// replaced tables; `all`: also positions that moved without rows, and tables that were
    /// committed only recently.
    pub(super) async fn seal(&mut self, all: bool) -> Result<(), Error> {
        let started = Instant::now();
        // Where the log cannot be asked, what was read from it stays in memory, and in the log.
        if if_reachable(self.confirm_log().await)?.is_none() {
            self.last_seal = Instant::now();
            return Ok(());
        }
        let positions_too = all || self.last_positions.elapsed() >= POSITIONS_EVERY;
        if let Some(ends) = if_reachable(self.log_ends().await)? {
            if positions_too {
                if_reachable(self.pass_over_holes(&ends).await)?;
            }
            self.ends = ends;
        }
        if positions_too {
            self.last_positions = started;
        }
        // Other processors see how far a table is by what it says, also where it got no rows.
        let positions_too = positions_too || self.deps.membership.is_some();
        let may_publish = Instant::now() >= self.next_publish && !self.needs_mark();
        let cut = if all { None } else { Some(self.cut()) };
        let mut committed = self.seal_tables(positions_too, !all).await?;
        if self.is_owner && (all || may_publish) {
            let publishing = Instant::now();
            if all {
                self.look_at_all(false).await?;
            }
            self.looks.is_marked = false;
            committed += self.publish(positions_too, cut).await?;
            self.next_publish = Instant::now() + self.pause_after(publishing.elapsed());
        }
        if self.is_owner {
            committed += usize::from(self.keep_up().await?);
        }
        self.last_seal = Instant::now();
        if committed > 0 {
            self.swap();
            self.report_seal(committed, started.elapsed());
            self.checkpoint().await;
            crash::point("process.sealed");
        }
        Ok(())
    }

    /// What comes from now on is no part of the seal that follows. Returns how far Bronze reaches
    /// with it.
    fn cut(&mut self) -> Positions {
        let mut reached = Positions::default();
        for stream in &mut self.streams {
            reached.merge(&stream.bronze.positions());
            stream.tables_mut().for_each(OffsetTable::cut);
        }
        self.seal_mark = self.mark();
        self.keep_marks();
        reached
    }

    /// Commits the tables that grow: Bronze, then what was decided, then what follows from that,
    /// parents first. What comes meanwhile is taken in between if it `goes_on`: everything must have
    /// been cut.
    pub(super) async fn seal_tables(
        &mut self,
        positions_too: bool,
        goes_on: bool,
    ) -> Result<usize, Error> {
        self.streams.iter_mut().for_each(|stream| stream.anchors.sealed());
        let bronze = self.streams.iter_mut().map(|stream| stream.bronze.seal(positions_too));
        let mut committed = try_join_all(bronze).await?.into_iter().filter(|done| *done).count();
        self.trim_log().await?;
        crash::point("process.trimmed");
        self.go_on(goes_on).await?;
        let decisions = self.streams.iter_mut().map(|s| s.seal_decisions(positions_too));
        committed += try_join_all(decisions).await?.into_iter().filter(|done| *done).count();
        self.go_on(goes_on).await?;
        let models = self.streams.iter().flat_map(|stream| &stream.models);
        for level in 0..=models.map(|model| model.level).max().unwrap_or_default() {
            let tables = self.streams.iter_mut().flat_map(|stream| stream.tables_at(level));
            let tables = tables.map(|table| table.seal(positions_too));
            committed += try_join_all(tables).await?.into_iter().filter(|done| *done).count();
            self.go_on(goes_on).await?;
        }
        Ok(committed)
    }

    /// Between two commits of a seal: what has come meanwhile is taken in and shown.
    pub(super) async fn go_on(&mut self, goes_on: bool) -> Result<(), Error> {
        if goes_on && self.poll_for(Duration::ZERO).await? {
            self.look_between(false).await?;
            self.swap();
        }
        Ok(())
    }

    /// Lets the log forget what Bronze holds durably.
    async fn trim_log(&self) -> Result<(), Error> {
        for stream in &self.streams {
            for partition in stream.held.iter().copied() {
                if let Some(through) = stream.bronze.committed_at(partition) {
                    self.deps.log.trim(stream.name(), partition, through).await?;
                }
            }
        }
        if let Some(membership) = &self.deps.membership {
            let mut committed = Positions::default();
            for stream in &self.streams {
                committed.merge(&stream.bronze.committed_positions());
            }
            membership.report(&committed);
        }
        Ok(())
    }

    /// Writes checkpoints that are due, and cleans up behind them. One that fails costs time at the
    /// next start, nothing else.
    async fn checkpoint(&mut self) {
        if !self.is_owner {
            return;
        }
        let kept_us = i64::from(self.settings.log_retention_hours) * 3_600_000_000;
        let before = self.deps.clock.now_us() - kept_us;
        let tables = self.streams.iter_mut().flat_map(StreamTables::tables_mut);
        let tables = tables.map(|table| &mut table.table);
        for table in tables.chain(self.derived.iter_mut().map(|derived| &mut derived.table)) {
            let done = match table.checkpoint_if_due().await {
                Ok(true) => table.clean_up_log(before).await,
                Ok(false) => continue,
                Err(error) => Err(error),
            };
            match done {
                Ok(cleaned) => tracing::debug!(table = %table.name(), cleaned, "checkpoint"),
                Err(error) => tracing::warn!(
                    error = chain(&error),
                    "checkpoint not written, or not cleaned up"
                ),
            }
        }
    }

    pub(super) fn tail_bytes(&mut self) -> usize {
        let tails: usize = self
            .streams
            .iter_mut()
            .flat_map(StreamTables::tables_mut)
            .map(|table| table.tail_bytes())
            .sum();
        tails + self.derived.iter().map(Derived::pending_bytes).sum::<usize>()
    }

    /// Makes what is in memory visible.
    pub(super) fn swap(&mut self) -> LakeView {
        let started = Instant::now();
        let view = self.build_view();
        self.deps.view.swap(view.clone());
        metrics::stage(Stage::Visible, started.elapsed());
        crash::point("process.swapped");
        let bytes = self.tail_bytes();
        metrics::tail_bytes(bytes);
        view
    }

    pub(super) fn build_view(&mut self) -> LakeView {
        let mut view = self.base.clone();
        for stream in &mut self.streams {
            view.positions.merge(&stream.bronze.positions());
            for table in stream.tables_mut() {
                view.tables.insert(table.info.name.clone(), table.state());
            }
        }
        let discarded = Arc::new(self.discarded.state());
        view.tables.insert(discarded.info.name.clone(), discarded);
        for derived in &self.derived {
            view.tables.insert(derived.info.name.clone(), Arc::new(derived.state()));
        }
        let lagging = self.lagging();
        match self.system_tables(&lagging) {
            Ok(tables) => {
                let named = tables.into_iter().map(|t| (t.info.name.clone(), Arc::new(t)));
                view.tables.extend(named);
            }
            Err(error) => tracing::error!(%error, "system tables cannot be made"),
        }
        let results = self.deps.results.table();
        view.tables.insert(results.info.name.clone(), Arc::new(results));
        view.lagging = lagging;
        view
    }
}
