//! Logs and metrics of the process.

use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

/// Sends log lines at and above `filter` (such as `info` or `sluice=debug,warn`) to standard error.
/// A second call changes nothing.
pub fn init_logs(filter: &str, json: bool) {
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("warn"));
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // Else a standard error that nobody reads any more ends the thread with a panic.
        .log_internal_errors(false);
    // Only fails when a subscriber is set already.
    let set = if json { logs.json().try_init() } else { logs.try_init() };
    set.ok();
}

/// Installs the recorder behind `/metrics`.
pub fn init_metrics() -> Result<PrometheusHandle, BuildError> {
    PrometheusBuilder::new().install_recorder()
}
