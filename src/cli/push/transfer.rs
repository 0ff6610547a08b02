//! The work of a push: part after part, batch after batch, with the state kept up to date.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;

use super::{
    Args,
    feed::{Cut, Event, Feed, FileBatch},
    lookup::failure,
    pace::Pacer,
    part::Part,
    progress::Progress,
    ranges::Ranges,
    report::{REASONS_MAX, Report},
    sender::{Config, Sender, Settled},
    sort::{Ascending, Finding},
    state::{State, Store, WRITE_EVERY},
};
use crate::{
    cli::Failure,
    domain::ErrorKind,
    ingest::proto::{RecordBatch, StreamInfo},
};

/// How long acks are waited for after a stop.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// How a push came to its end.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Complete,
    Stopped,
}

pub(super) struct Transfer<'a> {
    args: &'a Args,
    endpoint: Endpoint,
    cut: Cut,
    /// Events are identified by what we send.
    sends_ids: bool,
    store: Option<Store>,
    state: State,
    stop: CancellationToken,
    pacer: Pacer,
    ranges: Ranges,
    /// Events whose place in the log is known.
    located: u64,
    /// What earlier runs of this command got done, and earlier rounds of a loop.
    before: Counts,
    rounds: Counts,
    reasons: Vec<String>,
    /// Batches settled through this run, and how long that took of all together.
    batches: u64,
    took: Duration,
    /// What a sort found.
    found: Finding,
}

#[derive(Debug, Default, Clone, Copy)]
struct Counts {
    rows: u64,
    acked: u64,
    refused: u64,
}

/// One part on its way.
struct Flight {
    index: usize,
    /// Of its files, by their index.
    names: Vec<String>,
    identities: Vec<String>,
    /// `None`: rows go as they stand.
    order: Option<Ascending>,
    sender: Sender,
    feed: Feed,
    /// What was sent and is not settled, by ascending sequence.
    sent: VecDeque<FileBatch>,
    read: Arc<AtomicU64>,
    progress: Progress,
    acked_before: u64,
    /// The state file does not hold the last acks yet.
    is_dirty: bool,
}

impl<'a> Transfer<'a> {
    pub(super) fn new(
        args: &'a Args,
        endpoint: Endpoint,
        info: &StreamInfo,
        cut: Cut,
        store: Option<Store>,
        state: State,
        stop: CancellationToken,
    ) -> Self {
        let mut transfer = Self {
            args,
            endpoint,
            cut,
            sends_ids: info.event_id == "client",
            store,
            state,
            stop,
            pacer: Pacer::new(args.pace()),
            ranges: Ranges::default(),
            located: 0,
            before: Counts::default(),
            rounds: Counts::default(),
            reasons: Vec::new(),
            batches: 0,
            took: Duration::ZERO,
            found: Finding::default(),
        };
        transfer.before = transfer.counts();
        transfer
    }

    /// Pushes all parts, or until it is stopped.
    pub(super) async fn run(&mut self, parts: &[Part]) -> Result<Ended, Failure> {
        for round in 0_u64.. {
            for (index, part) in parts.iter().enumerate() {
                if self.state.files[index].done {
                    continue;
                }
                let ended = self.push_part(index, part, round).await;
                self.write_state().await?;
                if ended? == Ended::Stopped {
                    return Ok(Ended::Stopped);
                }
            }
            if !self.args.repeat {
                break;
            }
            if !self.next_round(parts) {
                break;
            }
        }
        if let Some(store) = &self.store {
            store.remove().map_err(|error| Failure::new(error.kind(), error.to_string()))?;
        }
        Ok(Ended::Complete)
    }

    /// Begins a round of a loop; false where the last one had nothing to send.
    fn next_round(&mut self, parts: &[Part]) -> bool {
        let counts = self.counts();
        self.rounds.rows += counts.rows;
        self.rounds.acked += counts.acked;
        self.rounds.refused += counts.refused;
        self.reasons = self.all_reasons();
        self.state = self.state.anew(parts, self.cut);
        counts.acked > 0
    }

    async fn push_part(&mut self, index: usize, part: &Part, round: u64) -> Result<Ended, Failure> {
        let mut flight = self.take_off(index, part, round)?;
        let stop = self.stop.clone();
        let mut ticks = interval(WRITE_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut deadline: Option<Instant> = None;
        let mut reading = true;
        let mut broken = Ok(());
        loop {
            let overdue = sleep_until(deadline.unwrap_or_else(|| Instant::now() + STOP_GRACE));
            tokio::select! {
                () = stop.cancelled(), if deadline.is_none() => {
                    reading = false;
                    flight.sender.close();
                    deadline = Some(Instant::now() + STOP_GRACE);
                }
                () = overdue, if deadline.is_some() => return Ok(Ended::Stopped),
                settled = flight.sender.settled() => {
                    match settled.map_err(|error| self.lost(&error))? {
                        Some(settled) => self.settle(&mut flight, settled)?,
                        None => break,
                    }
                }
                _ = ticks.tick() => self.tick(&mut flight).await?,
                batch = flight.feed.next(&mut self.pacer), if reading => match batch {
                    Ok(Some(batch)) => self.send(&mut flight, batch).await?,
                    ended => {
                        reading = false;
                        flight.sender.close();
                        broken = ended.map(|_| ()).map_err(|e| Failure::work(e.to_string()));
                    }
                },
            }
        }
        flight.progress.finish();
        broken?;
        if deadline.is_some() {
            return Ok(Ended::Stopped);
        }
        self.state.files[index].done = true;
        Ok(Ended::Complete)
    }

    fn take_off(&self, index: usize, part: &Part, round: u64) -> Result<Flight, Failure> {
        let file = &self.state.files[index];
        let name = part.name();
        let progress = Progress::start(&name, part.bytes(), self.args.quiet);
        if let Some(sort) = &part.sort {
            progress.note(&format!("{name}: sorting by {}", sort.member));
        }
        if file.rows > 0 {
            let place = match part.sort {
                Some(_) => format!("row {} of the sorted rows", file.rows),
                None => format!("line {}", file.line),
            };
            progress.note(&format!("{name}: resuming after {place} ({} acked before)", file.acked));
        }
        let config = Config {
            endpoint: self.endpoint.clone(),
            stream: self.args.stream.clone(),
            producer_id: part.producer_id(&self.state.push_id, index),
            first_sequence: file.sequence,
            want_positions: true,
            retry_for: Duration::from_secs(self.args.retry_for),
        };
        let read = Arc::new(AtomicU64::new(0));
        let found = Arc::clone(&self.found);
        let feed = Feed::start(part.clone(), file.rows, self.cut, Arc::clone(&read), found)
            .map_err(|error| Failure::work(format!("cannot start to read: {error}")))?;
        Ok(Flight {
            index,
            names: part.inputs.iter().map(|input| input.name.clone()).collect(),
            identities: part.identities(&self.state.push_id, round),
            order: part.sort.as_ref().map(|_| Ascending::default()),
            sender: Sender::start(config),
            feed,
            sent: VecDeque::new(),
            read,
            progress,
            acked_before: file.acked,
            is_dirty: false,
        })
    }

    /// Hands over a batch; a stop is heard while it waits for room.
    async fn send(&mut self, flight: &mut Flight, batch: FileBatch) -> Result<(), Failure> {
        if let Some(order) = &mut flight.order {
            order.check(&batch).map_err(|reason| Failure::new(ErrorKind::Internal, reason))?;
        }
        let records = self.records(&batch, &flight.identities);
        let sent = tokio::select! {
            sent = flight.sender.send(records) => sent,
            () = self.stop.cancelled() => return Ok(()),
        };
        let Err(error) = sent else {
            flight.sent.push_back(batch);
            return Ok(());
        };
        while let Ok(Some(settled)) = flight.sender.settled().await {
            self.settle(flight, settled)?;
        }
        Err(self.lost(&error))
    }

    /// `identities`: of the files of the part.
    fn records(&self, batch: &FileBatch, identities: &[String]) -> RecordBatch {
        if self.args.as_arrays.is_some() {
            return RecordBatch { records: joined(&batch.events), ..RecordBatch::default() };
        }
        let records = batch.events.iter().map(|event| event.payload.clone()).collect();
        let id =
            |event: &Event| Bytes::from(format!("{}:{}", identities[event.place.file], event.row));
        let ids = batch.events.iter().filter(|_| self.sends_ids).map(id);
        RecordBatch { records, keys: Vec::new(), event_ids: ids.collect() }
    }

    /// Enters what became of the oldest batch on its way.
    fn settle(&mut self, flight: &mut Flight, settled: Settled) -> Result<(), Failure> {
        let file = &mut self.state.files[flight.index];
        let Some(batch) = flight.sent.pop_front() else {
            let message = format!("batch {} was acked but never sent", settled.sequence);
            return Err(Failure::new(ErrorKind::Internal, message));
        };
        // A record of several is kept or refused as a whole.
        let each = if self.args.as_arrays.is_some() { batch.events.len() as u64 } else { 1 };
        let (acked, refused) = (settled.accepted * each, settled.refused() * each);
        file.rows += batch.rows;
        file.line = batch.last_line;
        file.acked += acked;
        file.records += settled.accepted;
        file.refused += batch.refused.len() as u64 + refused;
        file.sequence = settled.sequence + 1;
        self.batches += 1;
        self.took += settled.took;
        let reasons = reasons(&batch, &settled, &flight.names);
        file.reasons.extend(reasons.take(REASONS_MAX.saturating_sub(file.reasons.len())));
        // A loop has no end at which somebody would ask for them.
        if !self.args.repeat && !settled.positions.is_empty() {
            settled.positions.iter().for_each(|range| self.ranges.add(range));
            self.located += acked;
        }
        flight.is_dirty = true;
        Ok(())
    }

    async fn tick(&mut self, flight: &mut Flight) -> Result<(), Failure> {
        let acked = self.state.files[flight.index].acked - flight.acked_before;
        flight.progress.update(acked, flight.read.load(Ordering::Relaxed));
        if std::mem::take(&mut flight.is_dirty) {
            self.write_state().await?;
        }
        Ok(())
    }

    async fn write_state(&self) -> Result<(), Failure> {
        let Some(store) = &self.store else { return Ok(()) };
        let written = store.write(&self.state).await;
        written.map_err(|error| Failure::new(error.kind(), error.to_string()))
    }

    fn lost(&self, error: &super::sender::SendError) -> Failure {
        let acked = self.counts().acked;
        let Some(_) = &self.store else { return failure(error) };
        let hint =
            format!("{error}; {acked} events are acked, run the same command again to go on");
        Failure::new(error.kind(), hint)
    }

    fn counts(&self) -> Counts {
        self.state.files.iter().fold(Counts::default(), |sum, file| Counts {
            rows: sum.rows + file.rows,
            acked: sum.acked + file.acked,
            refused: sum.refused + file.refused,
        })
    }

    fn all_reasons(&self) -> Vec<String> {
        let these = self.state.files.iter().flat_map(|file| &file.reasons);
        self.reasons.iter().chain(these).take(REASONS_MAX).cloned().collect()
    }

    pub(super) fn ranges(&self) -> &Ranges {
        &self.ranges
    }

    /// How many events are there.
    pub(super) fn told_of(&self) -> u64 {
        if self.args.as_arrays.is_some() { self.located } else { self.ranges.count() }
    }

    pub(super) fn report(&self, parts: &[Part]) -> Report {
        let counts = self.counts();
        let inputs = parts.iter().flat_map(|part| &part.inputs);
        let mut report = Report {
            stream: self.args.stream.clone(),
            files: inputs.map(|input| input.name.clone()).collect(),
            lines: self.rounds.rows + counts.rows,
            acked_before: self.before.acked,
            acked: self.rounds.acked + counts.acked - self.before.acked,
            records: self.args.as_arrays.map(|_| self.state.files.iter().map(|f| f.records).sum()),
            refused: self.rounds.refused + counts.refused,
            reasons: self.all_reasons(),
            out_of_order: self.found.get().map(|found| found.out_of_order),
            ..Report::default()
        };
        report.set_batches(self.batches, self.took);
        report
    }
}

/// The events as one array; none where there are none.
fn joined(events: &[Event]) -> Vec<Bytes> {
    let [first, others @ ..] = events else { return Vec::new() };
    let bytes: usize = events.iter().map(|event| event.payload.len() + 1).sum();
    let mut array = Vec::with_capacity(bytes + 1);
    array.push(b'[');
    array.extend_from_slice(&first.payload);
    for event in others {
        array.push(b',');
        array.extend_from_slice(&event.payload);
    }
    array.push(b']');
    vec![array.into()]
}

/// The reasons of refused rows, as `file:line: reason`, by file and line.
fn reasons<'a>(
    batch: &FileBatch,
    settled: &Settled,
    names: &'a [String],
) -> impl Iterator<Item = String> + 'a {
    let mut reasons = batch.refused.clone();
    for error in settled.errors.iter().filter(|error| !error.quarantined) {
        if let Some(event) = batch.events.get(error.index as usize) {
            let field = match error.field.as_str() {
                "" => String::new(),
                field => format!("{field}: "),
            };
            reasons.push((event.place, format!("{field}{}", error.message)));
        }
    }
    if let (true, true, Some(first)) =
        (!settled.refusal.is_empty(), settled.errors.is_empty(), batch.events.first())
    {
        let reason = format!("the batch was refused: {}", settled.refusal);
        reasons.push((first.place, reason));
    }
    reasons.sort();
    reasons
        .into_iter()
        .map(|(place, reason)| format!("{}:{}: {reason}", names[place.file], place.line))
}
