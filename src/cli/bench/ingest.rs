//! `sluice bench ingest`: acked events per second through one stream, server and client in this
//! process, over a real connection.
#![allow(clippy::print_stdout)]

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use super::usage;
use crate::{
    cli::{Failure, chain},
    domain::Durability,
    domain::contract::{Contract, EventId, Field, FieldType, OnError, Validation},
    ingest::{
        self, Contracts, Service, Settings,
        proto::{
            Batch, CloseStream, OpenStream, PublishStreamRequest, PublishStreamResponse,
            RecordBatch, ingest_service_client::IngestServiceClient,
            publish_stream_request::Message as In, publish_stream_response::Message as Out,
        },
    },
    log::{
        Log, StreamSpec,
        embedded::{self, EmbeddedLog},
    },
};

const STREAM: &str = "bench";

#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Events to send
    #[arg(long, default_value_t = 1_000_000)]
    pub events: u64,
    /// Events per batch
    #[arg(long, default_value_t = 500)]
    pub batch: u64,
    /// Bytes per event
    #[arg(long, default_value_t = 256)]
    pub size: usize,
    /// Batches under way at once
    #[arg(long, default_value_t = 64)]
    pub in_flight: usize,
    /// Partitions of the stream
    #[arg(long, default_value_t = 4)]
    pub partitions: u32,
    /// Do not sync before the ack: what the disk costs is the difference
    #[arg(long)]
    pub no_fsync: bool,
    /// Folder of the log; default: a temporary one
    #[arg(long)]
    pub data_dir: Option<PathBuf>,
}

/// What a run took.
#[derive(Debug)]
struct Measured {
    events: u64,
    took: Duration,
    cpu: Option<Duration>,
    /// From the send of a batch to its ack, sorted.
    latencies: Vec<Duration>,
}

/// Runs the benchmark and prints what it found.
pub async fn run(args: Args) -> Result<(), Failure> {
    println!(
        "bench ingest: {} events of {} bytes, batches of {}, {} under way, {} partitions, {}",
        args.events,
        args.size,
        args.batch,
        args.in_flight,
        args.partitions,
        if args.no_fsync { "no fsync" } else { "fsync before the ack" },
    );
    let measured = measure(&args).await?;
    let per_second = rate(measured.events as f64, measured.took);
    println!("events/s         {per_second:.0}");
    if let Some(cpu) = measured.cpu {
        let per_event = cpu.as_secs_f64() * 1e6 / (measured.events.max(1) as f64);
        println!("cpu per event    {per_event:.2} µs (client and server)");
    }
    for percent in [50, 99] {
        let latency = usage::percentile(&measured.latencies, percent).as_secs_f64() * 1e3;
        println!("ack p{percent}          {latency:.1} ms");
    }
    if let Some(peak) = usage::peak_mib() {
        println!("peak memory      {peak} MiB");
    }
    Ok(())
}

#[allow(clippy::cast_precision_loss)]
fn rate(events: f64, took: Duration) -> f64 {
    events / took.as_secs_f64().max(1e-9)
}

async fn measure(args: &Args) -> Result<Measured, Failure> {
    let temporary = tempfile::tempdir().map_err(|e| Failure::unavailable(e.to_string()))?;
    let folder = args.data_dir.clone().unwrap_or_else(|| temporary.path().join("log"));
    let durability = if args.no_fsync { Durability::Os } else { Durability::Fsync };
    let log_settings = embedded::Settings { durability, ..embedded::Settings::default() };
    let log = EmbeddedLog::open(&folder, log_settings, crate::ops::Clock::system())
        .map_err(|e| Failure::new(e.kind(), chain(&e)))?;
    let spec = StreamSpec { name: STREAM.into(), partitions: args.partitions };
    log.ensure(&[spec]).await.map_err(|e| Failure::new(e.kind(), chain(&e)))?;
    let contracts = Contracts::from([(STREAM.to_owned(), Arc::new(contract(args.partitions)))]);
    let log: Arc<dyn Log> = log;
    let service = Service::new(Settings::default(), Arc::clone(&log), Arc::new(contracts));
    let unavailable = |error: &dyn std::error::Error| Failure::unavailable(chain(error));
    let listener =
        tokio::net::TcpListener::bind("127.0.0.1:0").await.map_err(|e| unavailable(&e))?;
    let url = format!("http://{}", listener.local_addr().map_err(|e| unavailable(&e))?);
    let stop = CancellationToken::new();
    let mut server = tokio::task::JoinSet::new();
    server.spawn(ingest::run(service, listener, stop.clone()));

    let measured = publish(args, url).await?;
    stop.cancel();
    while let Some(ended) = server.join_next().await {
        if let Ok(Err(error)) = ended {
            return Err(Failure::new(error.kind(), chain(&error)));
        }
    }
    log.close().await;
    Ok(measured)
}

fn contract(partitions: u32) -> Contract {
    let field = |name: &str, data_type, required| Field {
        name: name.into(),
        data_type,
        required,
        accepted_values: Vec::new(),
        range: None,
        description: String::new(),
    };
    Contract {
        name: STREAM.into(),
        description: String::new(),
        fields: vec![
            field("user_id", FieldType::Int, true),
            field("at", FieldType::Timestamp, true),
            field("device", FieldType::Text, false),
            field("note", FieldType::Text, false),
        ],
        key: Some("user_id".into()),
        event_id: EventId::Client,
        event_time: None,
        rules: Vec::new(),
        on_error: OnError::Quarantine,
        validation: Validation::Schema,
        partitions,
        version: "bench".into(),
    }
}

fn event(number: u64, size: usize) -> Bytes {
    let (user, second) = (number % 10_007, number % 60);
    let head = format!(
        r#"{{"user_id":{user},"at":"2026-03-02T18:00:{second:02}.456Z","device":"web","note":""#
    );
    let padding = size.saturating_sub(head.len() + 2);
    Bytes::from(format!("{head}{}\"}}", "n".repeat(padding)))
}

async fn publish(args: &Args, url: String) -> Result<Measured, Failure> {
    let failed = |status: tonic::Status| Failure::work(format!("publish: {status}"));
    let mut client = IngestServiceClient::connect(url)
        .await
        .map_err(|error| Failure::unavailable(chain(&error)))?;
    let (requests, receiver) = mpsc::channel(args.in_flight.max(1));
    let call = client.publish_stream(ReceiverStream::new(receiver)).await.map_err(failed)?;
    let cpu_before = usage::cpu();
    let started = Instant::now();
    let window = Arc::new(Semaphore::new(args.in_flight.max(1)));
    let (sent, sent_at) = mpsc::unbounded_channel();
    let sending = send(args, requests, Arc::clone(&window), sent);
    let acking = receive(call.into_inner(), window, sent_at);
    let ((), acked) = tokio::join!(sending, acking);
    let mut latencies = acked.map_err(failed)?;
    let took = started.elapsed();
    let cpu = usage::cpu().zip(cpu_before).map(|(after, before)| after.saturating_sub(before));
    latencies.sort_unstable();
    Ok(Measured { events: args.events, took, cpu, latencies })
}

/// Sends all batches; a stream that ends early shows in what is received.
async fn send(
    args: &Args,
    requests: mpsc::Sender<PublishStreamRequest>,
    window: Arc<Semaphore>,
    sent: mpsc::UnboundedSender<Instant>,
) {
    let open = OpenStream {
        stream: STREAM.into(),
        producer_id: "bench".into(),
        producer_epoch: 0,
        want_positions: false,
    };
    let request = |message| PublishStreamRequest { message: Some(message) };
    requests.send(request(In::Open(open))).await.ok();
    let batch = args.batch.max(1);
    for (sequence, first) in (0..args.events).step_by(usize_of(batch)).enumerate() {
        let numbers = first..(first + batch).min(args.events);
        let records = numbers.map(|number| event(number, args.size)).collect();
        let records = Some(RecordBatch { records, ..RecordBatch::default() });
        let Ok(permit) = window.acquire().await else { return };
        permit.forget();
        sent.send(Instant::now()).ok();
        let sequence = i64::try_from(sequence).unwrap_or(i64::MAX);
        let message = request(In::Batch(Batch { sequence, records }));
        if requests.send(message).await.is_err() {
            return;
        }
    }
    requests.send(request(In::Close(CloseStream {}))).await.ok();
}

async fn receive(
    mut responses: Streaming<PublishStreamResponse>,
    window: Arc<Semaphore>,
    mut sent_at: mpsc::UnboundedReceiver<Instant>,
) -> Result<Vec<Duration>, tonic::Status> {
    let mut latencies: Vec<Duration> = Vec::new();
    loop {
        let message = match responses.message().await {
            Ok(Some(message)) => message.message,
            Ok(None) => return Ok(latencies),
            Err(status) => {
                window.close();
                return Err(status);
            }
        };
        if let Some(Out::Ack(ack)) = message {
            while i64::try_from(latencies.len()).is_ok_and(|next| next <= ack.acked_through)
                && let Ok(at) = sent_at.try_recv()
            {
                latencies.push(at.elapsed());
                window.add_permits(1);
            }
        }
    }
}

fn usize_of(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn every_batch_is_acked() {
        let args = Args {
            events: 1_050,
            batch: 100,
            size: 256,
            in_flight: 4,
            partitions: 2,
            no_fsync: true,
            data_dir: None,
        };
        let measured = measure(&args).await.expect("run");
        assert_eq!((measured.events, measured.latencies.len()), (1_050, 11));
        assert!(measured.latencies.is_sorted());
        assert_eq!(event(7, 256).len(), 256);
        run(args).await.expect("run");
    }
}
