//! What tests of a project found.

use serde::{Deserialize, Serialize};

/// Which tests are wanted, in dbt's selection syntax; all where nothing is selected.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Wanted {
    pub select: Vec<String>,
    pub exclude: Vec<String>,
}

/// How a test ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Pass,
    Warn,
    Fail,
    /// It could not be run.
    Error,
}

impl Status {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Warn => "warn",
            Self::Fail => "fail",
            Self::Error => "error",
        }
    }

    /// Whether a bounded run fails by it.
    pub fn is_failure(self) -> bool {
        matches!(self, Self::Fail | Self::Error)
    }
}

/// A test that was run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ran {
    pub name: String,
    /// The generic test, `singular` or `unit`.
    pub test: String,
    /// The relation that it is about.
    pub table: Option<String>,
    pub column: Option<String>,
    pub severity: String,
    pub status: Status,
    /// What it found: rows that fail, or what its `fail_calc` makes of them.
    pub failures: Option<i64>,
    pub message: String,
    /// Microseconds since 1970-01-01 UTC.
    pub ran_at_us: i64,
    pub took_ms: u64,
}
