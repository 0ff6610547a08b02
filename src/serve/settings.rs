use serde::{Deserialize, Serialize};

/// Limits of the serve role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Longest SQL text that is looked at.
    pub sql_bytes_max: usize,
    /// Time of one query, from its first byte to its last.
    pub query_ms_max: u64,
    /// Queries that run at the same time.
    pub queries_max: usize,
    /// Queries that wait for one of those to end; more are refused.
    pub queued_max: usize,
    /// How long a query waits for its turn.
    pub queue_ms_max: u64,
    /// How long a query waits for the positions of `x-sluice-after`, unless the client's own
    /// deadline says otherwise.
    pub after_ms_max: u64,
    /// Memory that all queries together may use for sorting, joining and grouping.
    pub memory_bytes_max: usize,
    /// Disk that they may spill to.
    pub spill_bytes_max: u64,
    /// Threads that plan and run queries; 0: one per core.
    pub threads: usize,
    /// How long running queries may go on after a stop was asked for.
    pub drain_ms_max: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            sql_bytes_max: 256 << 10,
            query_ms_max: 300_000,
            queries_max: 16,
            queued_max: 128,
            queue_ms_max: 30_000,
            after_ms_max: 30_000,
            memory_bytes_max: 1 << 30,
            spill_bytes_max: 10 << 30,
            threads: 0,
            drain_ms_max: 1_000,
        }
    }
}
