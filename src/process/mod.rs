//! The one loop that moves data: log → Bronze → acceptance → models, each step exactly once.
//!
//! A micro-batch runs through all tables in memory and becomes visible with one swap of the
//! [`LakeView`](crate::lake::LakeView). At a mark (a seal) the tables are committed, Bronze first,
//! each with its own positions; every other table is a function of tables and is caught up from
//! them after a crash. When a commit fails, everything in memory is discarded and the loop starts
//! again from the tables.

mod adopt;
mod anchors;
mod derived;
mod ends;
mod metrics;
mod offset_table;
mod open;
mod pipeline;
mod plans;
pub mod relations;
mod status;
mod stream;
mod system;
mod upkeep;

#[cfg(test)]
pub(crate) mod tests;

use std::{sync::Arc, time::Duration};

use datafusion::error::DataFusionError;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    domain::{ErrorKind, Offset, Partition, TableName, chain},
    lake::{CommitError, Lake, LakeError, LakeHandle},
    log::{self, Log},
    ops::Clock,
    process::{offset_table::SealError, pipeline::Pipeline},
};

pub use adopt::{Adopted, adopt, placements};
pub use plans::{Planned, plan};
pub use status::Status;

/// How the loop runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Payload bytes per micro-batch, about.
    pub batch_bytes: usize,
    /// Tables are committed this often, in milliseconds, while data flows.
    pub seal_interval_ms: u64,
    /// They are committed early when their uncommitted rows take this much memory.
    pub seal_bytes: usize,
    /// Percentage of the machine's CPU that recomputing tables may take.
    pub recompute_percent: u32,
    /// Longest wait for data, in milliseconds.
    pub poll_wait_ms: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            batch_bytes: 8 * 1024 * 1024,
            seal_interval_ms: 5_000,
            seal_bytes: 64 * 1024 * 1024,
            recompute_percent: 10,
            poll_wait_ms: 20,
        }
    }
}

/// What the loop works with.
#[derive(Clone)]
pub struct Deps {
    pub planned: Arc<Planned>,
    pub log: Arc<dyn Log>,
    pub lake: Lake,
    pub view: Arc<LakeHandle>,
    pub clock: Clock,
    pub status: Arc<Status>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("read the log")]
    Log(#[source] log::Error),
    #[error(transparent)]
    Lake(#[from] LakeError),
    #[error(transparent)]
    Commit(#[from] CommitError),
    #[error("decode records")]
    Decode(#[from] DataFusionError),
    #[error(
        "log_replaced: {stream}/{partition}: the lake was filled up to offset {offset} from another \
         log than this one ({reason}); start with the log that belongs to the lake, or take this \
         one with `sluice log adopt`"
    )]
    LogReplaced { stream: String, partition: Partition, offset: Offset, reason: &'static str },
    #[error(
        "data_gap: {stream}/{partition}: Bronze ends before offset {wanted}, the log starts at {start}; \
         what lies between is lost; `sluice log adopt --accept-gap` goes on with what is left"
    )]
    DataGap { stream: String, partition: Partition, wanted: Offset, start: Offset },
    #[error(
        "commit_missing: {table} ends before offset {next} of partition {partition}, acceptance has \
         decided up to offset {decided}: {missing}; bring that file back"
    )]
    CommitMissing {
        table: TableName,
        partition: Partition,
        next: Offset,
        decided: Offset,
        missing: String,
    },
    #[error("{stream}/{partition}: no decision is recorded for offset {offset}")]
    Undecided { stream: String, partition: Partition, offset: Offset },
    #[error("{0}")]
    Internal(String),
}

impl Error {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Log(error) => error.kind(),
            Self::Lake(error) => error.kind(),
            Self::Commit(error) => error.kind(),
            Self::LogReplaced { .. }
            | Self::DataGap { .. }
            | Self::CommitMissing { .. }
            | Self::Undecided { .. } => ErrorKind::Data,
            Self::Decode(_) | Self::Internal(_) => ErrorKind::Internal,
        }
    }
}

impl From<log::Error> for Error {
    fn from(error: log::Error) -> Self {
        match error {
            log::Error::Truncated { stream, partition, wanted, .. } => {
                let reason = "the log ends before that offset";
                Self::LogReplaced { stream, partition, offset: wanted, reason }
            }
            log::Error::Gap { stream, partition, wanted, start } => {
                Self::DataGap { stream, partition, wanted, start }
            }
            other => Self::Log(other),
        }
    }
}

impl From<arrow::error::ArrowError> for Error {
    fn from(error: arrow::error::ArrowError) -> Self {
        Self::Decode(error.into())
    }
}

impl From<SealError> for Error {
    fn from(error: SealError) -> Self {
        match error {
            SealError::Commit(error) => Self::Commit(error),
            SealError::Lake(error) => Self::Lake(error),
        }
    }
}

const BACK_OFF: Duration = Duration::from_millis(200);
const BACK_OFF_MAX: Duration = Duration::from_secs(10);

/// Runs until `stop`, then drains what is in the log and commits. `caught_up` turns true once
/// everything that was in the log at the start is visible.
///
/// What may pass (a store that does not answer, another writer) is logged and tried again from the
/// tables; what a person must look at is returned.
pub async fn run(
    settings: Settings,
    deps: Deps,
    caught_up: watch::Sender<bool>,
    stop: CancellationToken,
) -> Result<(), Error> {
    let mut wait = BACK_OFF;
    loop {
        let error = match run_once(&settings, &deps, &caught_up, &stop).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        if !error.kind().is_retryable() || stop.is_cancelled() {
            return Err(error);
        }
        let reason = chain(&error);
        tracing::error!(error = reason, "processing stopped, starting again from the tables");
        metrics::restarted();
        deps.status.update(|status| status.outage = Some(reason));
        tokio::select! {
            () = tokio::time::sleep(wait) => wait = (wait * 2).min(BACK_OFF_MAX),
            () = stop.cancelled() => return Err(error),
        }
    }
}

async fn run_once(
    settings: &Settings,
    deps: &Deps,
    caught_up: &watch::Sender<bool>,
    stop: &CancellationToken,
) -> Result<(), Error> {
    let mut pipeline = Pipeline::open(settings, deps).await?;
    pipeline.catch_up().await?;
    pipeline.follow_to_end().await?;
    caught_up.send_replace(true);
    deps.status.update(|status| status.outage = None);
    while !stop.is_cancelled() {
        if let Err(error) = pipeline.step().await {
            if matches!(error, Error::Log(log::Error::TopicGone { .. })) {
                // What was read from it cannot be read again.
                pipeline.seal(true).await?;
            }
            return Err(error);
        }
    }
    pipeline.finish().await
}
