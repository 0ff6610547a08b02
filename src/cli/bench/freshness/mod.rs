//! `sluice bench freshness`: how long after its ack an event can be queried, while clicks come in
//! at a steady rate into the whole example dvd-clicks.
//!
//! Another process sends the clicks and, among them, probes. A probe is asked for in Silver and in
//! an aggregate with the positions of its ack; the times are those of that client. Probes are sent
//! by the clock, whether or not earlier ones were answered.
#![allow(clippy::print_stdout)]

mod client;
mod histogram;
mod stages;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use metrics_exporter_prometheus::PrometheusHandle;
use tokio_util::sync::CancellationToken;

use self::{client::Answered, stages::Stage};
use super::{
    clicks, probe,
    server::{self, Server},
    usage::{self, Figures},
};
use crate::{
    cli::{Failure, check, push, query::Client},
    config::LogKind,
    log::StreamSpec,
    ops::telemetry,
};

/// How long the tables may take to take in everything, once the load is acked.
const PATIENCE: Duration = Duration::from_secs(600);
/// The marks of ack → visible, p50 and p99.
const MARKS: [(usize, Duration); 2] =
    [(50, Duration::from_millis(100)), (99, Duration::from_millis(500))];

#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Clicks per second
    #[arg(long, default_value_t = 10_000.0, value_name = "N", value_parser = push::positive)]
    pub rate: f64,
    /// How long
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub seconds: u64,
    /// Probes per second
    #[arg(long, default_value_t = 10.0, value_name = "N", value_parser = push::positive)]
    pub probes: f64,
    /// Users who click: the fewer, the more rows a model by key has to look at
    #[arg(long, default_value_t = 10_000, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..))]
    pub users: u32,
    /// The log: embedded, or kafka://HOST:PORT[,HOST:PORT] of a cluster where topics may be made
    #[arg(long, default_value = "embedded")]
    pub log: String,
    /// Send clicks and probes from a process of its own, so that the server's CPU can be told apart
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    pub client_process: bool,
    /// Folder of project, log and lake; default: a temporary one
    #[arg(long)]
    pub data_dir: Option<PathBuf>,
    /// Only send clicks and probes, to the server at this address
    #[arg(long, hide = true, value_name = "URL", requires = "flight_of")]
    pub client_of: Option<String>,
    /// Where that server answers
    #[arg(long, hide = true, value_name = "URL")]
    pub flight_of: Option<String>,
}

/// What a run found.
#[derive(Debug)]
struct Measured {
    answered: Answered,
    /// Of the server while the load came in; of the client too where it is in the same process.
    cpu: Option<Duration>,
    /// From the last ack until every table had everything.
    settled: Duration,
    stages: Vec<Stage>,
    /// Rows of Silver at the end.
    rows_at_end: u64,
}

/// Runs the benchmark and prints what it found.
pub(super) async fn run(args: Args, stop: &CancellationToken) -> Result<(), Failure> {
    if let (Some(ingest), Some(flight)) = (&args.client_of, &args.flight_of) {
        let answered = client::send(ingest, flight, &args).await?;
        println!("{}", serde_json::json!(answered));
        return Ok(());
    }
    println!(
        "bench freshness: dvd-clicks, {} clicks/s of {} users for {} s, {} probes/s, client in {}, \
         log {}, {}",
        args.rate,
        args.users,
        args.seconds,
        args.probes,
        if args.client_process { "a process of its own" } else { "the server's process" },
        args.log,
        usage::build(),
    );
    // A process has one recorder; without it there are no times of the stages.
    let measured = measure(&args, telemetry::init_metrics().ok(), stop).await?;
    println!("{}", figures(&args, &measured));
    for (name, values) in visible(&measured.answered) {
        println!("\n{name}, {} probes\n{}", values.len(), histogram::text(values));
    }
    println!("\n{}", stages::text(&measured.stages));
    Ok(())
}

fn visible(answered: &Answered) -> [(&'static str, &[Duration]); 2] {
    [
        ("ack → visible in silver.clicks", &answered.silver),
        ("ack → visible in gold.clicks_per_minute", &answered.gold),
    ]
}

fn figures(args: &Args, measured: &Measured) -> Figures {
    let Measured { answered, cpu, settled, rows_at_end, .. } = measured;
    let sent = &answered.sent;
    let mut figures = Figures::default();
    figures.rate("clicks/s acked", sent.events, sent.took);
    figures.percentiles("ack of a batch", sent.ack_p50, sent.ack_p99);
    figures.spread("ack of a probe", &answered.ack);
    for (name, values) in visible(answered) {
        figures.spread(name, values);
        let met = MARKS.iter().all(|(percent, most)| usage::percentile(values, *percent) < *most);
        let [p50, p99] = MARKS.map(|(_, most)| most.as_millis());
        let outcome = usage::outcome(met);
        figures.line("  mark", format_args!("p50 under {p50} ms, p99 under {p99} ms: {outcome}"));
    }
    figures.spread("the same query of gold again", &answered.again);
    let cores = cpu.map(|cpu| cpu.as_secs_f64() / sent.took.as_secs_f64().max(1e-9));
    if let Some(cores) = cores {
        let whose = if args.client_process { "server" } else { "server and client" };
        figures.line(&format!("cores busy, {whose}"), format_args!("{cores:.2}"));
    }
    figures.line("last ack → all tables have all", format_args!("{:.1} s", settled.as_secs_f64()));
    figures.line("rows in Silver", rows_at_end);
    figures.peak("peak memory, server", usage::peak_mib());
    figures
}

async fn measure(
    args: &Args,
    metrics: Option<PrometheusHandle>,
    stop: &CancellationToken,
) -> Result<Measured, Failure> {
    let temporary = tempfile::tempdir().map_err(|e| Failure::unavailable(e.to_string()))?;
    let folder = args.data_dir.clone().unwrap_or_else(|| temporary.path().to_owned());
    let project = folder.join("project");
    let config = server::config(folder, Some(&args.log))?;
    let is_kafka = matches!(config.server.log, LogKind::Kafka(_));
    let topics = is_kafka.then(server::new_topic);
    clicks::unpack(&project, topics.as_deref(), |name| !name.starts_with("data/"))?;
    let planned = check::load(&project)?;
    let streams: Vec<StreamSpec> = planned.project.streams.iter().map(StreamSpec::from).collect();
    let phases = async |server| phases(args, server, metrics.clone()).await;
    let measured = Box::pin(server::during(&config, &project, metrics.clone(), stop, phases));
    server::with_topics(&config, &streams, measured).await
}

async fn phases(
    args: &Args,
    server: Server,
    metrics: Option<PrometheusHandle>,
) -> Result<Measured, Failure> {
    let Server { ingest, flight, .. } = &server;
    let mut client = Client::connect(flight, PATIENCE).await?;
    let before = probe::number(&mut client, COUNTS[0]).await?;
    let cpu_before = usage::cpu();
    let answered = match args.client_process {
        true => client::spawn(ingest, flight, args).await?,
        false => client::send(ingest, flight, args).await?,
    };
    let cpu = usage::since(cpu_before);
    let stages = metrics.map_or_else(Vec::new, |metrics| stages::read(&metrics.render()));
    let acked = Instant::now();
    client.after("all")?;
    let wanted = before + answered.sent.events + answered.ack.len() as u64;
    let mut settled = None;
    for sql in COUNTS {
        let found = probe::number(&mut client, sql).await?;
        settled = settled.or_else(|| Some(acked.elapsed()));
        if found != wanted {
            let message = format!("{sql}: {found}, where {wanted} clicks and probes were acked");
            return Err(Failure::work(message));
        }
    }
    let settled = settled.unwrap_or_default();
    Ok(Measured { answered, cpu, settled, stages, rows_at_end: wanted })
}

/// Each has to give the number of clicks: a growing table, a lookup, aggregates, models by key.
const COUNTS: [&str; 7] = [
    "SELECT count(*) AS n FROM silver.clicks",
    "SELECT count(*) AS n FROM gold.fact_click",
    "SELECT CAST(coalesce(sum(click_count), 0) AS BIGINT) AS n FROM gold.clicks_per_minute",
    "SELECT CAST(coalesce(sum(clicks), 0) AS BIGINT) AS n FROM gold.device_activity",
    "SELECT CAST(coalesce(sum(clicks), 0) AS BIGINT) AS n FROM gold.active_users_per_minute",
    "SELECT CAST(coalesce(sum(clicks), 0) AS BIGINT) AS n FROM gold.event_funnel",
    "SELECT CAST(coalesce(sum(events), 0) AS BIGINT) AS n FROM gold.click_sessions",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::{What, read};

    pub(super) fn args(words: &[&str]) -> Args {
        let words = ["bench", "freshness"].iter().chain(words).map(|word| (*word).to_owned());
        match read(words.collect()) {
            What::Freshness(args) => args,
            _ => panic!("not freshness"),
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_small_run_counts_exactly() {
        let dir = tempfile::tempdir().expect("dir");
        let folder = dir.path().to_str().expect("text");
        let words = ["--rate", "500", "--seconds", "2", "--probes", "3", "--users", "20"];
        let mut args = args(&[&words[..], &["--data-dir", folder]].concat());
        args.client_process = false;
        let metrics = telemetry::init_metrics().ok();
        let measured = measure(&args, metrics, &CancellationToken::new()).await.expect("a run");
        let answered = &measured.answered;
        assert_eq!(answered.sent.events, 1_000);
        let probes = answered.ack.len();
        assert!((3..=8).contains(&probes), "{probes} probes");
        for values in [&answered.silver, &answered.gold, &answered.again] {
            assert_eq!(values.len(), probes);
            assert!(values.is_sorted());
        }
        assert_eq!(measured.rows_at_end, 1_000 + probes as u64);
        let text = figures(&args, &measured).to_string();
        assert!(text.contains("ack → visible in gold.clicks_per_minute"), "{text}");
        assert_eq!(text.matches("mark").count(), 2, "{text}");
        assert!(text.contains("cores busy, server and client"), "{text}");
    }
}
