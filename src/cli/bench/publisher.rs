//! The client of the benchmarks: batches through one `PublishStream`, as fast as their acks let
//! them or at a rate.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::usage;
use crate::{
    cli::{Failure, chain},
    ingest::proto::{
        Batch, CloseStream, OpenStream, PublishStreamRequest, PublishStreamResponse, RecordBatch,
        ingest_service_client::IngestServiceClient, publish_stream_request::Message as In,
        publish_stream_response::Message as Out,
    },
    ops::Clock,
};

/// What is sent.
#[derive(Debug, Clone)]
pub(super) struct Load {
    /// `http://HOST:PORT`
    pub(super) url: String,
    pub(super) stream: &'static str,
    pub(super) events: u64,
    /// Events per batch.
    pub(super) batch: u64,
    /// Batches under way at once.
    pub(super) in_flight: usize,
    /// Events per second; `None`: as fast as possible.
    pub(super) rate: Option<f64>,
}

/// What it took until all of it was acked.
#[derive(Debug)]
pub(super) struct Published {
    /// When the first batch was sent, in microseconds since 1970.
    pub(super) started_us: i64,
    pub(super) took: Duration,
    /// Of this process.
    pub(super) cpu: Option<Duration>,
    /// From the send of a batch to its ack, sorted.
    pub(super) latencies: Vec<Duration>,
}

/// Publishes `event(0)`, `event(1)`, …; an event that is refused or quarantined is an error.
pub(super) async fn publish(
    load: &Load,
    event: impl FnMut(u64) -> Bytes,
) -> Result<Published, Failure> {
    let failed = |status: tonic::Status| Failure::work(format!("publish: {}", status.message()));
    let mut client = IngestServiceClient::connect(load.url.clone())
        .await
        .map_err(|error| Failure::unavailable(format!("{}: {}", load.url, chain(&error))))?;
    let (requests, receiver) = mpsc::channel(load.in_flight.max(1));
    let call = client.publish_stream(ReceiverStream::new(receiver)).await.map_err(failed)?;
    let (cpu_before, started_us) = (usage::cpu(), Clock::system().now_us());
    let started = Instant::now();
    let window = Arc::new(Semaphore::new(load.in_flight.max(1)));
    let (sent, sent_at) = mpsc::channel(load.in_flight.max(1));
    let sending = send(load, event, requests, Arc::clone(&window), sent);
    let acking = receive(call.into_inner(), window, sent_at);
    let ((), acked) = tokio::join!(sending, acking);
    let mut latencies = acked.map_err(failed)?;
    let took = started.elapsed();
    let batches = load.events.div_ceil(load.batch.max(1));
    if latencies.len() as u64 != batches {
        let acked = latencies.len();
        return Err(Failure::work(format!("only {acked} of {batches} batches were acked")));
    }
    latencies.sort_unstable();
    Ok(Published { started_us, took, cpu: usage::since(cpu_before), latencies })
}

/// Sends all batches; a stream that ends early shows in what is received.
async fn send(
    load: &Load,
    mut event: impl FnMut(u64) -> Bytes,
    requests: mpsc::Sender<PublishStreamRequest>,
    window: Arc<Semaphore>,
    sent: mpsc::Sender<Instant>,
) {
    let open = OpenStream {
        stream: load.stream.into(),
        producer_id: format!("bench:{}", uuid::Uuid::new_v4().simple()),
        producer_epoch: 0,
        want_positions: false,
    };
    let request = |message| PublishStreamRequest { message: Some(message) };
    requests.send(request(In::Open(open))).await.ok();
    let batch = load.batch.max(1);
    let started = tokio::time::Instant::now();
    let mut sequence = 0;
    let mut first = 0;
    while first < load.events {
        let after = (first + batch).min(load.events);
        let records = (first..after).map(&mut event).collect();
        let records = Some(RecordBatch { records, ..RecordBatch::default() });
        if let Some(rate) = load.rate {
            tokio::time::sleep_until(started + due(after, rate)).await;
        }
        let Ok(permit) = window.acquire().await else { return };
        permit.forget();
        // One place for each batch under way, so there is room.
        sent.try_send(Instant::now()).ok();
        let message = request(In::Batch(Batch { sequence, records }));
        if requests.send(message).await.is_err() {
            return;
        }
        sequence += 1;
        first = after;
    }
    requests.send(request(In::Close(CloseStream {}))).await.ok();
}

/// When there are `number` events at `rate` events per second.
#[allow(clippy::cast_precision_loss)]
fn due(number: u64, rate: f64) -> Duration {
    Duration::try_from_secs_f64(number as f64 / rate).unwrap_or_default()
}

async fn receive(
    mut responses: Streaming<PublishStreamResponse>,
    window: Arc<Semaphore>,
    mut sent_at: mpsc::Receiver<Instant>,
) -> Result<Vec<Duration>, tonic::Status> {
    let mut latencies: Vec<Duration> = Vec::new();
    let ended = loop {
        let message = match responses.message().await {
            Ok(Some(message)) => message.message,
            Ok(None) => break Ok(()),
            Err(status) => break Err(status),
        };
        match message {
            Some(Out::Ack(ack)) => {
                while i64::try_from(latencies.len()).is_ok_and(|next| next <= ack.acked_through)
                    && let Ok(at) = sent_at.try_recv()
                {
                    latencies.push(at.elapsed());
                    window.add_permits(1);
                }
            }
            // Told only of batches that were not simply accepted whole.
            Some(Out::Result(result)) => {
                let first = result.errors.first().map_or("", |error| error.message.as_str());
                let message = format!("batch {}: {} {first}", result.sequence, result.message);
                break Err(tonic::Status::failed_precondition(message));
            }
            _ => {}
        }
    };
    // Wakes the sender, which would wait for acks that do not come.
    window.close();
    ended.map(|()| latencies)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_spreads_the_events_evenly() {
        assert_eq!(due(0, 1_000.0), Duration::ZERO);
        assert_eq!(due(2_500, 1_000.0), Duration::from_millis(2_500));
    }
}
