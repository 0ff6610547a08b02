//! The process role's metrics.

use std::time::Duration;

use metrics::{counter, gauge, histogram};

use crate::{
    domain::{TableName, tested::Ran},
    process::stream::Counts,
};

/// A part of an event's way from the log to a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// From the append of the oldest record of a batch until it is read.
    Log,
    /// Bronze, acceptance and the append models.
    Rows,
    /// The models kept by changes.
    Models,
    /// Sides of lookups, and models by key.
    Looks,
    /// The view that queries see.
    Visible,
}

impl Stage {
    fn as_str(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Rows => "rows",
            Self::Models => "models",
            Self::Looks => "looks",
            Self::Visible => "visible",
        }
    }
}

/// What a stage took, for one micro-batch.
pub(super) fn stage(stage: Stage, took: Duration) {
    histogram!("sluice_process_stage_seconds", "stage" => stage.as_str())
        .record(took.as_secs_f64());
}

pub(super) fn restarted() {
    counter!("sluice_process_restarts_total").increment(1);
}

pub(super) fn stream_halted(stream: &str) {
    gauge!("sluice_process_stream_stopped", "stream" => stream.to_owned()).set(1.0);
}

pub(super) fn sealed(tables: usize, took: Duration) {
    counter!("sluice_process_commits_total").increment(tables as u64);
    histogram!("sluice_process_commit_seconds").record(took.as_secs_f64());
}

pub(super) fn round(took: Duration) {
    histogram!("sluice_process_recompute_seconds").record(took.as_secs_f64());
}

pub(super) fn records(stream: &str, records: u64, counts: Counts) {
    let label = stream.to_owned();
    counter!("sluice_process_records_total", "stream" => label.clone()).increment(records);
    counter!("sluice_process_accepted_total", "stream" => label.clone()).absolute(counts.accepted);
    counter!("sluice_process_repeats_total", "stream" => label.clone()).absolute(counts.repeats);
    counter!("sluice_process_quarantined_total", "stream" => label).absolute(counts.quarantined);
}

/// How a data test ended.
pub(super) fn tested(ran: &Ran) {
    let name = ran.name.clone();
    counter!("sluice_tests_total", "status" => ran.status.as_str()).increment(1);
    gauge!("sluice_test_failed", "test" => name.clone()).set(f64::from(ran.status.is_failure()));
    gauge!("sluice_test_failures", "test" => name).set(ran.failures.unwrap_or_default() as f64);
}

pub(super) fn compacted(table: &TableName) {
    counter!("sluice_process_compactions_total", "table" => table.to_string()).increment(1);
}

#[allow(clippy::cast_precision_loss, reason = "a gauge is a float")]
pub(super) fn tail_bytes(bytes: usize) {
    gauge!("sluice_process_hot_tail_bytes").set(bytes as f64);
}

/// After the partitions that this process holds changed.
#[allow(clippy::cast_precision_loss, reason = "a gauge is a float")]
pub(super) fn held(partitions: usize, took: Duration) {
    gauge!("sluice_process_partitions_held").set(partitions as f64);
    histogram!("sluice_process_rebalance_seconds").record(took.as_secs_f64());
}
