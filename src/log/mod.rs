//! The durable log: where an acked event lives until Bronze has it.
//!
//! One trait, [`Log`]; everything behind it keeps the same promises, which `log/contract_tests.rs`
//! states. An append returns only when its records are durable. Offsets of a partition grow; a
//! reader compares them with `<` and `>` only, since a log may have holes.

use std::sync::Arc;

use crate::domain::{
    Assignment, ErrorKind, Offset, Partition, Positions,
    contract::{Contract, Topic},
};

pub mod embedded;
pub mod kafka;
pub(crate) mod part;
pub mod partitioner;
pub mod placed;

#[cfg(test)]
mod contract_tests;

pub use crate::domain::record::{LogRecord, Record};

/// Offsets `first..=last` of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OffsetRange {
    pub partition: Partition,
    pub first: Offset,
    pub last: Offset,
}

/// What a partition holds: offsets `start..end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    pub start: Offset,
    pub end: Offset,
}

/// Records of one stream, in the order of their offsets within each partition.
#[derive(Debug, Clone, Default)]
pub struct Chunk {
    pub stream: String,
    pub records: Vec<LogRecord>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the log has no stream {0:?}")]
    UnknownStream(String),
    #[error(
        "stream {stream:?} has {existing} partitions in the log, its contract says {wanted}: \
         a partition count cannot change while the log holds data"
    )]
    PartitionCount { stream: String, existing: u32, wanted: u32 },
    #[error("the log no longer has offset {wanted} of {stream}/{partition}, it starts at {start}")]
    Gap { stream: String, partition: Partition, wanted: Offset, start: Offset },
    #[error("{stream}/{partition} ends at offset {end}, but offset {wanted} was read before")]
    Truncated { stream: String, partition: Partition, wanted: Offset, end: Offset },
    #[error("a record of {size} bytes is over the log's limit of {limit}")]
    RecordTooLarge { size: usize, limit: usize },
    #[error("the log is closed")]
    Closed,
    #[error("the log at {path}: {reason}")]
    Unavailable { path: String, reason: String },
    #[error("the log at {path} cannot be reached: {reason}")]
    Unreachable { path: String, reason: String },
    #[error("the log at {path} cannot be reached: topic {topic:?} does not exist any more")]
    TopicGone { path: String, topic: String },
    #[error("stream {stream:?}: the log has no topic {topic:?}: {hint}")]
    NoTopic { stream: String, topic: String, hint: &'static str },
    #[error("the log at {path} does not take what is configured: {reason}")]
    Refused { path: String, reason: String },
    #[error("the log holds data it cannot read: {0}")]
    Damaged(String),
}

impl Error {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::UnknownStream(_) => ErrorKind::NotFound,
            Self::PartitionCount { .. } | Self::NoTopic { .. } | Self::Refused { .. } => {
                ErrorKind::Invalid
            }
            Self::RecordTooLarge { .. } => ErrorKind::Exhausted,
            Self::Closed
            | Self::Unavailable { .. }
            | Self::Unreachable { .. }
            | Self::TopicGone { .. } => ErrorKind::Unavailable,
            Self::Gap { .. } | Self::Truncated { .. } | Self::Damaged(_) => ErrorKind::Data,
        }
    }
}

/// A stream that a log is asked to hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StreamSpec {
    pub name: String,
    pub partitions: Partition,
    pub topic: Topic,
}

impl StreamSpec {
    /// A stream without settings of its own.
    pub fn new(name: &str, partitions: Partition) -> Self {
        Self { name: name.to_owned(), partitions, topic: Topic::default() }
    }
}

impl From<&Contract> for StreamSpec {
    fn from(contract: &Contract) -> Self {
        let topic = contract.topic.clone();
        Self { name: contract.name.clone(), partitions: contract.partitions, topic }
    }
}

/// The durable log.
#[async_trait::async_trait]
pub trait Log: Send + Sync + 'static {
    /// Names the log that holds the stream, for ever; part of every recorded position.
    fn id(&self, stream: &str) -> String;

    /// The name under which the log holds the stream.
    fn topic(&self, stream: &str) -> String;

    /// Makes the streams exist. A stream that exists with another partition count is an error.
    async fn ensure(&self, streams: &[StreamSpec]) -> Result<(), Error>;

    /// Appends records in order and returns once they are durable. All of them or none; after
    /// [`Error::Unavailable`] the outcome is unknown.
    ///
    /// Returns where they are, merged into ranges, in the order of the records. An append takes its
    /// place when its future is first polled, so a caller that polls them one after the other may
    /// have many under way and keeps its order.
    async fn append(&self, stream: &str, records: Vec<Record>) -> Result<Vec<OffsetRange>, Error>;

    /// What each partition of the stream holds, by partition number.
    async fn extents(&self, stream: &str) -> Result<Vec<Extent>, Error>;

    /// The record at exactly this offset.
    async fn get(
        &self,
        stream: &str,
        partition: Partition,
        offset: Offset,
    ) -> Result<Option<LogRecord>, Error>;

    /// Whether there is a record at `from` or after it. A log may end in offsets that no record
    /// has, such as those of a transaction's markers.
    async fn has_records(
        &self,
        stream: &str,
        partition: Partition,
        from: Offset,
    ) -> Result<bool, Error>;

    /// Opens a reader that continues after `after` (partitions not named there: from the start).
    ///
    /// [`Error::Gap`] where the log lacks the next record, [`Error::Truncated`] where it ends
    /// before the position.
    async fn reader(
        self: Arc<Self>,
        streams: &[String],
        after: &Positions,
    ) -> Result<Box<dyn Reader>, Error>;

    /// Joins the group of processors that share the partitions of `streams`. `None` where the log
    /// has no group, or none is configured: this process reads all of them.
    async fn join(
        self: Arc<Self>,
        streams: &[String],
    ) -> Result<Option<Arc<dyn Membership>>, Error> {
        let _ = streams;
        Ok(None)
    }

    /// Allows the log to forget records at and below `through`. It never forgets one above on that
    /// account.
    async fn trim(&self, stream: &str, partition: Partition, through: Offset) -> Result<(), Error>;

    /// Why appends are refused now; `None` while they are taken.
    fn outage(&self) -> Option<String> {
        None
    }

    /// Stops taking appends and waits for those under way.
    async fn close(&self);
}

/// Follows a set of streams.
#[async_trait::async_trait]
pub trait Reader: Send + Sync {
    /// The next records, at most about `max_bytes` of payload over all streams. Waits up to
    /// `max_wait` for the first; empty when none came.
    async fn poll(
        &mut self,
        max_bytes: usize,
        max_wait: std::time::Duration,
    ) -> Result<Vec<Chunk>, Error>;
}

/// What a group asks of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// To take partitions over, which nobody else holds any more; none, if there are not enough.
    /// Answered with [`Membership::take`].
    Take(Assignment),
    /// To commit what was read of these partitions, and to give them up with
    /// [`Membership::release`].
    Release(Assignment),
    /// Others may hold the member's partitions already: what is not committed is to be thrown away.
    /// Answered with [`Membership::forget`].
    Lost,
}

/// A place in a group of processors that share the partitions of a log's streams: at any time, each
/// partition belongs to one member, or to none. A member that was not heard of for too long may
/// not know yet that it holds nothing any more; what it writes has to be fenced by other means.
#[async_trait::async_trait]
pub trait Membership: Send + Sync {
    /// What the group asks for next. It is asked until it is answered.
    fn asked(&self) -> Result<Option<Asked>, Error>;

    /// The partitions that were taken and not released.
    fn held(&self) -> Assignment;

    /// Whether the group has given this member its part, which may be nothing.
    fn has_joined(&self) -> bool;

    /// Answers [`Asked::Take`]. `false`: the group asks for something else by now, and the
    /// partitions are not held.
    fn take(&self, partitions: &Assignment) -> Result<bool, Error>;

    /// Answers [`Asked::Release`], also where the group asks for something else by now.
    fn release(&self, partitions: &Assignment) -> Result<(), Error>;

    /// Answers [`Asked::Lost`].
    fn forget(&self);

    /// Opens a reader of `partitions` that continues after `after`; errors as [`Log::reader`].
    async fn reader(
        &self,
        partitions: &Assignment,
        after: &Positions,
    ) -> Result<Box<dyn Reader>, Error>;

    /// Tells whoever watches the group how far its member is. Nothing rests on it.
    fn report(&self, positions: &Positions);

    /// Leaves the group.
    async fn leave(&self);
}
