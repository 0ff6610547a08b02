//! `sluice bench end-to-end`: events in over gRPC, out of Silver and Gold over Flight SQL, through
//! a whole Sluice in this process, over real connections.
//!
//! First a load as fast as it is acked (or at a rate), until all of it can be queried in Silver;
//! then single events, each asked for until it shows.
#![allow(clippy::print_stdout)]

mod client;
mod visible;

use std::{path::PathBuf, time::Duration};

use tokio_util::sync::CancellationToken;

use self::visible::Samples;
use super::{
    probe,
    process::Sent,
    project::{self, STREAM, Upto},
    server::{self, Server},
    usage::{self, Figures},
};
use crate::{
    cli::{Failure, push, query::Client},
    domain::TableName,
    lake::{LakeView, Overlay},
    ops::Clock,
};

/// How long the load may take to become visible once it is acked.
const PATIENCE: Duration = Duration::from_secs(600);
/// The mark: CPU of the server per event from ingest to Silver.
const MARK_MICROS: f64 = 10.0;
const PARTITIONS: u32 = 4;

#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Events of the load
    #[arg(long, default_value_t = 300_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub events: u64,
    /// Events per batch
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..))]
    pub batch: u64,
    /// Bytes per event
    #[arg(long, default_value_t = 256)]
    pub size: usize,
    /// Batches under way at once
    #[arg(long, default_value_t = 64)]
    pub in_flight: usize,
    /// Events per second [default: as fast as possible]
    #[arg(long, value_name = "N", value_parser = push::positive)]
    pub rate: Option<f64>,
    /// Single events whose way from the ack to a query is timed
    #[arg(long, default_value_t = 50)]
    pub samples: u64,
    /// Send the load from a process of its own, so that the server's CPU can be told apart
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    pub client_process: bool,
    /// Folder of project, log and lake; default: a temporary one
    #[arg(long)]
    pub data_dir: Option<PathBuf>,
    /// Only send the load, to the server at this address
    #[arg(long, hide = true, value_name = "URL")]
    pub client_of: Option<String>,
}

/// What a run found.
#[derive(Debug)]
struct Measured {
    sent: Sent,
    /// From the first batch until all of the load was visible in Silver.
    silver: Duration,
    /// Of the server meanwhile; of the client too where it is in the same process.
    cpu: Option<Duration>,
    /// The same until Silver was committed too, which goes on behind what is visible.
    cpu_committed: Option<Duration>,
    samples: Samples,
    /// Rows of Silver at the end, and events that the aggregate counts.
    rows_at_end: u64,
    aggregated: u64,
}

/// Runs the benchmark and prints what it found.
pub(super) async fn run(args: Args, stop: &CancellationToken) -> Result<(), Failure> {
    if let Some(url) = &args.client_of {
        return client::run(url, &args).await;
    }
    println!(
        "bench end-to-end: {} events of {} bytes, batches of {}, {} under way, {}, {} samples, \
         client in {}, {}",
        args.events,
        args.size,
        args.batch,
        args.in_flight,
        args.rate.map_or_else(|| "no rate".to_owned(), |rate| format!("{rate} events/s")),
        args.samples,
        if args.client_process { "a process of its own" } else { "the server's process" },
        usage::build(),
    );
    let measured = measure(&args, stop).await?;
    println!("{}", figures(&args, &measured));
    Ok(())
}

fn figures(args: &Args, measured: &Measured) -> Figures {
    let Measured { sent, silver, cpu, cpu_committed, samples, .. } = measured;
    let mut figures = Figures::default();
    figures.rate("events/s acked", sent.events, sent.took);
    figures.rate("events/s visible in Silver", sent.events, *silver);
    figures.percentiles("ack of a batch", sent.ack_p50, sent.ack_p99);
    let events = sent.events;
    if args.client_process {
        figures.cpu_per_event("cpu per event, server, to visible", events, *cpu);
        figures.cpu_per_event("cpu per event, server, to committed", events, *cpu_committed);
        figures.cpu_per_event("cpu per event, client", events, sent.cpu);
        if let Some(server) = cpu_committed {
            figures.line("mark", mark(events, *server));
        }
    } else {
        figures.cpu_per_event("cpu per event, to visible, with client", events, *cpu);
        figures.cpu_per_event("cpu per event, to committed, with client", events, *cpu_committed);
    }
    for (name, values) in [
        ("ack of one event", &samples.ack),
        ("ack → visible in Silver", &samples.silver),
        ("ack → visible in Gold", &samples.gold),
    ] {
        let percentile = |percent| usage::percentile(values, percent);
        figures.percentiles(name, percentile(50), percentile(99));
    }
    let counts = format!("{}, {}", measured.rows_at_end, measured.aggregated);
    figures.line("rows in Silver, in the aggregate", counts);
    figures.peak("peak memory, server", usage::peak_mib());
    if args.client_process {
        figures.peak("peak memory, client", sent.peak_mib);
    }
    figures
}

#[allow(clippy::cast_precision_loss)] // shown rounded
fn mark(events: u64, server: Duration) -> String {
    let micros = server.as_secs_f64() * 1e6 / events.max(1) as f64;
    let outcome = usage::outcome(micros <= MARK_MICROS);
    format!("{MARK_MICROS} µs of CPU per event to Silver: {outcome}")
}

async fn measure(args: &Args, stop: &CancellationToken) -> Result<Measured, Failure> {
    let temporary = tempfile::tempdir().map_err(|e| Failure::unavailable(e.to_string()))?;
    let folder = args.data_dir.clone().unwrap_or_else(|| temporary.path().to_owned());
    let project = folder.join("project");
    project::unpack(&project, Upto::Gold, PARTITIONS, None)?;
    let config = server::config(folder, None)?;
    let phases = |server| async move { phases(args, server).await };
    Box::pin(server::during(&config, &project, None, stop, phases)).await
}

async fn phases(args: &Args, server: Server) -> Result<Measured, Failure> {
    let Server { lake, ingest, flight } = &server;
    let before = silver_rows(&lake.load());
    let cpu_before = usage::cpu();
    let sent = if args.client_process {
        client::spawn(ingest, args).await?
    } else {
        client::send(ingest, args).await?
    };
    let wanted = before + sent.events;
    let all = lake.wait_until(|view| silver_rows(view) >= wanted);
    if tokio::time::timeout(PATIENCE, all).await.is_err() {
        let found = silver_rows(&lake.load()) - before;
        let message = format!("only {found} of {} events came into Silver", sent.events);
        return Err(Failure::work(message));
    }
    let silver_us = Clock::system().now_us() - sent.started_us;
    let silver = Duration::from_micros(u64::try_from(silver_us).unwrap_or_default());
    let cpu = usage::since(cpu_before);
    // Bronze is always committed before what is made of it.
    let committed = lake.wait_until(|view| committed_silver(view) >= wanted);
    if tokio::time::timeout(PATIENCE, committed).await.is_err() {
        return Err(Failure::work("the load is visible but was never committed"));
    }
    let cpu_committed = usage::since(cpu_before);
    let mut client = Client::connect(flight, PATIENCE).await?;
    let rows = probe::number(&mut client, COUNT_SILVER).await?;
    let samples = visible::measure(ingest, flight, args.samples, args.size).await?;
    client.after("all")?;
    let rows_at_end = probe::number(&mut client, COUNT_SILVER).await?;
    let aggregated = probe::number(&mut client, SUM_GOLD).await?;
    if rows != wanted || rows_at_end != wanted + args.samples || aggregated != rows_at_end {
        return Err(Failure::work(format!(
            "Silver has {rows} rows after the load and {rows_at_end} at the end, Gold counts \
             {aggregated}: {wanted} events and {} samples were acked",
            args.samples
        )));
    }
    Ok(Measured { sent, silver, cpu, cpu_committed, samples, rows_at_end, aggregated })
}

const COUNT_SILVER: &str = "SELECT count(*) AS n FROM silver.events";
const SUM_GOLD: &str =
    "SELECT CAST(coalesce(sum(events), 0) AS BIGINT) AS n FROM gold.amount_by_kind";

/// The rows of Silver that are in a Delta commit.
fn committed_silver(view: &LakeView) -> u64 {
    super::committed(view, "silver", STREAM)
}

/// The rows of Silver that a query would see.
fn silver_rows(view: &LakeView) -> u64 {
    let Some(table) = view.tables.get(&TableName::new("silver", STREAM)) else { return 0 };
    let committed = committed_silver(view);
    let rows = |batches: &[arrow::array::RecordBatch]| {
        batches.iter().map(|batch| batch.num_rows() as u64).sum::<u64>()
    };
    match &table.overlay {
        Overlay::None => committed,
        Overlay::Append(batches) => committed + rows(batches),
        Overlay::Replace(batches) => rows(batches),
        // Silver is row-wise.
        Overlay::Patches(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::{What, read};

    pub(super) fn args(words: &[&str]) -> Args {
        let words = ["bench", "end-to-end"].iter().chain(words).map(|word| (*word).to_owned());
        match read(words.collect()) {
            What::EndToEnd(args) => args,
            _ => panic!("not end-to-end"),
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_small_run_counts_exactly_and_twice_in_the_same_folder() {
        let dir = tempfile::tempdir().expect("dir");
        let folder = dir.path().to_str().expect("text");
        let words = ["--events", "1000", "--batch", "100", "--samples", "3", "--data-dir", folder];
        let mut args = args(&words);
        args.client_process = false;
        for round in 1..=2 {
            let measured = measure(&args, &CancellationToken::new()).await.expect("a run");
            assert_eq!(measured.sent.events, 1_000);
            assert_eq!((measured.rows_at_end, measured.aggregated), (round * 1_003, round * 1_003));
            let samples = &measured.samples;
            assert_eq!((samples.ack.len(), samples.silver.len(), samples.gold.len()), (3, 3, 3));
            assert!(measured.silver >= measured.sent.took, "{measured:?}");
            assert!(measured.sent.ack_p50 <= measured.sent.ack_p99);
            let text = figures(&args, &measured).to_string();
            assert!(text.contains("ack → visible in Gold p99"), "{text}");
            assert!(!text.contains("mark"), "the server's CPU is not known alone: {text}");
        }
    }

    #[test]
    fn the_mark_is_judged_by_the_servers_cpu() {
        assert!(mark(1_000, Duration::from_millis(10)).ends_with("met"));
        assert!(mark(1_000, Duration::from_millis(11)).ends_with("missed"));
    }
}
