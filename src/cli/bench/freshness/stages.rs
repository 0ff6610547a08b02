//! The stages of an event's way, as the server's metrics tell them.

use std::fmt::Write as _;

/// What is shown, and where it stands in `/metrics`: the metric, and its label if it has one.
const STAGES: [(&str, &str, &str); 9] = [
    ("gateway: received → durable in the log", "sluice_ingest_batch_seconds", ""),
    ("log: durable → read, oldest record", "sluice_process_stage_seconds", "stage=\"log\""),
    ("Bronze, acceptance, append models", "sluice_process_stage_seconds", "stage=\"rows\""),
    ("models kept by changes", "sluice_process_stage_seconds", "stage=\"models\""),
    ("lookups' sides, models by key", "sluice_process_stage_seconds", "stage=\"looks\""),
    ("made visible", "sluice_process_stage_seconds", "stage=\"visible\""),
    ("query, from its turn on", "sluice_serve_query_seconds", "status=\"ok\""),
    ("recomputed tables, beside it", "sluice_process_recompute_seconds", ""),
    ("seal: commits of all tables", "sluice_process_commit_seconds", ""),
];

/// One stage, in seconds.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Stage {
    name: &'static str,
    p50: f64,
    p99: f64,
    /// Of all times.
    sum: f64,
    count: f64,
}

/// The stages that occurred.
pub(super) fn read(metrics: &str) -> Vec<Stage> {
    let of = |(name, metric, label): (&'static str, &str, &str)| {
        let quantile = |quantile: &str| {
            let comma = if label.is_empty() { "" } else { "," };
            value(metrics, &format!("{metric}{{{label}{comma}quantile=\"{quantile}\"}}"))
        };
        let total = |what: &str| match label.is_empty() {
            true => value(metrics, &format!("{metric}_{what}")),
            false => value(metrics, &format!("{metric}_{what}{{{label}}}")),
        };
        let (sum, count) = (total("sum")?, total("count")?);
        Some(Stage { name, p50: quantile("0.5")?, p99: quantile("0.99")?, sum, count })
    };
    STAGES.into_iter().filter_map(of).filter(|stage| stage.count > 0.0).collect()
}

/// What stands behind `key`.
fn value(metrics: &str, key: &str) -> Option<f64> {
    let line = metrics.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))?;
    line.trim().parse().ok()
}

/// A table of them.
pub(super) fn text(stages: &[Stage]) -> String {
    if stages.is_empty() {
        return "times of the stages: the server told none".to_owned();
    }
    let mut text = format!(
        "{:<40} {:>9} {:>9} {:>9} {:>8}\n",
        "stage, last minute", "p50 ms", "p99 ms", "mean ms", "times"
    );
    for Stage { name, p50, p99, sum, count } in stages {
        let [p50, p99, mean] = [*p50, *p99, sum / count].map(|seconds| seconds * 1e3);
        // Writing to a string cannot fail.
        writeln!(text, "{name:<40} {p50:>9.2} {p99:>9.2} {mean:>9.2} {count:>8}").ok();
    }
    text.truncate(text.trim_end().len());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_are_found_among_other_metrics() {
        let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
        metrics::with_local_recorder(&recorder, || {
            for (_, metric, label) in STAGES {
                let labels = label.split_once('=').map(|(name, value)| {
                    metrics::Label::new(name.to_owned(), value.trim_matches('"').to_owned())
                });
                let key = metrics::Key::from_parts(metric, labels.into_iter().collect::<Vec<_>>());
                let metadata =
                    metrics::Metadata::new("test", metrics::Level::INFO, Some(module_path!()));
                metrics::with_recorder(|recorder| {
                    let histogram = recorder.register_histogram(&key, &metadata);
                    (0..4).for_each(|_| histogram.record(0.25));
                });
            }
        });
        let found = read(&recorder.handle().render());
        assert_eq!(found.len(), STAGES.len(), "{found:?}");
        for stage in &found {
            assert!((stage.p50 - 0.25).abs() < 0.01 && (stage.p99 - 0.25).abs() < 0.01);
            assert!((stage.sum - 1.0).abs() < 1e-9 && (stage.count - 4.0).abs() < 1e-9);
        }
        let lines: Vec<String> = text(&found).lines().map(str::to_owned).collect();
        assert_eq!(lines.len(), STAGES.len() + 1);
        assert!(lines[1].ends_with("250.00        4"), "{lines:?}");
        assert_eq!(text(&read("")), "times of the stages: the server told none");
    }
}
