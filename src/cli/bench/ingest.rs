//! `sluice bench ingest`: acked events per second through one stream, server and client in this
//! process, over a real connection; then the same amount into the bare store, in groups of the same
//! size with the same fsync, as the baseline.
#![allow(clippy::print_stdout)]

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::{
    bare::{self, Shape},
    kafka,
    process::Sent,
    publisher::{self, Load, Published},
    usage::{self, Figures},
};
use crate::{
    cli::{Failure, chain},
    config::LogKind,
    domain::{
        Durability, ErrorKind, Positions,
        contract::{Contract, EventId, Field, FieldType, OnError, Topic, Validation},
    },
    ingest::{self, Contracts, Service, Settings},
    log::{
        Log, StreamSpec,
        embedded::{self, EmbeddedLog},
    },
};

pub(super) const STREAM: &str = "bench";
/// Read at once when the groups are counted.
const READ_BYTES: usize = 8 << 20;

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
    /// The log: embedded, or kafka://HOST:PORT[,HOST:PORT] of a cluster where topics may be made
    #[arg(long, default_value = "embedded")]
    pub log: String,
    /// Folder of Kafka's jars (~/.cache/sluice/kafka-VERSION/libs), whose ProducerPerformance is the baseline with --log kafka://
    #[arg(long, value_name = "DIR")]
    pub kafka_libs: Option<PathBuf>,
    /// Compression of the topic, with --log kafka://
    #[arg(long, default_value = "lz4")]
    pub compression: String,
    /// Only send, to the server at this URL
    #[arg(long, hide = true, value_name = "URL")]
    pub client_of: Option<String>,
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
    published: Published,
    /// Groups that the log wrote and synced at once.
    groups: u64,
    /// The same groups written to the bare store, one value per event and one per block.
    bare: [Duration; 2],
}

/// Runs the benchmark and prints what it found.
pub(super) async fn run(args: Args) -> Result<(), Failure> {
    if let Some(url) = &args.client_of {
        let published = publish(url.clone(), &args).await?;
        println!("{}", serde_json::json!(Sent::of(args.events, &published)));
        return Ok(());
    }
    let log = LogKind::try_from(args.log.clone());
    if let LogKind::Kafka(brokers) =
        log.map_err(|hint| Failure::invalid(format!("--log: {hint}")))?
    {
        return kafka::run(&brokers, &args).await;
    }
    println!(
        "bench ingest: {} events of {} bytes, batches of {}, {} under way, {} partitions, {}, {}",
        args.events,
        args.size,
        args.batch,
        args.in_flight,
        args.partitions,
        if args.no_fsync { "no fsync" } else { "fsync before the ack" },
        usage::build(),
    );
    let measured = measure(&args).await?;
    println!("{}", figures(&args, &measured));
    Ok(())
}

fn figures(args: &Args, measured: &Measured) -> Figures {
    let published = &measured.published;
    let mut figures = Figures::default();
    figures.rate("events/s acked", args.events, published.took);
    figures.cpu_per_event("cpu per event, client included", args.events, published.cpu);
    let percentile = |percent| usage::percentile(&published.latencies, percent);
    figures.percentiles("ack", percentile(50), percentile(99));
    figures.line("events per group commit", args.events / measured.groups.max(1));
    for (name, took) in ["value per event", "value per block"].iter().zip(measured.bare) {
        figures.rate(&format!("bare fjall events/s, {name}"), args.events, took);
        let share = took.as_secs_f64() / published.took.as_secs_f64().max(1e-9);
        figures.line("  ratio, acked to bare", format_args!("{share:.2}"));
    }
    figures.peak("peak memory, client included", usage::peak_mib());
    figures
}

async fn measure(args: &Args) -> Result<Measured, Failure> {
    let temporary = tempfile::tempdir().map_err(|e| Failure::unavailable(e.to_string()))?;
    let folder = args.data_dir.clone().unwrap_or_else(|| temporary.path().join("log"));
    let durability = if args.no_fsync { Durability::Os } else { Durability::Fsync };
    let log_settings = embedded::Settings { durability, ..embedded::Settings::default() };
    let log = EmbeddedLog::open(&folder, log_settings, crate::ops::Clock::system())
        .map_err(|e| Failure::new(e.kind(), chain(&e)))?;
    let spec = StreamSpec::new(STREAM, args.partitions);
    let unread = |e: crate::log::Error| Failure::new(e.kind(), chain(&e));
    log.ensure(&[spec]).await.map_err(unread)?;
    let contracts = Contracts::from([(STREAM.to_owned(), Arc::new(contract(args.partitions)))]);
    let log: Arc<dyn Log> = log;
    let before = ends(&log).await.map_err(unread)?;
    let service = Service::new(Settings::default(), Arc::clone(&log), Arc::new(contracts));
    let unavailable = |error: &dyn std::error::Error| Failure::unavailable(chain(error));
    let listener =
        tokio::net::TcpListener::bind("127.0.0.1:0").await.map_err(|e| unavailable(&e))?;
    let url = format!("http://{}", listener.local_addr().map_err(|e| unavailable(&e))?);
    let stop = CancellationToken::new();
    let mut server = tokio::task::JoinSet::new();
    server.spawn(ingest::run(service, listener, stop.clone()));

    let published = publish(url, args).await?;
    stop.cancel();
    while let Some(ended) = server.join_next().await {
        if let Ok(Err(error)) = ended {
            return Err(Failure::new(error.kind(), chain(&error)));
        }
    }
    let groups = groups(&log, &before).await.map_err(unread)?;
    log.close().await;
    let bare = baselines(args, groups).await?;
    Ok(Measured { published, groups, bare })
}

/// Sends the load from this process.
async fn publish(url: String, args: &Args) -> Result<Published, Failure> {
    let load = Load {
        url,
        stream: STREAM,
        events: args.events,
        batch: args.batch,
        in_flight: args.in_flight,
        rate: None,
    };
    publisher::publish(&load, |number| event(number, args.size)).await
}

pub(super) fn contract(partitions: u32) -> Contract {
    let field = |name: &str, data_type, required| Field {
        name: name.into(),
        data_type,
        required,
        source: None,
        format: None,
        rule: None,
        accepted_values: Vec::new(),
        accepted_rule: None,
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
        key: vec!["user_id".into()],
        event_id: EventId::Client,
        deletes: None,
        takes_arrays: false,
        event_time: None,
        rules: Vec::new(),
        on_error: OnError::Quarantine,
        validation: Validation::Schema,
        partitions,
        topic: Topic::default(),
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

/// How many groups the log wrote beyond `before`: the records of a group carry one time.
async fn groups(log: &Arc<dyn Log>, before: &Positions) -> Result<u64, crate::log::Error> {
    let mut reader = Arc::clone(log).reader(&[STREAM.into()], before).await?;
    let mut times = HashSet::new();
    loop {
        let chunks = reader.poll(READ_BYTES, Duration::ZERO).await?;
        if chunks.is_empty() {
            return Ok(times.len() as u64);
        }
        let records = chunks.iter().flat_map(|chunk| &chunk.records);
        times.extend(records.map(|record| record.timestamp_us));
    }
}

async fn ends(log: &Arc<dyn Log>) -> Result<Positions, crate::log::Error> {
    let mut ends = Positions::default();
    for (partition, extent) in (0..).zip(log.extents(STREAM).await?) {
        if extent.end > 0 {
            ends.advance(STREAM, partition, extent.end - 1);
        }
    }
    Ok(ends)
}

/// Bare appends of the same events in groups of the same size: one value per event, and one per
/// block as the log cuts them (a batch's events of one partition).
async fn baselines(args: &Args, groups: u64) -> Result<[Duration; 2], Failure> {
    let per_block = (args.batch / u64::from(args.partitions.max(1))).max(1);
    let mut took = [Duration::ZERO; 2];
    for (took, per_value) in took.iter_mut().zip([1, per_block]) {
        let shape = Shape {
            events: args.events,
            size: args.size,
            group: args.events.div_ceil(groups.max(1)),
            per_value,
            fsync: !args.no_fsync,
        };
        let beside = args.data_dir.as_deref().and_then(Path::parent);
        let folder = beside.map_or_else(tempfile::tempdir, tempfile::tempdir_in);
        let folder = folder.map_err(|e| Failure::unavailable(e.to_string()))?;
        let work = move || bare::append(&folder.path().join("bare"), shape);
        let appended = tokio::task::spawn_blocking(work).await;
        *took = appended.map_err(|e| Failure::new(ErrorKind::Internal, e.to_string()))??;
    }
    Ok(took)
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
            log: "embedded".into(),
            kafka_libs: None,
            compression: "lz4".into(),
            client_of: None,
            no_fsync: true,
            data_dir: None,
        };
        let measured = measure(&args).await.expect("run");
        assert_eq!(measured.published.latencies.len(), 11);
        assert!(measured.published.latencies.is_sorted());
        assert!((1..=11).contains(&measured.groups), "{}", measured.groups);
        assert_eq!(event(7, 256).len(), 256);
        let text = figures(&args, &measured).to_string();
        for name in ["events/s acked", "ack p99", "bare fjall events/s, value per block"] {
            assert!(text.contains(name), "{text}");
        }
    }
}
