//! The work of a push: file after file, batch after batch, with the state kept up to date.

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
    feed::{Cut, Feed, FileBatch},
    lookup::failure,
    pace::Pacer,
    progress::Progress,
    ranges::Ranges,
    read::Input,
    report::{REASONS_MAX, Report},
    sender::{Config, Sender, Settled},
    state::{FileState, State, Store, WRITE_EVERY},
};
use crate::{
    cli::Failure,
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
    /// What earlier runs of this command got done, and earlier rounds of a loop.
    before: Counts,
    rounds: Counts,
    reasons: Vec<String>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Counts {
    rows: u64,
    acked: u64,
    refused: u64,
}

/// One file on its way.
struct Flight {
    index: usize,
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
            pacer: Pacer::new(args.rate),
            ranges: Ranges::default(),
            before: Counts::default(),
            rounds: Counts::default(),
            reasons: Vec::new(),
        };
        transfer.before = transfer.counts();
        transfer
    }

    /// Pushes all files, or until it is stopped.
    pub(super) async fn run(&mut self, inputs: &[Input]) -> Result<Ended, Failure> {
        for round in 0_u64.. {
            for (index, input) in inputs.iter().enumerate() {
                if self.state.files[index].done {
                    continue;
                }
                let ended = self.push_file(index, input, round).await;
                self.write_state().await?;
                if ended? == Ended::Stopped {
                    return Ok(Ended::Stopped);
                }
            }
            if !self.args.repeat {
                break;
            }
            if !self.next_round(inputs) {
                break;
            }
        }
        if let Some(store) = &self.store {
            store.remove().map_err(|error| Failure::new(error.kind(), error.to_string()))?;
        }
        Ok(Ended::Complete)
    }

    /// Begins a round of a loop; false where the last one had nothing to send.
    fn next_round(&mut self, inputs: &[Input]) -> bool {
        let counts = self.counts();
        self.rounds.rows += counts.rows;
        self.rounds.acked += counts.acked;
        self.rounds.refused += counts.refused;
        self.reasons = self.all_reasons();
        self.state = self.state.anew(inputs, self.cut);
        counts.acked > 0
    }

    async fn push_file(
        &mut self,
        index: usize,
        input: &Input,
        round: u64,
    ) -> Result<Ended, Failure> {
        let mut flight = self.take_off(index, input)?;
        let identity = identity(input, &self.state.push_id, round);
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
                    Ok(Some(batch)) => self.send(&mut flight, batch, &identity).await?,
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

    fn take_off(&self, index: usize, input: &Input) -> Result<Flight, Failure> {
        let file = &self.state.files[index];
        let progress = Progress::start(&input.name, input.bytes, self.args.quiet);
        if file.rows > 0 {
            let (name, line, acked) = (&input.name, file.line, file.acked);
            progress.note(&format!("{name}: resuming after line {line} ({acked} acked before)"));
        }
        let config = Config {
            endpoint: self.endpoint.clone(),
            stream: self.args.stream.clone(),
            producer_id: producer_id(input, &self.state.push_id, index),
            first_sequence: file.sequence,
            want_positions: true,
            retry_for: Duration::from_secs(self.args.retry_for),
        };
        let read = Arc::new(AtomicU64::new(0));
        let feed = Feed::start(input.clone(), file.rows, self.cut, Arc::clone(&read))
            .map_err(|error| Failure::work(format!("cannot start to read: {error}")))?;
        Ok(Flight {
            index,
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
    async fn send(
        &mut self,
        flight: &mut Flight,
        batch: FileBatch,
        identity: &str,
    ) -> Result<(), Failure> {
        let records = self.records(&batch, identity);
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

    fn records(&self, batch: &FileBatch, identity: &str) -> RecordBatch {
        let records = batch.events.iter().map(|event| event.payload.clone()).collect();
        let id = |row: u64| Bytes::from(format!("{identity}:{row}"));
        let ids = batch.events.iter().filter(|_| self.sends_ids).map(|event| id(event.row));
        RecordBatch { records, keys: Vec::new(), event_ids: ids.collect() }
    }

    /// Enters what became of the oldest batch on its way.
    fn settle(&mut self, flight: &mut Flight, settled: Settled) -> Result<(), Failure> {
        let file = &mut self.state.files[flight.index];
        let Some(batch) = flight.sent.pop_front() else {
            let message = format!("batch {} was acked but never sent", settled.sequence);
            return Err(Failure::new(crate::domain::ErrorKind::Internal, message));
        };
        file.rows += batch.rows;
        file.line = batch.last_line;
        file.acked += settled.accepted;
        file.refused += batch.refused.len() as u64 + settled.refused();
        file.sequence = settled.sequence + 1;
        let reasons = reasons(&batch, &settled);
        file.reasons.extend(reasons.take(REASONS_MAX.saturating_sub(file.reasons.len())));
        // A loop has no end at which somebody would ask for them.
        for range in settled.positions.iter().filter(|_| !self.args.repeat) {
            self.ranges.add(range);
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
        let files = self.state.files.iter().zip(&self.args.files);
        let named = files.flat_map(|(file, path): (&FileState, _)| {
            file.reasons.iter().map(move |reason| format!("{}:{reason}", path.display()))
        });
        self.reasons.iter().cloned().chain(named).take(REASONS_MAX).collect()
    }

    pub(super) fn ranges(&self) -> &Ranges {
        &self.ranges
    }

    pub(super) fn report(&self, inputs: &[Input]) -> Report {
        let counts = self.counts();
        Report {
            stream: self.args.stream.clone(),
            files: inputs.iter().map(|input| input.name.clone()).collect(),
            lines: self.rounds.rows + counts.rows,
            acked_before: self.before.acked,
            acked: self.rounds.acked + counts.acked - self.before.acked,
            refused: self.rounds.refused + counts.refused,
            reasons: self.all_reasons(),
            ..Report::default()
        }
    }
}

/// The reasons of refused rows, as `line: reason`, by line.
fn reasons(batch: &FileBatch, settled: &Settled) -> impl Iterator<Item = String> {
    let mut reasons = batch.refused.clone();
    for error in settled.errors.iter().filter(|error| !error.quarantined) {
        if let Some(event) = batch.events.get(error.index as usize) {
            let field = match error.field.as_str() {
                "" => String::new(),
                field => format!("{field}: "),
            };
            reasons.push((event.line, format!("{field}{}", error.message)));
        }
    }
    if let (true, true, Some(first)) =
        (!settled.refusal.is_empty(), settled.errors.is_empty(), batch.events.first())
    {
        let reason = format!("the batch was refused: {}", settled.refusal);
        reasons.push((first.line, reason));
    }
    reasons.sort();
    reasons.into_iter().map(|(line, reason)| format!("{line}: {reason}"))
}

/// Names the rows of a file: the same on every reading; rounds of a loop differ. Standard input
/// has no digest, so each reading of it is something else.
fn identity(input: &Input, push_id: &str, round: u64) -> String {
    let file = input.digest.get(..16).unwrap_or(push_id);
    if round == 0 { file.to_owned() } else { format!("{file}:{push_id}") }
}

/// The same for a resumed push, another for every new one: a server may answer a known (producer,
/// sequence) without looking at the events.
fn producer_id(input: &Input, push_id: &str, index: usize) -> String {
    let file = input.digest.get(..16).unwrap_or("stdin");
    format!("push:{file}:{push_id}:{index}")
}
