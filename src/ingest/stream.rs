//! One `PublishStream` call: a reader takes batches in and hands each to the log in the order of
//! their sequences, an acker waits for them in the same order and answers. Many batches may be
//! under way between the two.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use prost::Message as _;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinHandle,
};
use tonic::{Code, Status, Streaming};

use crate::{
    domain::contract::Contract,
    ingest::{
        acker::{Acker, Entry, Landing},
        judge::Origin,
        metrics,
        producers::ProducerKey,
        proto::{
            Batch, BatchResult, OpenStream, PublishStreamRequest, PublishStreamResponse,
            StreamOpened, publish_stream_request::Message as In,
            publish_stream_response::Message as Out,
        },
        service::{Appended, Shared, permits, result_of},
        status,
    },
    log,
};

/// Batches between reader and acker.
const ENTRIES_MAX: usize = 1_024;
/// Refused sequences that a stream remembers, so that each may be sent again, mended.
const REFUSED_MAX: usize = 10_000;
const PRODUCER_ID_BYTES_MAX: usize = 256;

pub(super) type Responses = mpsc::Sender<Result<PublishStreamResponse, Status>>;

/// Serves one call to its end.
pub(super) async fn serve(
    shared: Arc<Shared>,
    mut inbound: Streaming<PublishStreamRequest>,
    responses: Responses,
) {
    let opened = tokio::select! {
        opened = open(&shared, &mut inbound) => opened,
        () = shared.draining.cancelled() => Err(status::draining()),
        () = responses.closed() => return,
    };
    let (contract, open, opened) = match opened {
        Ok(Some(opened)) => opened,
        Ok(None) => return,
        Err(status) => {
            // A client that has gone needs no answer, here and below.
            responses.send(Err(status)).await.ok();
            return;
        }
    };
    let key = ProducerKey {
        stream: contract.name.clone(),
        producer: opened.producer_id.clone(),
        epoch: open.producer_epoch,
    };
    let message = PublishStreamResponse { message: Some(Out::Opened(opened)) };
    responses.send(Ok(message)).await.ok();

    let (entries, received) = mpsc::channel(ENTRIES_MAX);
    let acker =
        Acker::new(Arc::clone(&shared), key.clone(), open.want_positions, responses.clone());
    let stream_bytes = shared.settings.stream_inflight_bytes_max;
    let reader = Reader {
        shared,
        contract,
        key,
        want_positions: open.want_positions,
        entries,
        inflight: Arc::new(Semaphore::new(stream_bytes)),
        has_failed: Arc::default(),
        first: None,
        expected: None,
        forgotten: None,
        refused: BTreeSet::new(),
    };
    tokio::join!(Box::pin(reader.run(inbound, &responses)), Box::pin(acker.run(received)));
}

type Opened = (Arc<Contract>, OpenStream, StreamOpened);

/// Reads the first message. `None`: the client ended the stream before it opened it.
async fn open(
    shared: &Shared,
    inbound: &mut Streaming<PublishStreamRequest>,
) -> Result<Option<Opened>, Status> {
    let first = inbound.message().await.map_err(|error| inbound_failed(shared, error))?;
    let Some(first) = first else { return Ok(None) };
    let Some(In::Open(open)) = first.message else {
        return Err(status::protocol("the first message of a stream must be `open`"));
    };
    let contract = shared.contract(&open.stream)?;
    if open.producer_id.len() > PRODUCER_ID_BYTES_MAX {
        let message = format!("longer than {PRODUCER_ID_BYTES_MAX} bytes");
        return Err(status::invalid_field("producer_id", &message));
    }
    let producer_id = if open.producer_id.is_empty() {
        uuid::Uuid::now_v7().to_string()
    } else {
        open.producer_id.clone()
    };
    let key = ProducerKey {
        stream: contract.name.clone(),
        producer: producer_id.clone(),
        epoch: open.producer_epoch,
    };
    let opened = StreamOpened {
        producer_id,
        resume_after_sequence: shared.producers().last(&key),
        limits: Some(shared.settings.limits()),
        contract_version: contract.version.clone(),
    };
    Ok(Some((contract, open, opened)))
}

/// tonic's own answer to a message over its limit is OUT_OF_RANGE, which clients retry.
fn inbound_failed(shared: &Shared, error: Status) -> Status {
    if error.code() == Code::OutOfRange {
        return status::oversize("max_request_bytes", None, shared.settings.max_request_bytes);
    }
    error
}

struct Reader {
    shared: Arc<Shared>,
    contract: Arc<Contract>,
    key: ProducerKey,
    want_positions: bool,
    entries: mpsc::Sender<Entry>,
    /// Bytes of this stream on the way into the log.
    inflight: Arc<Semaphore>,
    /// Whether an append of this stream failed: none begins after it.
    has_failed: Arc<AtomicBool>,
    /// The sequence of the next batch; a stream may begin at any.
    /// The first sequence of this stream.
    first: Option<i64>,
    expected: Option<i64>,
    /// Which of the sequences up to here were refused is not remembered any more.
    forgotten: Option<i64>,
    refused: BTreeSet<i64>,
}

/// The acker has ended, so there is nobody to work for.
struct AckerGone;

impl From<mpsc::error::SendError<Entry>> for AckerGone {
    fn from(_: mpsc::error::SendError<Entry>) -> Self {
        Self
    }
}

/// What a batch's sequence says.
enum Order {
    Next,
    Repeat,
    Gap { expected: i64 },
}

impl Reader {
    async fn run(mut self, inbound: Streaming<PublishStreamRequest>, responses: &Responses) {
        let entries = self.entries.clone();
        tokio::select! {
            // Nobody is left to do anything about it when the acker is gone.
            end = self.read(inbound) => if let Ok(status) = end {
                entries.send(Entry::End(status)).await.ok();
            },
            () = entries.closed() => {}
            () = responses.closed() => {}
        }
    }

    /// Reads to the end of the stream; returns the status to end it with.
    async fn read(
        &mut self,
        mut inbound: Streaming<PublishStreamRequest>,
    ) -> Result<Option<Status>, AckerGone> {
        let draining = self.shared.draining.clone();
        let mut closes_at = None;
        loop {
            let message = tokio::select! {
                biased;
                () = draining.cancelled(), if closes_at.is_none() => {
                    let grace = self.shared.settings.drain_grace();
                    closes_at = Some(tokio::time::Instant::now() + grace);
                    self.entries.send(Entry::Drain { closes_in: grace }).await?;
                    continue;
                }
                () = until(closes_at) => return Ok(Some(status::draining())),
                message = inbound.message() => message,
            };
            let message = match message {
                Ok(Some(message)) => message.message,
                Ok(None) => return Ok(None),
                Err(error) => return Ok(Some(inbound_failed(&self.shared, error))),
            };
            match message {
                Some(In::Batch(batch)) => self.batch(batch).await?,
                Some(In::Flush(_)) => self.entries.send(Entry::Flush).await?,
                Some(In::Close(_)) => return Ok(None),
                Some(In::Open(_)) => {
                    return Ok(Some(status::protocol("the stream is open already")));
                }
                // A message of a later version of the contract.
                None => return Ok(Some(status::protocol("a message of an unknown kind"))),
            }
        }
    }

    async fn batch(&mut self, batch: Batch) -> Result<(), AckerGone> {
        let started = Instant::now();
        let Batch { sequence, records } = batch;
        let records = records.unwrap_or_default();
        let events = records.records.len();
        match self.order(sequence) {
            Order::Next => {}
            Order::Repeat => {
                let duplicate = events as u64;
                let result = BatchResult { sequence, duplicate, ..BatchResult::default() };
                return self.answer(result, true).await;
            }
            Order::Gap { expected } => return self.answer(gap(sequence, expected), false).await,
        }
        let bytes = records.encoded_len();
        if let Err(status) = self.shared.check_size(bytes, events) {
            metrics::refused(&self.contract.name, events as u64);
            return self.refuse(sequence, status.code(), status.message().to_owned()).await;
        }
        let permits = self.reserve(bytes).await;
        let origin = Origin::Producer {
            producer: self.key.producer.clone(),
            epoch: self.key.epoch,
            sequence,
        };
        let judged = match self.shared.judge(&self.contract, origin, records, bytes).await {
            Ok(Ok(judged)) => judged,
            Ok(Err(bad)) => {
                metrics::refused(&self.contract.name, events as u64);
                let message = format!("{}: {}", bad.field, bad.message);
                return self.refuse(sequence, Code::InvalidArgument, message).await;
            }
            Err(status) => return Ok(self.entries.send(Entry::End(Some(status))).await?),
        };
        metrics::refused(&self.contract.name, judged.refused);
        if judged.is_refused_whole {
            let message = status::refusal(&judged.errors, judged.errors_cut);
            let result = BatchResult {
                errors: judged.errors,
                errors_cut: judged.errors_cut,
                ..refusal(sequence, Code::InvalidArgument, message)
            };
            self.remember_refused(sequence);
            return self.answer(result, true).await;
        }
        let payload_bytes = judged.bytes as u64;
        let is_worth_telling = self.want_positions || !judged.errors.is_empty();
        let (result, records) = result_of(judged);
        let landing = self.begin(records, permits).await;
        let result = BatchResult { sequence, ..result };
        let entry = Entry::Batch { landing, result, is_worth_telling, payload_bytes, started };
        Ok(self.entries.send(entry).await?)
    }

    /// Gives the append its place in the log, then lets it run by itself.
    async fn begin(&self, records: Vec<log::Record>, permits: Permits) -> Landing {
        if records.is_empty() {
            return Landing::Done(Ok(Vec::new()));
        }
        if self.has_failed.load(Ordering::SeqCst) {
            // The client begins again at the batch that failed, and what comes after it waits.
            return Landing::Done(Err(log::Error::Closed));
        }
        let mut append = self.shared.append(&self.contract.name, records);
        if let std::task::Poll::Ready(done) = futures::poll!(append.as_mut()) {
            self.has_failed.fetch_or(done.is_err(), Ordering::SeqCst);
            return Landing::Done(done);
        }
        let has_failed = Arc::clone(&self.has_failed);
        let landing: JoinHandle<Appended> = self.shared.tasks.spawn(async move {
            let appended = append.await;
            has_failed.fetch_or(appended.is_err(), Ordering::SeqCst);
            drop(permits);
            appended
        });
        Landing::UnderWay(landing)
    }

    fn order(&mut self, sequence: i64) -> Order {
        let first = *self.first.get_or_insert_with(|| sequence.max(0));
        let expected = *self.expected.get_or_insert(first);
        let is_durable = self.shared.producers().is_durable(&self.key, sequence);
        if sequence > expected || sequence < 0 || (sequence < first && !is_durable) {
            return Order::Gap { expected };
        }
        if sequence == expected {
            self.expected = Some(sequence.saturating_add(1));
        }
        // What this stream has taken before is on its way or durable, unless it was refused. Taken
        // once too often is no harm: the identity tells.
        let is_taken = sequence < expected
            && !self.refused.remove(&sequence)
            && self.forgotten.is_none_or(|forgotten| sequence > forgotten);
        if is_durable || is_taken { Order::Repeat } else { Order::Next }
    }

    async fn reserve(&self, bytes: usize) -> Permits {
        let settings = &self.shared.settings;
        let of_stream = permits(bytes, settings.stream_inflight_bytes_max);
        let of_all = permits(bytes, settings.inflight_bytes_max);
        // The semaphores are never closed.
        let stream = Arc::clone(&self.inflight).acquire_many_owned(of_stream).await.ok();
        let all = Arc::clone(&self.shared.inflight).acquire_many_owned(of_all).await.ok();
        Permits { _stream: stream, _all: all }
    }

    /// Answers a batch that is not written. Its sequence is used up, but it may be sent again
    /// under the same one, mended.
    async fn refuse(
        &mut self,
        sequence: i64,
        code: Code,
        message: String,
    ) -> Result<(), AckerGone> {
        self.remember_refused(sequence);
        self.answer(refusal(sequence, code, message), true).await
    }

    fn remember_refused(&mut self, sequence: i64) {
        self.refused.insert(sequence);
        if self.refused.len() > REFUSED_MAX {
            self.forgotten = self.forgotten.max(self.refused.pop_first());
        }
    }

    async fn answer(&self, result: BatchResult, is_covered: bool) -> Result<(), AckerGone> {
        Ok(self.entries.send(Entry::Answer { result, is_covered }).await?)
    }
}

/// Held while a batch is on its way into the log.
struct Permits {
    _stream: Option<OwnedSemaphorePermit>,
    _all: Option<OwnedSemaphorePermit>,
}

fn refusal(sequence: i64, code: Code, message: String) -> BatchResult {
    BatchResult { sequence, code: code.into(), message, ..BatchResult::default() }
}

fn gap(sequence: i64, expected: i64) -> BatchResult {
    let message = format!("expected sequence {expected}: send it and those after it first");
    let result = refusal(sequence, Code::OutOfRange, message);
    BatchResult { expected_sequence: expected, ..result }
}

async fn until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
