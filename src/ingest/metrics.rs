//! The metrics of the ingest role.

use std::time::Duration;

/// A batch became durable.
pub(super) fn acked(stream: &str, events: u64, bytes: u64, took: Duration) {
    metrics::counter!("sluice_ingest_acked_total", "stream" => stream.to_owned()).increment(events);
    metrics::counter!("sluice_ingest_bytes_total", "stream" => stream.to_owned()).increment(bytes);
    metrics::histogram!("sluice_ingest_batch_seconds").record(took.as_secs_f64());
}

/// Events were not taken.
pub(super) fn refused(stream: &str, events: u64) {
    if events > 0 {
        let stream = stream.to_owned();
        metrics::counter!("sluice_ingest_events_refused_total", "stream" => stream)
            .increment(events);
    }
}
