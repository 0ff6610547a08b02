//! An event on its way into the log, and as the log holds it.

use bytes::Bytes;

use crate::domain::{Offset, Partition, identity::Identity};

/// Names the quarantined record that a record was appended for again, as a
/// [`Place`](crate::domain::Place). Persisted in the log: must stay stable.
pub const ORIGIN_HEADER: &str = "sluice-origin";

/// A named value that travels with a record; Kafka lets the value be absent.
pub type Header = (String, Option<Bytes>);

/// One event on its way into the log.
#[derive(Debug, Clone)]
pub struct Record {
    /// Decides the partition; without it the identity does.
    pub key: Option<Bytes>,
    pub identity: Identity,
    /// Further headers, in their order.
    pub headers: Vec<Header>,
    pub payload: Bytes,
}

/// One event as the log holds it.
#[derive(Debug, Clone, PartialEq)]
pub struct LogRecord {
    pub partition: Partition,
    pub offset: Offset,
    /// The log's time in microseconds. It may fall within a partition that others write.
    pub timestamp_us: i64,
    pub key: Option<Bytes>,
    /// The identity header as it came; `None` on a record that something else wrote.
    pub identity: Option<Bytes>,
    /// The other headers, in their order.
    pub headers: Vec<Header>,
    /// `None`: the record has no value.
    pub payload: Option<Bytes>,
}

impl LogRecord {
    /// Bytes of the value; 0 where there is none.
    pub fn payload_len(&self) -> usize {
        self.payload.as_ref().map_or(0, Bytes::len)
    }
}
