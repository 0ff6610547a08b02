//! The background half of a sender: connects, sends, receives, and starts over.

use std::{collections::VecDeque, time::Duration};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming, transport::Channel};

use super::{
    Config, SendError, Settled,
    error::{Fault, root_of},
};
use crate::ingest::proto::{
    self, Batch, BatchResult, CloseStream, OpenStream, PublishStreamRequest, PublishStreamResponse,
    ingest_service_client::IngestServiceClient, publish_stream_request::Message as Request,
    publish_stream_response::Message as Response,
};

/// Bytes in flight, not batches: many small ones must not wait for each other.
const IN_FLIGHT_BYTES_MAX: usize = 8 * 1024 * 1024;
/// What an event costs beside its payload.
const EVENT_OVERHEAD_BYTES: usize = 64;
const OPEN_TIMEOUT: Duration = Duration::from_secs(15);
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
const BACK_OFF_FIRST: Duration = Duration::from_millis(100);
const BACK_OFF_MAX: Duration = Duration::from_secs(2);

pub(super) struct Link {
    config: Config,
    batches: mpsc::Receiver<proto::RecordBatch>,
    settled: mpsc::Sender<Settled>,
    /// Taken over and not settled yet, by ascending sequence.
    unsettled: VecDeque<InFlight>,
    unsettled_bytes: usize,
    next_sequence: i64,
    /// The other half may still hand over batches.
    open: bool,
    /// Since when nothing has been acknowledged although we tried.
    failing_since: Option<Instant>,
    attempts: u32,
    jitter: StdRng,
}

struct InFlight {
    sequence: i64,
    records: proto::RecordBatch,
    bytes: usize,
    result: Option<BatchResult>,
    /// When it was first sent.
    sent_at: Option<Instant>,
}

impl InFlight {
    fn new(sequence: i64, records: proto::RecordBatch) -> Self {
        let bytes = records
            .records
            .iter()
            .chain(&records.event_ids)
            .map(|part| part.len() + EVENT_OVERHEAD_BYTES)
            .sum();
        Self { sequence, records, bytes, result: None, sent_at: None }
    }

    fn request(&self) -> PublishStreamRequest {
        let records = Some(self.records.clone());
        request(Request::Batch(Batch { sequence: self.sequence, records }))
    }

    /// Refused as a whole: no ack has to be waited for.
    fn is_refused(&self) -> bool {
        self.result.as_ref().is_some_and(|result| is_refusal(result.code))
    }

    fn settle(self) -> Settled {
        let events = self.records.records.len() as u64;
        let took = self.sent_at.map_or(Duration::ZERO, |sent_at| sent_at.elapsed());
        let Some(result) = self.result else {
            return Settled {
                sequence: self.sequence,
                events,
                accepted: events,
                took,
                ..Settled::default()
            };
        };
        let refused = is_refusal(result.code);
        let durable = match Code::from(result.code) {
            Code::AlreadyExists => events,
            _ if refused => 0,
            _ => result.accepted + result.duplicate,
        };
        Settled {
            sequence: self.sequence,
            events,
            accepted: durable.min(events),
            errors: result.errors,
            refusal: if refused { result.message } else { String::new() },
            positions: result.positions,
            took,
        }
    }
}

fn is_refusal(code: i32) -> bool {
    matches!(Code::from(code), Code::InvalidArgument | Code::ResourceExhausted)
}

fn request(message: Request) -> PublishStreamRequest {
    PublishStreamRequest { message: Some(message) }
}

impl Link {
    pub(super) fn new(
        config: Config,
        batches: mpsc::Receiver<proto::RecordBatch>,
        settled: mpsc::Sender<Settled>,
    ) -> Self {
        Self {
            next_sequence: config.first_sequence,
            config,
            batches,
            settled,
            unsettled: VecDeque::new(),
            unsettled_bytes: 0,
            open: true,
            failing_since: None,
            attempts: 0,
            jitter: StdRng::seed_from_u64(uuid::Uuid::new_v4().as_u64_pair().0),
        }
    }

    pub(super) async fn run(mut self) -> Result<(), SendError> {
        loop {
            let (reason, after) = match Box::pin(self.session()).await {
                Ok(()) => return Ok(()),
                Err(Fault::Retry { reason, after }) => (reason, after),
                Err(Fault::Final { code, message }) => {
                    return Err(SendError::Refused { url: self.url(), code, message });
                }
            };
            let since = *self.failing_since.get_or_insert_with(Instant::now);
            let wait = after.unwrap_or_else(|| self.back_off());
            if since.elapsed() + wait > self.config.retry_for {
                let seconds = self.config.retry_for.as_secs();
                return Err(SendError::Lost { url: self.url(), seconds, reason });
            }
            tracing::debug!(stream = self.config.stream, %reason, "connection lost, trying again");
            sleep(wait).await;
        }
    }

    fn url(&self) -> String {
        self.config.endpoint.uri().to_string().trim_end_matches('/').to_owned()
    }

    fn back_off(&mut self) -> Duration {
        let full = BACK_OFF_FIRST.saturating_mul(1 << self.attempts.min(8)).min(BACK_OFF_MAX);
        self.attempts += 1;
        full.mul_f64(self.jitter.random_range(0.5..1.0))
    }

    fn progressed(&mut self) {
        self.failing_since = None;
        self.attempts = 0;
    }

    /// One connection, until everything is settled or it fails.
    async fn session(&mut self) -> Result<(), Fault> {
        let channel =
            self.config.endpoint.connect().await.map_err(|error| Fault::retry(root_of(&error)))?;
        let (requests, mut responses) = self.open_stream(channel).await?;
        if self.unsettled.is_empty() {
            self.failing_since = None;
        }
        // What was sent before is sent again: `sent` counts for this connection.
        let mut sent = 0;
        let mut draining = false;
        while self.open || !self.unsettled.is_empty() {
            let has_room = self.unsettled_bytes < IN_FLIGHT_BYTES_MAX;
            tokio::select! {
                response = responses.message() => {
                    let Some(response) = response? else {
                        return Err(Fault::retry("the server closed the stream"));
                    };
                    match response.message {
                        Some(Response::Drain(_)) => draining = true,
                        Some(Response::Ack(ack)) => {
                            sent -= self.settle_through(ack.acked_through, sent).await?;
                        }
                        Some(Response::Result(result)) => {
                            self.take_result(result)?;
                            sent -= self.settle_refused(sent).await?;
                        }
                        Some(Response::Opened(_)) | None => {}
                    }
                    if draining && sent == 0 {
                        return Err(Fault::retry("the server is shutting down"));
                    }
                }
                permit = requests.reserve(), if sent < self.unsettled.len() && !draining => {
                    // A closed channel means a failed stream; its status comes as a response.
                    let (Ok(permit), Some(batch)) = (permit, self.unsettled.get_mut(sent)) else {
                        draining = true;
                        continue;
                    };
                    batch.sent_at.get_or_insert_with(Instant::now);
                    permit.send(batch.request());
                    sent += 1;
                }
                batch = self.batches.recv(), if self.open && has_room => self.take(batch),
            }
        }
        self.close_stream(&requests, &mut responses).await;
        Ok(())
    }

    async fn open_stream(
        &self,
        channel: Channel,
    ) -> Result<(mpsc::Sender<PublishStreamRequest>, Streaming<PublishStreamResponse>), Fault> {
        let (requests, requests_out) = mpsc::channel(4);
        let open = OpenStream {
            stream: self.config.stream.clone(),
            producer_id: self.config.producer_id.clone(),
            producer_epoch: 0,
            want_positions: self.config.want_positions,
        };
        let lost = || Fault::retry("the stream could not be opened");
        requests.send(request(Request::Open(open))).await.map_err(|_| lost())?;
        let mut client = IngestServiceClient::new(channel);
        let opening = async {
            let answer = client.publish_stream(ReceiverStream::new(requests_out)).await?;
            let mut responses = answer.into_inner();
            match responses.message().await? {
                Some(PublishStreamResponse { message: Some(Response::Opened(_)) }) => Ok(responses),
                _ => Err(lost()),
            }
        };
        let responses = timeout(OPEN_TIMEOUT, opening)
            .await
            .map_err(|_| Fault::retry("the server does not open the stream"))??;
        Ok((requests, responses))
    }

    fn take(&mut self, batch: Option<proto::RecordBatch>) {
        let Some(records) = batch else {
            self.open = false;
            return;
        };
        let batch = InFlight::new(self.next_sequence, records);
        self.next_sequence += 1;
        self.unsettled_bytes += batch.bytes;
        self.unsettled.push_back(batch);
    }

    fn take_result(&mut self, result: BatchResult) -> Result<(), Fault> {
        match Code::from(result.code) {
            Code::Ok | Code::AlreadyExists | Code::InvalidArgument | Code::ResourceExhausted => {}
            // Unknown outcome or out of step: all from here on is sent again.
            Code::Unavailable | Code::Aborted | Code::DeadlineExceeded | Code::OutOfRange => {
                return Err(Fault::retry(result.message));
            }
            code => return Err(Fault::Final { code, message: result.message }),
        }
        let sequence = result.sequence;
        let found = self.unsettled.iter_mut().find(|batch| batch.sequence == sequence);
        if let Some(batch) = found {
            // A repeat knows no positions; an answer from before the reconnect does.
            let is_repeat = result.accepted == 0 && result.duplicate > 0;
            if !is_repeat || batch.result.as_ref().is_none_or(|known| known.accepted == 0) {
                batch.result = Some(result);
            }
        }
        Ok(())
    }

    /// Settles everything up to `sequence` that was sent; how many batches that is.
    async fn settle_through(&mut self, sequence: i64, sent: usize) -> Result<usize, Fault> {
        let mut count = 0;
        while count < sent && self.unsettled.front().is_some_and(|b| b.sequence <= sequence) {
            self.settle_first().await?;
            count += 1;
        }
        Ok(count + self.settle_refused(sent - count).await?)
    }

    async fn settle_refused(&mut self, sent: usize) -> Result<usize, Fault> {
        let mut count = 0;
        while count < sent && self.unsettled.front().is_some_and(InFlight::is_refused) {
            self.settle_first().await?;
            count += 1;
        }
        Ok(count)
    }

    async fn settle_first(&mut self) -> Result<(), Fault> {
        let Some(batch) = self.unsettled.pop_front() else { return Ok(()) };
        self.unsettled_bytes -= batch.bytes;
        self.progressed();
        self.settled.send(batch.settle()).await.map_err(|_| Fault::Final {
            code: Code::Cancelled,
            message: "the caller went away".into(),
        })
    }

    /// Says good-bye. Everything is settled, so nothing depends on the answer.
    async fn close_stream(
        &self,
        requests: &mpsc::Sender<PublishStreamRequest>,
        responses: &mut Streaming<PublishStreamResponse>,
    ) {
        let farewell = async {
            if requests.send(request(Request::Close(CloseStream {}))).await.is_ok() {
                while let Ok(Some(_)) = responses.message().await {}
            }
        };
        if timeout(CLOSE_TIMEOUT, farewell).await.is_err() {
            tracing::debug!(stream = self.config.stream, "the server did not close the stream");
        }
    }
}
