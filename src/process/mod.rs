//! The one loop that moves data: log → Bronze → acceptance → models, each step exactly once.
//!
//! A micro-batch runs through all tables in memory and becomes visible with one swap of the
//! [`LakeView`](crate::lake::LakeView). At a mark (a seal) the tables are committed, Bronze first,
//! each with its own positions; every other table is a function of tables and is caught up from
//! them after a crash. When a commit fails, everything in memory is discarded and the loop starts
//! again from the tables.

mod adopt;
mod anchors;
mod contracts;
pub mod data_tests;
mod derived;
mod driving;
mod ends;
mod events;
mod feed;
mod follow;
mod group;
mod kept;
mod looks;
mod metrics;
mod missed;
mod offset_table;
mod open;
mod pass;
mod patch_log;
mod pipeline;
mod plans;
mod preview;
mod publish;
pub mod quarantine;
mod rebuild;
pub mod relations;
mod report;
mod rounds;
mod rows;
mod settle;
mod status;
mod stored_view;
mod stream;
mod system;
mod upkeep;

#[cfg(test)]
pub(crate) mod tests;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use datafusion::error::DataFusionError;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    domain::{ErrorKind, Offset, Partition, TableName, chain},
    lake::{CommitError, Lake, LakeError, LakeHandle},
    log::{self, Log, Membership},
    models::ProgramError,
    ops::Clock,
    process::{
        data_tests::Results, offset_table::SealError, pipeline::Pipeline, quarantine::Discards,
    },
};

pub use adopt::{Adopted, adopt, placements};
pub use contracts::{Compared, compare, record};
pub(crate) use driving::{Driving, computed_of};
pub use plans::{Planned, plan, plan_partly};
pub use preview::preview;
pub use rebuild::{
    ColumnChange, Done, Meter, Outcome, Reading, TableChange, changes, outdated, rebuild,
};
pub use status::Status;
pub use stored_view::stored_view;

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
    /// Versions of a table can be read for so long at least.
    pub log_retention_hours: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            batch_bytes: 8 * 1024 * 1024,
            seal_interval_ms: 5_000,
            seal_bytes: 64 * 1024 * 1024,
            recompute_percent: 10,
            poll_wait_ms: 20,
            log_retention_hours: 24,
        }
    }
}

/// What the loop works with.
#[derive(Clone)]
pub struct Deps {
    pub planned: Arc<Planned>,
    pub log: Arc<dyn Log>,
    /// The group that shares the log's partitions; `None`: this process reads all of them.
    pub membership: Option<Arc<dyn Membership>>,
    pub lake: Lake,
    pub view: Arc<LakeHandle>,
    pub clock: Clock,
    pub status: Arc<Status>,
    /// Where the loop finds what is to be discarded.
    pub discards: Arc<Discards>,
    /// What data tests found.
    pub results: Arc<Results>,
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
    #[error(transparent)]
    Model(#[from] ProgramError),
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
    #[error(
        "the group took this processor's partitions away: what it had not committed is read again"
    )]
    Lost,
    #[error(
        "partitions go to another processor while the log does not answer: what was read of them and \
         not committed is read again"
    )]
    Unconfirmed,
    #[error("{0}")]
    Internal(String),
}

impl Error {
    /// The one stream that cannot go on; the others can.
    fn stream(&self) -> Option<&str> {
        match self {
            Self::LogReplaced { stream, .. }
            | Self::DataGap { stream, .. }
            | Self::Undecided { stream, .. } => Some(stream),
            _ => None,
        }
    }

    /// Whether something in the lake could not be read, or is not what it should be.
    fn is_unreadable(&self) -> bool {
        use LakeError::{Log, Read, Table};
        match self {
            Self::Lake(error) => matches!(error, Table { .. } | Log { .. } | Read { .. }),
            Self::Commit(error) => matches!(error, CommitError::Unreadable(_)),
            _ => false,
        }
    }

    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Log(error) => error.kind(),
            Self::Lake(error) => error.kind(),
            Self::Commit(error) => error.kind(),
            Self::LogReplaced { .. }
            | Self::DataGap { .. }
            | Self::CommitMissing { .. }
            | Self::Undecided { .. } => ErrorKind::Data,
            Self::Model(error) => error.kind(),
            Self::Lost => ErrorKind::Conflict,
            Self::Unconfirmed => ErrorKind::Unavailable,
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
/// A start looks so often at what it cannot read.
const REREADS: u32 = 3;
const BACK_OFF_MAX: Duration = Duration::from_secs(10);

/// Runs until `stop`, then drains what is in the log and commits. `caught_up` turns true once
/// everything that was in the log at the start is visible.
///
/// What may pass (a store that does not answer, another writer) is logged and tried again from the
/// tables; what a person must look at is returned, or stops the one stream that it concerns while
/// others go on.
pub async fn run(
    settings: Settings,
    deps: Deps,
    caught_up: watch::Sender<bool>,
    stop: CancellationToken,
) -> Result<(), Error> {
    let ended = run_on(&settings, &deps, &caught_up, &stop).await;
    if let Some(membership) = &deps.membership {
        membership.leave().await;
    }
    ended
}

async fn run_on(
    settings: &Settings,
    deps: &Deps,
    caught_up: &watch::Sender<bool>,
    stop: &CancellationToken,
) -> Result<(), Error> {
    let mut wait = BACK_OFF;
    let (mut halted, mut rereads) = (Halted::new(), 0);
    loop {
        let started = tokio::time::Instant::now();
        let error = match run_once(settings, deps, &halted, caught_up, stop).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        if let Some(stream) = error.stream()
            && halted.len() + 1 < deps.planned.judges.len()
        {
            tracing::error!(stream, %error, "stream stopped, the others go on");
            metrics::stream_halted(stream);
            halted.insert(stream.to_owned(), error.to_string());
            continue;
        }
        if started.elapsed() > BACK_OFF_MAX {
            wait = BACK_OFF;
        }
        // What ran once may run again, whatever the store answers now; a start says soon what it
        // cannot read.
        rereads += u32::from(error.is_unreadable());
        let may_pass = error.kind().is_retryable()
            || (error.is_unreadable() && (*caught_up.borrow() || rereads < REREADS));
        if !may_pass || stop.is_cancelled() {
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

/// The streams that were stopped since the process started, and why.
type Halted = BTreeMap<String, String>;

async fn run_once(
    settings: &Settings,
    deps: &Deps,
    halted: &Halted,
    caught_up: &watch::Sender<bool>,
    stop: &CancellationToken,
) -> Result<(), Error> {
    let mut pipeline = Pipeline::open(settings, deps, halted).await?;
    pipeline.catch_up().await?;
    pipeline.join(stop).await?;
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
