use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ingest::proto::Limits;

/// Limits and times of the ingest role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Largest request, and largest batch of a stream.
    pub max_request_bytes: usize,
    /// Largest payload and key of one event together.
    pub max_event_bytes: usize,
    pub max_batch_events: usize,
    /// Bytes that all callers together may have on the way into the log.
    pub inflight_bytes_max: usize,
    /// The same for one stream.
    pub stream_inflight_bytes_max: usize,
    /// Streams at once on one connection.
    pub max_concurrent_streams: u32,
    /// An ack waits at most this long for more to cover.
    pub ack_delay_ms: u64,
    /// An ack covers at most this many batches.
    pub ack_batches_max: usize,
    /// How many producers' last sequences are remembered.
    pub producers_max: usize,
    /// How long a stream may go on after it was told to end.
    pub drain_grace_ms: u64,
    /// How long a stop takes at most.
    pub drain_timeout_ms: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_request_bytes: 16 * 1024 * 1024,
            max_event_bytes: 1024 * 1024,
            max_batch_events: 100_000,
            inflight_bytes_max: 256 * 1024 * 1024,
            stream_inflight_bytes_max: 32 * 1024 * 1024,
            max_concurrent_streams: 64,
            ack_delay_ms: 5,
            ack_batches_max: 64,
            producers_max: 100_000,
            drain_grace_ms: 500,
            drain_timeout_ms: 1_500,
        }
    }
}

impl Settings {
    pub(super) fn limits(&self) -> Limits {
        Limits {
            max_request_bytes: self.max_request_bytes as u64,
            max_event_bytes: self.max_event_bytes as u64,
            max_batch_events: self.max_batch_events as u64,
        }
    }

    pub(super) fn ack_delay(&self) -> Duration {
        Duration::from_millis(self.ack_delay_ms)
    }

    pub(super) fn drain_grace(&self) -> Duration {
        Duration::from_millis(self.drain_grace_ms)
    }

    pub(super) fn drain_timeout(&self) -> Duration {
        Duration::from_millis(self.drain_timeout_ms)
    }
}
