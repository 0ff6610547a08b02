//! `sluice bench ingest --log kafka://…`: the gateway in this process, the client in another, then
//! the same records with the same guarantees through Kafka's own `ProducerPerformance`.
#![allow(clippy::print_stdout)]

use std::{path::Path, process::Stdio, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{
    ingest::{self as load, Args, STREAM},
    process::{self, Sent},
    usage::{self, Figures},
};
use crate::{
    cli::{Failure, chain},
    domain::contract::Topic,
    ingest::{self, Contracts, Service, Settings},
    log::{
        Log, StreamSpec,
        kafka::{self, KafkaLog},
    },
};

/// Records of the run that shows what starting Java costs.
const WARM_UP: u64 = 1;

struct Baseline {
    took: Duration,
    cpu: Option<Duration>,
    /// Of the run that sends next to nothing.
    cpu_of_start: Option<Duration>,
}

pub(super) async fn run(brokers: &str, args: &Args) -> Result<(), Failure> {
    println!(
        "bench ingest: {} events of {} bytes, batches of {}, {} under way, {} partitions, \
         kafka://{brokers}, {}, {}",
        args.events,
        args.size,
        args.batch,
        args.in_flight,
        args.partitions,
        args.compression,
        usage::build(),
    );
    let log = connect(brokers, args).await?;
    let failed = |e: crate::log::Error| Failure::new(e.kind(), chain(&e));
    let own = format!("sluice-bench-{}", uuid::Uuid::new_v4().simple());
    let others = format!("{own}-baseline");
    let spec = |stream: &str, topic: &str| {
        let topic = Topic { name: Some(topic.to_owned()), ..Topic::default() };
        StreamSpec { topic, ..StreamSpec::new(stream, args.partitions) }
    };
    log.ensure(&[spec(STREAM, &own), spec("baseline", &others)]).await.map_err(failed)?;
    let measured = async {
        let (sent, cpu) = gateway(&log, args).await?;
        let baseline = match &args.kafka_libs {
            Some(libs) => Some(baseline(brokers, libs, &others, args).await?),
            None => None,
        };
        Ok((sent, cpu, baseline))
    };
    let measured = measured.await;
    log.delete_topics().await.map_err(failed)?;
    log.close().await;
    let (sent, cpu, baseline) = measured?;
    println!("{}", figures(args, &sent, cpu, baseline.as_ref()));
    Ok(())
}

async fn connect(brokers: &str, args: &Args) -> Result<Arc<KafkaLog>, Failure> {
    let compression = args.compression.clone();
    let settings = kafka::Settings { compression, ..kafka::Settings::default() };
    let log = KafkaLog::open(brokers, settings).await;
    log.map_err(|e| Failure::new(e.kind(), chain(&e)))
}

/// What the client tells, and the CPU of this process meanwhile.
async fn gateway(log: &Arc<KafkaLog>, args: &Args) -> Result<(Sent, Option<Duration>), Failure> {
    let contract = Arc::new(load::contract(args.partitions));
    let contracts = Contracts::from([(STREAM.to_owned(), contract)]);
    let log: Arc<dyn Log> = Arc::<KafkaLog>::clone(log);
    let service = Service::new(Settings::default(), Arc::clone(&log), Arc::new(contracts));
    let unavailable = |error: &dyn std::error::Error| Failure::unavailable(chain(error));
    let listener =
        tokio::net::TcpListener::bind("127.0.0.1:0").await.map_err(|e| unavailable(&e))?;
    let url = format!("http://{}", listener.local_addr().map_err(|e| unavailable(&e))?);
    let stop = CancellationToken::new();
    let server = tokio::spawn(ingest::run(service, listener, stop.clone()));
    let before = usage::cpu();
    let sent = process::run(arguments(&url, args)).await;
    let cpu = usage::since(before);
    stop.cancel();
    if let Ok(Err(error)) = server.await {
        return Err(Failure::new(error.kind(), chain(&error)));
    }
    let sent = sent?;
    let extents = log.extents(STREAM).await.map_err(|e| Failure::new(e.kind(), chain(&e)))?;
    let held: i64 = extents.iter().map(|extent| extent.end - extent.start).sum();
    if u64::try_from(held).ok() != Some(args.events) {
        return Err(Failure::work(format!("{} events were acked, {held} are there", args.events)));
    }
    Ok((sent, cpu))
}

fn arguments(url: &str, args: &Args) -> Vec<String> {
    let values = [
        ("--client-of", url.to_owned()),
        ("--events", args.events.to_string()),
        ("--batch", args.batch.to_string()),
        ("--size", args.size.to_string()),
        ("--in-flight", args.in_flight.to_string()),
    ];
    process::words("ingest", values.map(|(name, value)| (name, Some(value))))
}

async fn baseline(
    brokers: &str,
    libs: &Path,
    topic: &str,
    args: &Args,
) -> Result<Baseline, Failure> {
    let (_, cpu_of_start) = producer_performance(brokers, libs, topic, args, WARM_UP).await?;
    let (took, cpu) = producer_performance(brokers, libs, topic, args, args.events).await?;
    Ok(Baseline { took, cpu, cpu_of_start })
}

/// How long Kafka's tool took by its own account, and the CPU of its process.
async fn producer_performance(
    brokers: &str,
    libs: &Path,
    topic: &str,
    args: &Args,
    records: u64,
) -> Result<(Duration, Option<Duration>), Failure> {
    let failed = |what: String| Failure::work(format!("ProducerPerformance: {what}"));
    let before = usage::cpu_of_children();
    let run = tokio::process::Command::new("java")
        .args(["-cp", &format!("{}/*", libs.display())])
        .args(["-Xmx512m", "org.apache.kafka.tools.ProducerPerformance"])
        .args(["--topic", topic, "--throughput", "-1"])
        .args(["--num-records", &records.to_string(), "--record-size", &args.size.to_string()])
        .args(["--producer-props", &format!("bootstrap.servers={brokers}"), "acks=all"])
        .args(["enable.idempotence=true", &format!("compression.type={}", args.compression)])
        .args(["linger.ms=5", "batch.size=1000000"])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = run.await.map_err(|e| failed(format!("java does not start: {e}")))?;
    let cpu = usage::cpu_of_children().zip(before).map(|(now, then)| now.saturating_sub(then));
    let text = String::from_utf8_lossy(&output.stdout);
    let rate = text.lines().rev().find_map(records_per_second);
    match rate.filter(|_| output.status.success()) {
        #[allow(clippy::cast_precision_loss)] // shown rounded
        Some(rate) => Ok((Duration::from_secs_f64(records as f64 / rate.max(1e-9)), cpu)),
        None => {
            let errors = String::from_utf8_lossy(&output.stderr);
            let last: Vec<&str> = errors.lines().rev().take(3).collect();
            Err(failed(format!("{}: {}", output.status, last.join("; "))))
        }
    }
}

/// The rate in a line such as `1000 records sent, 4016.1 records/sec (0.38 MB/sec), …`.
fn records_per_second(line: &str) -> Option<f64> {
    let (before, _) = line.split_once(" records/sec")?;
    before.rsplit([' ', ',']).next()?.parse().ok()
}

fn figures(
    args: &Args,
    sent: &Sent,
    gateway: Option<Duration>,
    baseline: Option<&Baseline>,
) -> Figures {
    let mut figures = Figures::default();
    figures.rate("events/s acked", args.events, sent.took);
    figures.cpu_per_event("cpu per event, gateway", args.events, gateway);
    figures.cpu_per_event("cpu per event, client", args.events, sent.cpu);
    figures.percentiles("ack", sent.ack_p50, sent.ack_p99);
    figures.peak("peak memory, gateway", usage::peak_mib());
    let Some(baseline) = baseline else {
        figures.line("ProducerPerformance", "not run: --kafka-libs names no folder");
        return figures;
    };
    figures.rate("ProducerPerformance records/s", args.events, baseline.took);
    let steady = baseline.cpu.zip(baseline.cpu_of_start).map(|(all, start)| all - start.min(all));
    figures.cpu_per_event("  cpu per record", args.events, baseline.cpu);
    figures.cpu_per_event("  cpu per record, without java's start", args.events, steady);
    let ours = gateway.zip(sent.cpu).map(|(gateway, client)| gateway + client);
    for (name, theirs) in [
        ("  cpu, gateway and client to all of java", baseline.cpu),
        ("  cpu, gateway and client to java started", steady),
    ] {
        if let Some((ours, theirs)) = ours.zip(theirs) {
            let ratio = ours.as_secs_f64() / theirs.as_secs_f64().max(1e-9);
            figures.line(name, format_args!("{ratio:.2}"));
        }
    }
    let ratio = baseline.took.as_secs_f64() / sent.took.as_secs_f64().max(1e-9);
    figures.line("  rate, acked to ProducerPerformance", format_args!("{ratio:.2}"));
    figures
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_of_the_tool_is_read() {
        let line = "1000000 records sent, 326264.3 records/sec (31.11 MB/sec), 9.02 ms avg latency";
        assert_eq!(records_per_second(line), Some(326_264.3));
        assert_eq!(records_per_second("WARN no rate here"), None);
    }
}
