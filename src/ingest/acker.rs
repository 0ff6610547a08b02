//! The answering half of a `PublishStream` call.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant as Deadline, timeout_at},
};
use tonic::Status;

use crate::{
    ingest::{
        metrics,
        producers::ProducerKey,
        proto::{
            Ack, BatchResult, DrainNotice, PublishStreamResponse,
            publish_stream_response::Message as Out,
        },
        service::{Appended, Shared, positions},
        status,
        stream::Responses,
    },
    log,
    ops::{Clock, crash},
};

/// What the reader hands on, in the order of the stream.
pub(super) enum Entry {
    /// A batch that goes into the log.
    Batch {
        landing: Landing,
        result: BatchResult,
        /// Whether the client hears more than the ack.
        is_worth_telling: bool,
        payload_bytes: u64,
        started: Instant,
    },
    /// A batch that does not. A covered one counts as answered by the acks that follow.
    Answer {
        result: BatchResult,
        is_covered: bool,
    },
    Flush,
    Drain {
        closes_in: Duration,
    },
    /// The last entry: everything before it is answered, then the stream ends.
    End(Option<Status>),
}

/// An append under way.
pub(super) enum Landing {
    Done(Appended),
    UnderWay(JoinHandle<Appended>),
}

impl Landing {
    async fn outcome(self) -> Appended {
        match self {
            Self::Done(appended) => appended,
            Self::UnderWay(task) => task.await.unwrap_or_else(|error| {
                let reason = format!("the append did not end: {error}");
                Err(log::Error::Unavailable { path: String::new(), reason })
            }),
        }
    }
}

pub(super) struct Acker {
    shared: Arc<Shared>,
    key: ProducerKey,
    want_positions: bool,
    responses: Responses,
    /// Everything up to here is answered.
    through: Option<i64>,
    /// Batches answered since the last ack, and when they have to be acked.
    unacked: usize,
    due: Option<Deadline>,
}

impl Acker {
    pub(super) fn new(
        shared: Arc<Shared>,
        key: ProducerKey,
        want_positions: bool,
        responses: Responses,
    ) -> Self {
        Self { shared, key, want_positions, responses, through: None, unacked: 0, due: None }
    }

    /// Answers until the last entry or the first append that failed.
    pub(super) async fn run(mut self, mut entries: mpsc::Receiver<Entry>) {
        while let Some(entry) = self.acking(entries.recv()).await {
            match entry {
                Entry::Batch { landing, result, is_worth_telling, payload_bytes, started } => {
                    let sequence = result.sequence;
                    match self.acking(landing.outcome()).await {
                        Ok(ranges) => {
                            let took = started.elapsed();
                            let stream = &self.key.stream;
                            metrics::acked(stream, result.accepted, payload_bytes, took);
                            self.shared.producers().record(&self.key, sequence);
                            if is_worth_telling {
                                self.tell(result, ranges).await;
                            }
                            self.cover(sequence, entries.is_empty()).await;
                        }
                        Err(error) => return self.fail(sequence, &error).await,
                    }
                }
                Entry::Answer { result, is_covered } => {
                    let sequence = result.sequence;
                    self.send(Out::Result(result)).await;
                    if is_covered {
                        self.cover(sequence, entries.is_empty()).await;
                    }
                }
                Entry::Flush => self.ack().await,
                Entry::Drain { closes_in } => {
                    let closes_at = Some(timestamp_in(closes_in));
                    self.send(Out::Drain(DrainNotice { closes_at })).await;
                }
                Entry::End(status) => {
                    if self.unacked > 0 {
                        self.ack().await;
                    }
                    if let Some(status) = status {
                        self.responses.send(Err(status)).await.ok();
                    }
                    return;
                }
            }
        }
        if self.unacked > 0 {
            self.ack().await;
        }
    }

    /// Waits for `work`, and acks in between when that is due.
    async fn acking<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        while let Some(due) = self.due {
            match timeout_at(due, work.as_mut()).await {
                Ok(done) => return done,
                Err(_elapsed) => self.ack().await,
            }
        }
        work.await
    }

    /// `sequence` is answered. The ack waits for more to cover only while there is more to come.
    async fn cover(&mut self, sequence: i64, is_idle: bool) {
        self.through = self.through.max(Some(sequence));
        self.unacked += 1;
        let settings = &self.shared.settings;
        if is_idle || self.unacked >= settings.ack_batches_max {
            self.ack().await;
        } else if self.due.is_none() {
            self.due = Some(Deadline::now() + settings.ack_delay());
        }
    }

    async fn ack(&mut self) {
        self.due = None;
        self.unacked = 0;
        if let Some(acked_through) = self.through {
            self.send(Out::Ack(Ack { acked_through })).await;
            crash::point("ingest.replied");
        }
    }

    async fn tell(&self, mut result: BatchResult, ranges: Vec<log::OffsetRange>) {
        if self.want_positions {
            result.positions = positions(ranges);
        }
        self.send(Out::Result(result)).await;
    }

    /// What became of `sequence` is unknown, and with it everything after.
    async fn fail(&mut self, sequence: i64, error: &log::Error) {
        if self.unacked > 0 {
            self.ack().await;
        }
        let again = format!("everything from sequence {sequence} on");
        self.responses.send(Err(status::append_failed(error, &again))).await.ok();
    }

    /// A client that has gone hears nothing; what it sent is still seen through.
    async fn send(&self, message: Out) {
        let response = PublishStreamResponse { message: Some(message) };
        self.responses.send(Ok(response)).await.ok();
    }
}

/// The time after so long from now.
fn timestamp_in(wait: Duration) -> prost_types::Timestamp {
    let wait_us = i64::try_from(wait.as_micros()).unwrap_or(i64::MAX);
    let at_us = Clock::system().now_us().saturating_add(wait_us);
    let nanos = i32::try_from(at_us.rem_euclid(1_000_000) * 1_000).unwrap_or_default();
    prost_types::Timestamp { seconds: at_us.div_euclid(1_000_000), nanos }
}
