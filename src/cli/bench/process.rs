//! A part of a benchmark in a process of its own, so that its CPU and memory can be told apart.

use std::{process::Stdio, time::Duration};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{publisher::Published, usage};
use crate::cli::Failure;

/// What a client tells about its run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Sent {
    pub(super) events: u64,
    /// When the first batch was sent, in microseconds since 1970.
    pub(super) started_us: i64,
    /// Until the last ack.
    pub(super) took: Duration,
    pub(super) cpu: Option<Duration>,
    pub(super) ack_p50: Duration,
    pub(super) ack_p99: Duration,
    pub(super) peak_mib: Option<u64>,
}

impl Sent {
    pub(super) fn of(events: u64, published: &Published) -> Self {
        let percentile = |percent| usage::percentile(&published.latencies, percent);
        Self {
            events,
            started_us: published.started_us,
            took: published.took,
            cpu: published.cpu,
            ack_p50: percentile(50),
            ack_p99: percentile(99),
            peak_mib: usage::peak_mib(),
        }
    }
}

/// The words for this benchmark with those options that have a value.
pub(super) fn words<const COUNT: usize>(
    benchmark: &str,
    options: [(&str, Option<String>); COUNT],
) -> Vec<String> {
    let given = options.into_iter().filter_map(|(name, value)| Some([name.to_owned(), value?]));
    ["bench".to_owned(), benchmark.to_owned()].into_iter().chain(given.flatten()).collect()
}

/// Runs this binary with `words`; it prints what it found as JSON.
pub(super) async fn run<T: DeserializeOwned>(words: Vec<String>) -> Result<T, Failure> {
    let failed =
        |what: &dyn std::fmt::Display| Failure::work(format!("a process of its own: {what}"));
    let program = std::env::current_exe().map_err(|e| failed(&e))?;
    let child = tokio::process::Command::new(program)
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let child = child.map_err(|e| failed(&e))?;
    let output = child.wait_with_output().await.map_err(|e| failed(&e))?;
    if !output.status.success() {
        return Err(failed(&output.status));
    }
    serde_json::from_slice(&output.stdout).map_err(|e| failed(&e))
}
