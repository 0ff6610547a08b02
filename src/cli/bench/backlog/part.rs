//! One part of the benchmark, in this process.

use std::{
    fs::File,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use arrow::{
    array::{ArrayRef, BinaryArray, Int32Array, Int64Array, RecordBatch},
    datatypes::{DataType, Field, Schema},
};
use parquet::{arrow::ArrowWriter, basic::Compression, file::properties::WriterProperties};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::Args;
use crate::{
    cli::{
        Bound, Failure, Node,
        bench::{
            committed,
            process::Sent,
            project::{self, STREAM, Upto},
            publisher::{self, Load},
            usage,
        },
        chain, check, node, up,
    },
    config::Config,
    domain::Positions,
    ingest::{self, Contracts, Service},
    log::LogRecord,
    ops::Clock,
};

/// Events per batch of the filling, and batches under way.
const BATCH: u64 = 500;
const IN_FLIGHT: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    Fill,
    /// Reads and writes the records without Sluice's tables
    Bare,
    Bronze,
    Silver,
}

impl Part {
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Fill => "filling",
            Self::Bare => "read, and written to a Parquet file",
            Self::Bronze => "log → Bronze",
            Self::Silver => "log → Bronze and an append Silver",
        }
    }
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Fill => "fill",
            Self::Bare => "bare",
            Self::Bronze => "bronze",
            Self::Silver => "silver",
        })
    }
}

/// What working a backlog off took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Worked {
    pub(super) events: u64,
    pub(super) took: Duration,
    pub(super) cpu: Option<Duration>,
    /// Resident before the first record, and the most until the end.
    pub(super) resident_mib: Option<u64>,
    pub(super) peak_mib: Option<u64>,
}

/// Does one part; returns a [`Sent`] or a [`Worked`].
pub(super) async fn run(
    part: Part,
    args: &Args,
    stop: &CancellationToken,
) -> Result<Value, Failure> {
    let folder = args.data_dir.clone().unwrap_or_default();
    let config = super::config(args, folder.clone())?;
    let upto = if part == Part::Silver { Upto::Silver } else { Upto::Bronze };
    let project = folder.join("project");
    project::unpack(&project, upto, args.partitions, args.topic.as_deref())?;
    match part {
        Part::Fill => fill(args, &config, &project).await.map(|sent| json!(sent)),
        Part::Bare => bare(&config, &project, &folder).await.map(|worked| json!(worked)),
        Part::Bronze | Part::Silver => {
            let worked = Box::pin(work(part, &config, &project, stop)).await?;
            if worked.events != args.events {
                let found = format!("{} of {} events", worked.events, args.events);
                return Err(Failure::work(format!("{part} has {found}")));
            }
            Ok(json!(worked))
        }
    }
}

/// Every event through the gateway, without anyone who reads them.
async fn fill(args: &Args, config: &Config, project: &Path) -> Result<Sent, Failure> {
    let planned = check::load(project)?;
    let log = node::open_log(config, &Clock::system()).await?;
    node::ensure(log.as_ref(), &planned).await?;
    let contracts: Contracts = planned
        .judges
        .iter()
        .map(|judge| (judge.contract().name.clone(), Arc::clone(judge.contract())))
        .collect();
    let service = Service::new(config.ingest.clone(), Arc::clone(&log), Arc::new(contracts));
    let unavailable = |error: &dyn std::error::Error| Failure::unavailable(chain(error));
    let listener = tokio::net::TcpListener::bind(&config.server.ingest_listen).await;
    let listener = listener.map_err(|e| unavailable(&e))?;
    let load = Load {
        url: format!("http://{}", listener.local_addr().map_err(|e| unavailable(&e))?),
        stream: STREAM,
        events: args.events,
        batch: BATCH,
        in_flight: IN_FLIGHT,
        rate: None,
    };
    let served = CancellationToken::new();
    let server = tokio::spawn(ingest::run(service, listener, served.clone()));
    let run = project::new_run();
    let published = publisher::publish(&load, |n| project::event(&run, n, args.size)).await;
    served.cancel();
    if let Ok(Err(error)) = server.await {
        return Err(Failure::new(error.kind(), chain(&error)));
    }
    log.close().await;
    Ok(Sent::of(args.events, &published?))
}

/// A whole Sluice, from its start until everything is committed and it has stopped.
async fn work(
    part: Part,
    config: &Config,
    project: &Path,
    stop: &CancellationToken,
) -> Result<Worked, Failure> {
    up::init_logs(config);
    let planned = check::load(project)?;
    let bound = Bound::bind(&config.server).await?;
    let (started, before, resident_mib) = (Instant::now(), usage::cpu(), usage::resident_mib());
    let node = Box::pin(Node::start(config, planned, bound, None, stop)).await?;
    let lake = Arc::clone(&node.lake);
    node.stop().await?;
    if stop.is_cancelled() {
        return Err(crate::cli::bench::stopped());
    }
    // As stored; `bronze.events` is a view of it.
    let schema = if part == Part::Silver { "silver" } else { "_bronze" };
    Ok(Worked {
        events: committed(&lake.load(), schema),
        took: started.elapsed(),
        cpu: usage::since(before),
        resident_mib,
        peak_mib: usage::peak_mib(),
    })
}

/// The records of the log as columns of one Parquet file, compressed as Delta's writer does it.
async fn bare(config: &Config, project: &Path, folder: &Path) -> Result<Worked, Failure> {
    let planned = check::load(project)?;
    let log = node::open_log(config, &Clock::system()).await?;
    node::ensure(log.as_ref(), &planned).await?;
    let failed = |e: crate::log::Error| Failure::new(e.kind(), chain(&e));
    let unwritten = |e: &dyn std::error::Error| Failure::unavailable(chain(e));
    let (started, before, resident_mib) = (Instant::now(), usage::cpu(), usage::resident_mib());
    let held = log.extents(STREAM).await.map_err(failed)?;
    let held: i64 = held.iter().map(|extent| extent.end - extent.start).sum();
    let held = u64::try_from(held).unwrap_or_default();
    let mut reader =
        Arc::clone(&log).reader(&[STREAM.into()], &Positions::default()).await.map_err(failed)?;
    let file = File::create(folder.join("bare.parquet")).map_err(|e| unwritten(&e))?;
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
    let mut writer = ArrowWriter::try_new(file, rows(&[])?.schema(), Some(properties))
        .map_err(|e| unwritten(&e))?;
    let wait = Duration::from_millis(config.process.poll_wait_ms);
    let mut events = 0;
    while events < held {
        for chunk in reader.poll(config.process.batch_bytes, wait).await.map_err(failed)? {
            events += chunk.records.len() as u64;
            writer.write(&rows(&chunk.records)?).map_err(|e| unwritten(&e))?;
        }
    }
    writer.close().map_err(|e| unwritten(&e))?;
    log.close().await;
    Ok(Worked {
        events,
        took: started.elapsed(),
        cpu: usage::since(before),
        resident_mib,
        peak_mib: usage::peak_mib(),
    })
}

/// The least that a record is: its place, its key and what was sent.
fn rows(records: &[LogRecord]) -> Result<RecordBatch, Failure> {
    let schema = Schema::new(vec![
        Field::new("partition", DataType::Int32, false),
        Field::new("offset", DataType::Int64, false),
        Field::new("key", DataType::Binary, true),
        Field::new("payload", DataType::Binary, true),
    ]);
    let partition = records.iter().map(|r| i32::try_from(r.partition).unwrap_or_default());
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int32Array::from_iter_values(partition)),
        Arc::new(Int64Array::from_iter_values(records.iter().map(|r| r.offset))),
        Arc::new(BinaryArray::from_iter(records.iter().map(|r| r.key.as_deref()))),
        Arc::new(BinaryArray::from_iter(records.iter().map(|r| r.payload.as_deref()))),
    ];
    RecordBatch::try_new(Arc::new(schema), columns).map_err(|e| Failure::work(chain(&e)))
}
