//! `sluice bench query`: queries over Flight SQL, server and client in this process over a real
//! connection, beside the same queries through DataFusion without the wire.
#![allow(clippy::print_stdout)]

mod table;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use arrow::{
    array::{Array as _, RecordBatch},
    error::ArrowError,
};
use datafusion::{execution::runtime_env::RuntimeEnv, prelude::SessionConfig};
use futures::{Stream, TryStreamExt as _};
use tokio_util::sync::CancellationToken;

use super::usage;
use crate::{
    cli::{
        Failure, chain,
        query::{Client, failed},
    },
    lake::{
        LakeHandle, LakeView,
        session::{Columns, session},
    },
    ops::tasks::Tasks,
    serve,
};

const PATIENCE: Duration = Duration::from_secs(300);
const STOP: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Rows of the table, in memory
    #[arg(long, default_value_t = 2_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub rows: u64,
    /// How often each query runs; `SELECT 1` ten times as often
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    pub repeat: u64,
}

/// A query, and how many rows it must answer.
struct Case {
    name: &'static str,
    sql: &'static str,
    rows: u64,
    /// Rows that it reads.
    reads: u64,
    repeat: u64,
}

/// What the runs of one query took, on one way.
#[derive(Debug, Clone, Default)]
struct Runs {
    /// One entry per run, sorted.
    took: Vec<Duration>,
    cpu: Option<Duration>,
    /// Of one answer.
    rows: u64,
    bytes: u64,
    /// Rows that it is made of.
    read: u64,
}

/// Runs the benchmark and prints what it found.
pub(super) async fn run(args: Args) -> Result<(), Failure> {
    println!(
        "bench query: {} rows in memory, {} runs of each query (SELECT 1: {}), client and server \
         in one process, {}",
        args.rows,
        args.repeat,
        args.repeat * 10,
        usage::build(),
    );
    println!("{HEADER}");
    for (case, wire, direct) in measure(&args).await? {
        println!("{}", line(case.name, "over Flight SQL", &wire));
        println!("{}", line(case.name, "in process", &direct));
        println!("{:<10} {:.2} x the time in process", case.name, ratio(&wire, &direct));
    }
    if let Some(peak) = usage::peak_mib() {
        println!("peak memory, client included: {peak} MiB");
    }
    Ok(())
}

const HEADER: &str =
    "query      way               p50 ms   p99 ms  rows read/s     MB/s  CPU ms/query";

fn line(name: &str, way: &str, runs: &Runs) -> String {
    let p50 = usage::percentile(&runs.took, 50);
    let millis = |time: Duration| time.as_secs_f64() * 1e3;
    let cpu = runs.cpu.map_or_else(
        || "-".to_owned(),
        |cpu| {
            let count = u32::try_from(runs.took.len()).unwrap_or(u32::MAX).max(1);
            format!("{:.2}", millis(cpu / count))
        },
    );
    format!(
        "{name:<10} {way:<15} {:>8.2} {:>8.2} {:>12.0} {:>8.1} {cpu:>13}",
        millis(p50),
        millis(usage::percentile(&runs.took, 99)),
        usage::rate(runs.read, p50),
        usage::rate(runs.bytes, p50) / 1e6,
    )
}

fn ratio(wire: &Runs, direct: &Runs) -> f64 {
    let median = |runs: &Runs| usage::percentile(&runs.took, 50).as_secs_f64();
    median(wire) / median(direct).max(1e-9)
}

fn cases(args: &Args) -> [Case; 3] {
    [
        Case {
            name: "select 1",
            sql: "SELECT 1 AS one",
            rows: 1,
            reads: 1,
            repeat: args.repeat * 10,
        },
        Case {
            name: "scan",
            sql: "SELECT id, at, user_id, kind, amount FROM gold.sales",
            rows: args.rows,
            reads: args.rows,
            repeat: args.repeat,
        },
        Case {
            name: "group by",
            sql: "SELECT kind, user_id % 25 AS slot, count(*) AS sales, sum(amount) AS amount \
                  FROM gold.sales GROUP BY kind, user_id % 25",
            // Kinds and slots are independent of each other: 4 is prime to 10,007.
            rows: args.rows.min(100),
            reads: args.rows,
            repeat: args.repeat,
        },
    ]
}

/// Every case over the wire and without it.
async fn measure(args: &Args) -> Result<Vec<(Case, Runs, Runs)>, Failure> {
    let view = table::view(args.rows).map_err(|e| Failure::work(chain(&e)))?;
    let lake = LakeHandle::new(view);
    let view = lake.load();
    let unavailable = |e: std::io::Error| Failure::unavailable(e.to_string());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.map_err(unavailable)?;
    let url = format!("grpc://{}", listener.local_addr().map_err(unavailable)?);
    let mut server: Tasks<serve::Error> = Tasks::new(CancellationToken::new());
    let serving = serve::flight::run(serve::Settings::default(), lake, listener, server.token());
    server.spawn("flight", serving);
    let mut client = Client::connect(&url, PATIENCE).await?;
    let mut measured = Vec::new();
    for case in cases(args) {
        let wire = over_wire(&mut client, &case).await?;
        let direct = in_process(&view, &case).await?;
        measured.push((case, wire, direct));
    }
    drop(client);
    server.stop(STOP).await.map_err(|e| Failure::work(chain(&e)))?;
    Ok(measured)
}

async fn over_wire(client: &mut Client, case: &Case) -> Result<Runs, Failure> {
    let mut runs = Runs::default();
    let mut cpu_before = None;
    // The first run warms up and is not counted.
    for number in 0..=case.repeat {
        let started = Instant::now();
        let ticket = client.plan(case.sql).await?;
        let rows = client.rows(ticket).await?;
        let answer = drain(rows.map_err(failed)).await?;
        runs.add(case, number, started.elapsed(), answer)?;
        cpu_before = cpu_before.or_else(usage::cpu);
    }
    runs.end(cpu_before);
    Ok(runs)
}

async fn in_process(view: &Arc<LakeView>, case: &Case) -> Result<Runs, Failure> {
    let failed = |error| Failure::work(format!("{}: {}", case.sql, chain(&error)));
    let mut runs = Runs::default();
    let mut cpu_before = None;
    for number in 0..=case.repeat {
        let started = Instant::now();
        let runtime = Arc::new(RuntimeEnv::default());
        let context = session(view, Columns::Visible, config(), runtime);
        let frame = context.sql(case.sql).await.map_err(failed)?;
        let rows = frame.execute_stream().await.map_err(failed)?;
        let answer = drain(rows.map_err(failed)).await?;
        runs.add(case, number, started.elapsed(), answer)?;
        cpu_before = cpu_before.or_else(usage::cpu);
    }
    runs.end(cpu_before);
    Ok(runs)
}

/// As the server configures its sessions: text is sent as it is kept.
fn config() -> SessionConfig {
    let mut config = SessionConfig::new().with_information_schema(true);
    config.options_mut().sql_parser.map_string_types_to_utf8view = false;
    config
}

impl Runs {
    fn add(
        &mut self,
        case: &Case,
        number: u64,
        took: Duration,
        (rows, bytes): (u64, u64),
    ) -> Result<(), Failure> {
        if rows != case.rows {
            let wanted = case.rows;
            return Err(Failure::work(format!("{}: {rows} rows, not {wanted}", case.sql)));
        }
        (self.rows, self.bytes, self.read) = (rows, bytes, case.reads);
        if number > 0 {
            self.took.push(took);
        }
        Ok(())
    }

    fn end(&mut self, cpu_before: Option<Duration>) {
        self.cpu = usage::since(cpu_before);
        self.took.sort_unstable();
    }
}

/// Rows and bytes of an answer.
async fn drain(
    mut batches: impl Stream<Item = Result<RecordBatch, Failure>> + Unpin,
) -> Result<(u64, u64), Failure> {
    let (mut rows, mut bytes) = (0, 0);
    while let Some(batch) = batches.try_next().await? {
        rows += batch.num_rows() as u64;
        bytes += bytes_of(&batch).map_err(|e| Failure::work(chain(&e)))?;
    }
    Ok((rows, bytes))
}

/// Bytes of the values; buffers that columns share count for what each uses of them.
fn bytes_of(batch: &RecordBatch) -> Result<u64, ArrowError> {
    let mut bytes = 0;
    for column in batch.columns() {
        bytes += column.to_data().get_slice_memory_size()? as u64;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn both_ways_give_the_same_rows_and_bytes() {
        let args = Args { rows: 70_000, repeat: 2 };
        let measured = measure(&args).await.expect("a run");
        let found: Vec<_> = measured
            .iter()
            .map(|(case, wire, direct)| (case.name, wire.rows, wire.took.len(), direct.took.len()))
            .collect();
        assert_eq!(
            found,
            [("select 1", 1, 20, 20), ("scan", 70_000, 2, 2), ("group by", 100, 2, 2)]
        );
        for (case, wire, direct) in &measured {
            assert!(wire.bytes > 0 && wire.bytes.abs_diff(direct.bytes) < 1_000, "{}", case.name);
        }
    }

    #[test]
    fn a_line_is_as_wide_as_its_header() {
        let runs = Runs {
            took: vec![Duration::from_millis(2); 4],
            cpu: Some(Duration::from_millis(12)),
            rows: 1_000,
            bytes: 2_000_000,
            read: 1_000,
        };
        let line = line("scan", "in process", &runs);
        assert_eq!(line.len(), HEADER.len());
        assert!(line.ends_with("2.00     2.00       500000   1000.0          3.00"), "{line}");
        assert!((ratio(&runs, &runs) - 1.0).abs() < 1e-9);
    }
}
