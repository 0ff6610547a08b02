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
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::Args;
use crate::{
    cli::{
        Failure,
        bench::{
            committed,
            project::{self, STREAM, Upto},
            server, usage,
            work::{self, Worked},
        },
        chain, check, node,
    },
    config::Config,
    domain::Positions,
    lake::LakeView,
    log::LogRecord,
    ops::Clock,
};

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

/// Does one part; returns a [`Sent`] or a [`Worked`].
pub(super) async fn run(
    part: Part,
    args: &Args,
    stop: &CancellationToken,
) -> Result<Value, Failure> {
    let folder = args.data_dir.clone().unwrap_or_default();
    let config = server::config(folder.clone(), Some(&args.log))?;
    let upto = if part == Part::Silver { Upto::Silver } else { Upto::Bronze };
    let project = folder.join("project");
    project::unpack(&project, upto, args.partitions, args.topic.as_deref())?;
    match part {
        Part::Fill => {
            let run = project::new_run();
            let event = |number| project::event(&run, number, args.size);
            let sent = work::fill(&config, &project, STREAM, args.events, event).await?;
            Ok(json!(sent))
        }
        Part::Bare => bare(&config, &project, &folder).await.map(|worked| json!(worked)),
        Part::Bronze | Part::Silver => {
            // As stored; `bronze.events` is a view of it.
            let schema = if part == Part::Silver { "silver" } else { "_bronze" };
            let count = |view: &LakeView| committed(view, schema, STREAM);
            let (worked, _) = Box::pin(work::work_off(&config, &project, count, stop)).await?;
            if worked.events != args.events {
                let found = format!("{} of {} events", worked.events, args.events);
                return Err(Failure::work(format!("{part} has {found}")));
            }
            Ok(json!(worked))
        }
    }
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
