//! Data tests, run: over what can be queried at one instant, again when what they read has moved.

mod results;
mod run;
mod schedule;
mod testing;
mod unit;

use serde::{Deserialize, Serialize};

pub use results::Results;
pub use run::Runner;
pub use testing::Testing;

use crate::{
    domain::tested::{Ran, Status},
    models::TestPlan,
    project::Severity,
};

/// How tests are run beside the data.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Data tests whose input moved are run again this often, in milliseconds; 0: only when asked.
    pub interval_ms: u64,
    /// Percentage of the time that running them may take.
    pub percent: u32,
    /// Memory that one test may take, in bytes; what needs more goes to disk where it can.
    pub memory_bytes_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { interval_ms: 10_000, percent: 10, memory_bytes_max: 1024 * 1024 * 1024 }
    }
}

/// A test that is about to be run: nothing is found yet.
fn about_to_run(plan: &TestPlan, ran_at_us: i64) -> Ran {
    let test = &plan.test;
    Ran {
        name: test.name.clone(),
        test: test.kind.clone(),
        table: test.about.as_ref().map(ToString::to_string),
        column: test.column.clone(),
        severity: test.severity.as_str().to_owned(),
        status: Status::Pass,
        failures: None,
        message: String::new(),
        ran_at_us,
        took_ms: 0,
    }
}

/// How failures weigh by their severity.
fn weighed(severity: Severity, warns: bool, errs: bool) -> Status {
    match (severity, warns, errs) {
        (Severity::Error | Severity::Quarantine | Severity::Drop, _, true) => Status::Fail,
        (Severity::Warn, true, _) | (_, true, false) => Status::Warn,
        _ => Status::Pass,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_threshold_counts_for_tests_that_may_fail_only() {
        let cases = [
            (Severity::Error, true, true, Status::Fail),
            (Severity::Error, true, false, Status::Warn),
            (Severity::Error, false, true, Status::Fail),
            (Severity::Error, false, false, Status::Pass),
            (Severity::Warn, true, true, Status::Warn),
            (Severity::Warn, false, true, Status::Pass),
        ];
        for (severity, warns, errs, status) in cases {
            assert_eq!(weighed(severity, warns, errs), status, "{severity:?} {warns} {errs}");
        }
    }
}
