//! The metrics of the serve role.

use std::time::Duration;

/// How a query ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Ok,
    Failed,
    /// The client went away.
    Cancelled,
    Timeout,
    Refused,
}

impl Outcome {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Timeout => "timeout",
            Self::Refused => "refused",
        }
    }
}

/// A query has ended.
pub(crate) fn query_ended(outcome: Outcome, took: Duration, rows: u64) {
    let status = outcome.as_str();
    metrics::counter!("sluice_serve_queries_total", "status" => status).increment(1);
    metrics::histogram!("sluice_serve_query_seconds", "status" => status).record(took);
    metrics::counter!("sluice_serve_rows_total").increment(rows);
}
