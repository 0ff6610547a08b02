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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_the_metrics_are_these() {
        let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
        metrics::with_local_recorder(&recorder, || {
            query_ended(Outcome::Ok, Duration::from_millis(5), 7);
            query_ended(Outcome::Timeout, Duration::from_millis(5), 0);
        });
        let text = recorder.handle().render();
        assert!(text.contains("sluice_serve_queries_total{status=\"ok\"} 1"), "{text}");
        assert!(text.contains("sluice_serve_queries_total{status=\"timeout\"} 1"), "{text}");
        assert!(text.contains("sluice_serve_rows_total 7"), "{text}");
        assert!(text.contains("sluice_serve_query_seconds_count{status=\"ok\"} 1"), "{text}");
    }
}
