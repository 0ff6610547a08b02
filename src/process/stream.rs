//! One stream's way through the lake: Bronze, acceptance, quarantine and the row-wise models.
//!
//! [`StreamTables::apply`] is the one operator: on the hot path it gets new Bronze rows from the
//! log, when catching up it gets the same rows back from the Bronze table. Each table takes the
//! rows beyond its own position.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use arrow::{
    array::{AsArray as _, BinaryArray, BooleanArray, RecordBatch},
    compute::filter_record_batch,
};

use crate::{
    bronze::{
        self, Decision, DecodedBatch, Identities, Judge, Origin, Verdict, acceptance_rows,
        accepted_rows, origins, quarantine_rows,
    },
    domain::{Offset, Partition, Place, identity::Identity, record::LogRecord},
    lake::{Committed, OffsetWindow},
    models::Input,
    process::{
        Error,
        anchors::Anchors,
        feed::{Fed, Output},
        offset_table::{OffsetTable, SealError},
        plans::RowModel,
        rows::{Places, carried_rows, column, ran, wanted},
    },
};

/// Records of Bronze that are caught up from the table at once, per partition: at most, and fewer
/// where they take more than so many bytes as they are stored.
const CATCH_UP_OFFSETS: i64 = 50_000;
const CATCH_UP_BYTES: u64 = 8 << 20;

/// Offsets that are caught up at once, per partition.
pub(super) fn catch_up_offsets(bronze: &Committed) -> Offset {
    let each = (bronze.bytes / bronze.rows.max(1)).max(1);
    i64::try_from(CATCH_UP_BYTES / each).map_or(CATCH_UP_OFFSETS, |n| n.clamp(1, CATCH_UP_OFFSETS))
}

pub(super) struct StreamTables {
    pub judge: Arc<Judge>,
    pub bronze: OffsetTable,
    pub acceptance: OffsetTable,
    pub quarantine: OffsetTable,
    /// Parents before children.
    pub models: Vec<RowModel>,
    pub identities: Identities,
    pub counts: Counts,
    /// The log that the records come from.
    pub origin: Origin,
    /// How much of the acceptance table the identities were filled from, per partition.
    pub known: BTreeMap<Partition, Offset>,
    /// Whether this process writes the tables that have one owner.
    pub is_owned: bool,
    /// Why the stream is not followed, if it is not.
    pub halted: Option<String>,
    /// The partitions that it reads from the log.
    pub held: BTreeSet<Partition>,
    /// Per partition, the time of the last record in Bronze, tail included.
    pub times: BTreeMap<Partition, i64>,
    pub anchors: Anchors,
    /// The relations that models kept by changes read.
    pub read: BTreeSet<Input>,
    /// Per partition, the last offset that all of those models were handed, if there are any.
    pub readers_at: BTreeMap<Partition, Option<Offset>>,
    /// What they are still to be handed.
    pub fed: Vec<Fed>,
}

/// What became of the stream's records since the process started.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    pub accepted: u64,
    pub repeats: u64,
    pub quarantined: u64,
}

/// Decisions that the acceptance table holds for a stretch of records.
pub(super) type Recorded = HashMap<(i32, Offset, i32), Verdict>;

/// What the accepted rows are, and what models made of them: with each row its place.
type Outputs = BTreeMap<Input, (RecordBatch, RecordBatch)>;

impl StreamTables {
    pub(super) fn name(&self) -> &str {
        &self.judge.contract().name
    }

    /// Raises times that fall within a partition, so that arrival order is the order of offsets.
    /// Times far ahead of `now_us` are lowered first: one of them would raise all that follow.
    pub(super) fn raise_times(&mut self, records: &mut [LogRecord], now_us: i64) {
        for record in records {
            let time = believable(record.timestamp_us, now_us);
            let last = self.times.entry(record.partition).or_insert(time);
            *last = time.max(*last);
            record.timestamp_us = *last;
        }
    }

    /// Whether this process decides about the records of a partition, and runs the row-wise models
    /// over them. Where an event's identity determines its partition, that is who reads it from the
    /// log; else one process must see all of them.
    fn decides(&self, partition: Partition) -> bool {
        if self.halted.is_some() {
            return false;
        }
        if self.judge.contract().is_spread() {
            return self.is_owned;
        }
        self.held.contains(&partition)
    }

    /// Makes the partitions `held` this process's, and those only. What it wrote of others is
    /// committed; the snapshots are those of now.
    pub(super) fn hold(&mut self, held: BTreeSet<Partition>, is_owned: bool) {
        (self.held, self.is_owned) = (held, is_owned);
        for partition in 0..self.judge.contract().partitions {
            let (is_held, decides) = (self.held.contains(&partition), self.decides(partition));
            self.bronze.hold(partition, is_held);
            let followers = self.tables_mut().skip(1);
            followers.for_each(|table| table.hold(partition, decides));
        }
    }

    /// Reads the identities that were decided on elsewhere, of the partitions that are decided here.
    pub(super) async fn learn(&mut self) -> Result<(), Error> {
        let mut windows = BTreeMap::new();
        for partition in (0..self.judge.contract().partitions).filter(|p| self.decides(*p)) {
            let after = self.known.get(&partition).copied();
            if let Some(through) =
                self.acceptance.committed_at(partition).filter(|t| Some(*t) > after)
            {
                windows.insert(partition, OffsetWindow { after, through });
            }
        }
        let identities = &mut self.identities;
        let taken = |rows: &RecordBatch| remember(identities, rows);
        self.acceptance.each_in(&["verdict", "__identity"], &windows, taken).await?;
        self.known
            .extend(windows.into_iter().map(|(partition, window)| (partition, window.through)));
        Ok(())
    }

    /// Commits decisions. Whether there were any.
    pub(super) async fn seal_decisions(&mut self, force: bool) -> Result<bool, SealError> {
        let done = self.acceptance.seal(force).await?;
        let ours = (0..self.judge.contract().partitions).filter(|p| self.decides(*p));
        let through = ours.filter_map(|p| Some((p, self.acceptance.committed_at(p)?)));
        let through: Vec<(Partition, Offset)> = through.collect();
        self.known.extend(through);
        Ok(done)
    }

    /// New rows from the log: into Bronze and, where that is decided here, everything after it.
    pub(super) fn ingest(&mut self, rows: RecordBatch) -> Result<(), Error> {
        let ends = Places::of(&rows)?.ends();
        if ends.keys().all(|partition| self.decides(*partition)) {
            self.apply(&rows, &Recorded::new())?;
        }
        self.bronze.push(rows)?;
        self.bronze.advance(&ends);
        Ok(())
    }

    /// Includes offsets that no record has, or will have.
    pub(super) fn pass_over(&mut self, ends: &BTreeMap<Partition, Offset>) {
        self.bronze.advance(ends);
        self.advance_followers(ends);
        // Without rows.
        self.advance_readers(BTreeMap::new(), ends.clone());
    }

    fn advance_readers(&mut self, mut outputs: Outputs, ends: BTreeMap<Partition, Offset>) {
        if !self.read.is_empty() && !ends.is_empty() {
            let has_stopped = |input: &Input| {
                let mut models = self.models.iter().filter(|model| model.failure.is_some());
                models.any(|model| Input::Table(model.name.clone()) == *input)
            };
            let read = self.read.iter().map(|input| {
                let output = match outputs.remove(input) {
                    Some((rows, places)) => Output::Rows(rows, places),
                    None if has_stopped(input) => Output::Stopped,
                    None => Output::Nothing,
                };
                (input.clone(), output)
            });
            self.fed.push(Fed { outputs: read.collect(), ends });
        }
    }

    /// Brings every table up to Bronze, from Bronze. Returns after each stretch with whether more
    /// is left, so that the caller can seal in between.
    pub(super) async fn catch_up(&mut self) -> Result<bool, Error> {
        let (mut windows, mut more) = (BTreeMap::new(), false);
        let at_once = catch_up_offsets(self.bronze.committed());
        for partition in 0..self.judge.contract().partitions {
            let Some((behind, end)) = self.behind(partition) else { continue };
            let from = behind.map_or(0, |at| at + 1);
            if from <= end {
                let through = end.min(from.saturating_add(at_once - 1));
                more |= through < end;
                windows.insert(partition, OffsetWindow { after: behind, through });
            }
        }
        if windows.is_empty() {
            return Ok(false);
        }
        let recorded = recorded(&self.acceptance.rows_in(&windows).await?)?;
        let rows = self.bronze.rows_in(&windows).await?;
        let rows = bronze::in_arrival_order(&rows)?;
        self.apply(&rows, &recorded)?;
        // Offsets that the log skipped have no rows; they are behind us all the same.
        let ends: BTreeMap<_, _> =
            windows.iter().map(|(partition, window)| (*partition, window.through)).collect();
        self.advance_followers(&ends);
        self.advance_readers(BTreeMap::new(), ends);
        Ok(more)
    }

    /// The last offset of a partition that everything that follows Bronze here has, and the last
    /// that it can have; `None` where nothing does.
    fn behind(&self, partition: Partition) -> Option<(Option<Offset>, Offset)> {
        let readers = self.readers_at.get(&partition).copied();
        if self.decides(partition) {
            let followers = self.followers().map(|table| table.at(partition));
            let behind = followers.chain(readers).min().flatten();
            return Some((behind, self.bronze.committed_at(partition)?));
        }
        // What another process decided, as far as it is committed.
        let behind = readers.filter(|_| self.halted.is_none())?;
        let all = self.followers().chain([&self.bronze]);
        Some((behind, all.map(|table| table.committed_at(partition)).min().flatten()?))
    }

    /// Whether something that follows Bronze here could have more than it has.
    pub(super) fn is_behind(&self) -> bool {
        let mut partitions = 0..self.judge.contract().partitions;
        partitions.any(|p| self.behind(p).is_some_and(|(behind, end)| behind < Some(end)))
    }

    /// The tables that follow Bronze.
    pub(super) fn followers(&self) -> impl Iterator<Item = &OffsetTable> {
        let running = self.models.iter().filter(|model| model.failure.is_none());
        let models = running.map(|model| &model.table);
        [&self.acceptance, &self.quarantine].into_iter().chain(models)
    }

    /// Every table of the stream in the order of commits, Bronze first.
    pub(super) fn tables_mut(&mut self) -> impl Iterator<Item = &mut OffsetTable> {
        let models = self.models.iter_mut().map(|model| &mut model.table);
        [&mut self.bronze, &mut self.acceptance, &mut self.quarantine].into_iter().chain(models)
    }

    /// The tables whose rows follow from decisions, of one level: quarantine and the models that
    /// read the stream, then those that read these.
    pub(super) fn tables_at(&mut self, level: usize) -> impl Iterator<Item = &mut OffsetTable> {
        let models = self.models.iter_mut().filter(move |model| model.level == level);
        let quarantine = (level == 0).then_some(&mut self.quarantine);
        quarantine.into_iter().chain(models.map(|model| &mut model.table))
    }

    fn advance_followers(&mut self, ends: &BTreeMap<Partition, Offset>) {
        self.acceptance.advance(ends);
        self.quarantine.advance(ends);
        for model in self.models.iter_mut().filter(|model| model.failure.is_none()) {
            model.table.advance(ends);
        }
    }

    /// What records become. They may hold no event at all, and are behind us all the same.
    fn apply(&mut self, records: &RecordBatch, recorded: &Recorded) -> Result<(), Error> {
        if records.num_rows() == 0 {
            return Ok(());
        }
        let ends = Places::of(records)?.ends();
        let rows = self.judge.events(records)?;
        let places = Places::of(&rows)?;
        let payload: &BinaryArray = column(&rows, "_payload")?.as_binary();
        let header: &BinaryArray = column(&rows, "__identity")?.as_binary();
        let is_read = !self.models.is_empty() || !self.read.is_empty();
        let keys: &BinaryArray = column(&rows, "_key")?.as_binary();
        let decoded = self.judge.decode_for(payload, keys, column(&rows, "_ts")?, is_read)?;
        let identity = |row: usize| {
            let (partition, offset) = places.at(row);
            let found = self.judge.identity(&decoded, row, header.value(row));
            found.ok_or_else(|| {
                let name = self.name();
                Error::Internal(format!("{name}/{partition}: offset {offset} has no identity"))
            })
        };
        let mut identities: Vec<Identity> =
            (0..rows.num_rows()).map(identity).collect::<Result<_, Error>>()?;
        let origins = origins(&rows);
        let verdicts = self.decide(&places, &decoded, &origins, &mut identities, recorded)?;
        self.quarantine(&rows, &places, &decoded, &identities, &verdicts)?;
        let rows = self.judge.named(rows, &decoded)?;
        let outputs = self.run_models(&rows, &decoded, &verdicts)?;
        self.advance_followers(&ends);
        self.advance_readers(outputs, ends);
        Ok(())
    }

    /// A verdict for every row: as recorded, or decided now and recorded. A row that is set aside
    /// takes another identity, see [`Judge::set_aside`].
    fn decide(
        &mut self,
        places: &Places<'_>,
        decoded: &DecodedBatch,
        origins: &[Option<Place>],
        identities: &mut [Identity],
        recorded: &Recorded,
    ) -> Result<Vec<Verdict>, Error> {
        let mut verdicts = Vec::with_capacity(identities.len());
        let mut decisions = Vec::new();
        for (row, identity) in identities.iter_mut().enumerate() {
            let (partition, offset) = places.at(row);
            let key = places.key(row);
            if !self.acceptance.wants(partition, offset) {
                let verdict = recorded.get(&key).copied().ok_or_else(|| Error::Undecided {
                    stream: self.name().to_owned(),
                    partition,
                    offset,
                })?;
                if verdict == Verdict::Quarantined
                    && let Some(aside) = self.judge.set_aside(decoded, row, identity)
                {
                    *identity = aside;
                }
                verdicts.push(verdict);
                continue;
            }
            let bad = decoded.breaks(row);
            let mut fingerprint = identity.fingerprint();
            if bad
                && !self.identities.is_accepted(&fingerprint)
                && let Some(aside) = self.judge.set_aside(decoded, row, identity)
            {
                *identity = aside;
                fingerprint = identity.fingerprint();
            }
            let verdict = self.identities.decide(fingerprint, bad);
            self.counts.add(verdict);
            verdicts.push(verdict);
            // What was set aside is resolved once its event counts, be it by another record.
            let counts = |_: &Place| self.identities.is_accepted(&fingerprint);
            let origin = origins.get(row).copied().flatten().filter(counts);
            let (partition, offset, index) = key;
            decisions.push(Decision {
                partition,
                offset,
                index,
                identity,
                fingerprint,
                verdict,
                origin,
            });
        }
        self.acceptance.push(acceptance_rows(&decisions)?)?;
        Ok(verdicts)
    }

    fn quarantine(
        &mut self,
        rows: &RecordBatch,
        places: &Places<'_>,
        decoded: &DecodedBatch,
        identities: &[Identity],
        verdicts: &[Verdict],
    ) -> Result<(), Error> {
        let bad = (0_u32..).zip(verdicts).filter(|(row, verdict)| {
            let (partition, offset) = places.at(*row as usize);
            **verdict == Verdict::Quarantined && self.quarantine.wants(partition, offset)
        });
        let bad: Vec<u32> = bad.map(|(row, _)| row).collect();
        if bad.is_empty() {
            return Ok(());
        }
        let contract = self.judge.contract();
        let rows = quarantine_rows(contract, rows, decoded, identities, &bad)?;
        self.quarantine.push(rows)?;
        Ok(())
    }

    fn run_models(
        &mut self,
        rows: &RecordBatch,
        decoded: &DecodedBatch,
        verdicts: &[Verdict],
    ) -> Result<Outputs, Error> {
        let mut outputs = Outputs::new();
        if self.models.is_empty() && self.read.is_empty() {
            return Ok(outputs);
        }
        let good = |verdict: &Verdict| Some(*verdict == Verdict::Accepted);
        let good: BooleanArray = verdicts.iter().map(good).collect();
        let input = accepted_rows(self.judge.contract(), rows, decoded)?;
        let input = filter_record_batch(&input, &good)?;
        let carried = filter_record_batch(&carried_rows(self.name(), rows)?, &good)?;
        outputs.insert(Input::Stream(self.name().to_owned()), (input, carried));
        for model in self.models.iter_mut().filter(|model| model.failure.is_none()) {
            let ran = match outputs.get(&model.input) {
                Some((input, carried)) => ran(&model.program, input, carried),
                None => {
                    model.stop("what it reads has stopped".to_owned());
                    continue;
                }
            };
            match ran {
                Ok((rows, carried)) => {
                    model.table.push(wanted(&model.table, &rows, &carried)?)?;
                    outputs.insert(Input::Table(model.name.clone()), (rows, carried));
                }
                // One model's error is no reason to stop the others.
                Err(error) => model.stop(error.reason()),
            }
        }
        Ok(outputs)
    }
}

/// How far a record's time may be ahead of our clock, in microseconds: what brokers allow, too.
const AHEAD_US: i64 = 3_600_000_000;

/// The time of a record that was read at `now_us`, as Bronze takes it.
pub(super) fn believable(timestamp_us: i64, now_us: i64) -> i64 {
    timestamp_us.min(now_us.saturating_add(AHEAD_US))
}

impl Counts {
    fn add(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Accepted => self.accepted += 1,
            Verdict::Repeat => self.repeats += 1,
            Verdict::Quarantined => self.quarantined += 1,
        }
    }
}

pub(super) fn recorded(batches: &[RecordBatch]) -> Result<Recorded, Error> {
    let mut recorded = Recorded::new();
    for rows in batches {
        let places = Places::of(rows)?;
        let verdicts = column(rows, "verdict")?.as_string::<i32>();
        for row in 0..rows.num_rows() {
            if let Some(verdict) = Verdict::parse(verdicts.value(row)) {
                recorded.insert(places.key(row), verdict);
            }
        }
    }
    Ok(recorded)
}

/// Fills the identities from the committed acceptance rows.
pub(super) fn remember(identities: &mut Identities, rows: &RecordBatch) -> Result<(), Error> {
    let verdicts = column(rows, "verdict")?.as_string::<i32>();
    let fingerprints = column(rows, "__identity")?.as_binary::<i32>();
    for row in 0..rows.num_rows() {
        let verdict = Verdict::parse(verdicts.value(row));
        let fingerprint = fingerprints.value(row).try_into();
        let (Some(verdict), Ok(fingerprint)) = (verdict, fingerprint) else {
            return Err(Error::Internal("an acceptance row cannot be read".to_owned()));
        };
        identities.remember(fingerprint, verdict);
    }
    Ok(())
}
