//! A client of `PublishStream`: batches go in, what became of each comes out, in order.
//!
//! Many batches are in flight, bounded by their bytes. When the connection or the server is lost,
//! it reconnects and sends again from the first batch that was not acknowledged, under the same
//! sequence numbers, until nothing has been acknowledged for `retry_for`. Whether an answer is
//! worth a retry is decided by its code. A batch that was settled is durable in the log or was
//! refused for good.

mod error;
mod link;

use std::{collections::VecDeque, time::Duration};

use tokio::{sync::mpsc, task::JoinSet};
use tonic::transport::Endpoint;

use crate::ingest::proto;

pub use error::{SendError, describe, kind_of};

/// What is sent where, and under which name.
#[derive(Debug, Clone)]
pub struct Config {
    pub endpoint: Endpoint,
    pub stream: String,
    /// Names the producer across reconnects: with it a batch that is sent again is known as such.
    pub producer_id: String,
    /// The sequence of the first batch.
    pub first_sequence: i64,
    /// Ask where in the log the events are.
    pub want_positions: bool,
    /// How long to try again while nothing is acknowledged.
    pub retry_for: Duration,
}

/// What became of one batch.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Settled {
    pub sequence: i64,
    /// Events of the batch.
    pub events: u64,
    /// Events that are durable in the log.
    pub accepted: u64,
    /// What is wrong with some of the events, quarantined ones included; at most 100.
    pub errors: Vec<proto::EventError>,
    /// Why the whole batch was refused; empty otherwise.
    pub refusal: String,
    /// Where the accepted events are, if asked for.
    pub positions: Vec<proto::OffsetRange>,
    /// From the first time it was sent until this was known.
    pub took: Duration,
}

impl Settled {
    /// Events that are not in the log.
    pub fn refused(&self) -> u64 {
        self.events.saturating_sub(self.accepted)
    }
}

/// Sends batches over one stream.
pub struct Sender {
    batches: Option<mpsc::Sender<proto::RecordBatch>>,
    settled: mpsc::Receiver<Settled>,
    /// Settled while waiting for room.
    ready: VecDeque<Settled>,
    task: JoinSet<Result<(), SendError>>,
}

impl Sender {
    /// Starts to connect in the background. Dropping the sender ends it at once.
    pub fn start(config: Config) -> Self {
        let (batches, batches_in) = mpsc::channel(1);
        let (settled_out, settled) = mpsc::channel(64);
        let mut task = JoinSet::new();
        task.spawn(link::Link::new(config, batches_in, settled_out).run());
        Self { batches: Some(batches), settled, ready: VecDeque::new(), task }
    }

    /// Hands over one batch; waits while too much is in flight. An empty batch is legal.
    /// Not to be called after `close`. After an error `settled` still tells what was settled
    /// before.
    pub async fn send(&mut self, batch: proto::RecordBatch) -> Result<(), SendError> {
        loop {
            let Some(batches) = &self.batches else { return Err(SendError::Closed) };
            tokio::select! {
                permit = batches.reserve() => match permit {
                    Ok(permit) => {
                        permit.send(batch);
                        return Ok(());
                    }
                    Err(_) => break,
                },
                Some(settled) = self.settled.recv() => self.ready.push_back(settled),
            }
        }
        while let Some(settled) = self.settled.recv().await {
            self.ready.push_back(settled);
        }
        Err(self.end().await.err().unwrap_or(SendError::Closed))
    }

    /// No more batches: what was sent is still settled.
    pub fn close(&mut self) {
        self.batches = None;
    }

    /// What became of the next batch, in the order of sending; waits for it. `None` when all that
    /// was sent before `close` is settled. Cancel-safe.
    pub async fn settled(&mut self) -> Result<Option<Settled>, SendError> {
        if let Some(settled) = self.ready.pop_front() {
            return Ok(Some(settled));
        }
        match self.settled.recv().await {
            Some(settled) => Ok(Some(settled)),
            None => self.end().await.map(|()| None),
        }
    }

    async fn end(&mut self) -> Result<(), SendError> {
        match self.task.join_next().await {
            Some(Ok(result)) => result,
            Some(Err(error)) => Err(SendError::Failed(error.to_string())),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
