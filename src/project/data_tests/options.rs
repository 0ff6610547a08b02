//! How a data test is judged: its severity, thresholds, and which rows count.

use serde::Serialize;
use serde_yaml_ng::Value;

use crate::project::config::{shown, tags};

/// What a failed data test means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// It is told.
    Warn,
    /// A bounded run fails.
    #[default]
    Error,
    /// The rows that fail are left out of the model, and kept to be looked at.
    Quarantine,
    /// The rows that fail are left out of the model.
    Drop,
}

impl Severity {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Warn => "warn",
            Self::Error => "error",
            Self::Quarantine => "quarantine",
            Self::Drop => "drop",
        }
    }
}

/// Options of data tests.
pub(in crate::project) const OPTIONS: [&str; 8] = [
    "severity",
    "where",
    "limit",
    "fail_calc",
    "warn_if",
    "error_if",
    "store_failures",
    "store_failures_as",
];

/// Options of one data test, each where it is given.
#[derive(Debug, Clone, Default)]
pub(in crate::project) struct TestOptions {
    pub severity: Option<Severity>,
    /// The rows of the tested relation that count, as SQL.
    pub filter: Option<String>,
    /// At most so many rows that fail are looked for.
    pub limit: Option<u64>,
    /// What is made of the rows that fail: an aggregate.
    pub fail_calc: Option<String>,
    /// Comparisons with that, such as `> 10`.
    pub warn_if: Option<String>,
    pub error_if: Option<String>,
    /// Whether the rows that fail can be queried.
    pub shows_failures: Option<bool>,
    pub is_enabled: Option<bool>,
    pub tags: Vec<String>,
}

impl TestOptions {
    /// Takes one option; whether there is one of that name. An error has its hint behind U+0001.
    pub(in crate::project) fn take(&mut self, key: &str, value: &Value) -> Result<bool, String> {
        let wrong = |what: &str| format!("{key} is {what}, not {}\u{1}", shown(value));
        let text = || match value {
            Value::Null => Ok(None),
            Value::String(text) => Ok(Some(text.clone())),
            Value::Number(number) => Ok(Some(number.to_string())),
            _ => Err(wrong("a text")),
        };
        let flag = || value.as_bool().ok_or_else(|| wrong("true or false"));
        match key {
            "severity" => self.severity = Some(severity(value)?),
            "where" => self.filter = text()?,
            "limit" if value.is_null() => self.limit = None,
            "limit" => self.limit = Some(value.as_u64().ok_or_else(|| wrong("a number of rows"))?),
            "fail_calc" => self.fail_calc = text()?,
            "warn_if" => self.warn_if = text()?,
            "error_if" => self.error_if = text()?,
            "store_failures" if value.is_null() => self.shows_failures = None,
            "store_failures" => self.shows_failures = Some(flag()?),
            "store_failures_as" => match value.as_str() {
                Some("view" | "table") => self.shows_failures = Some(true),
                Some("ephemeral") => self.shows_failures = Some(false),
                _ => return Err(wrong("view, table or ephemeral")),
            },
            "enabled" => self.is_enabled = Some(flag()?),
            "tags" => self.tags.extend(tags(value)?),
            // They say something to people or to other tools.
            "meta" | "description" | "database" | "schema" | "alias" | "group" | "sql_header" => {}
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// These options, over those of `base` where both are given. Tags add up.
    pub(in crate::project) fn over(self, base: &Self) -> Self {
        let mut tags = base.tags.clone();
        tags.extend(self.tags);
        Self {
            severity: self.severity.or(base.severity),
            filter: self.filter.or_else(|| base.filter.clone()),
            limit: self.limit.or(base.limit),
            fail_calc: self.fail_calc.or_else(|| base.fail_calc.clone()),
            warn_if: self.warn_if.or_else(|| base.warn_if.clone()),
            error_if: self.error_if.or_else(|| base.error_if.clone()),
            shows_failures: self.shows_failures.or(base.shows_failures),
            is_enabled: self.is_enabled.or(base.is_enabled),
            tags,
        }
    }
}

fn severity(value: &Value) -> Result<Severity, String> {
    let given = value.as_str().map(str::to_lowercase);
    match given.as_deref() {
        Some("warn") => Ok(Severity::Warn),
        Some("error" | "fail") => Ok(Severity::Error),
        Some("quarantine") => Ok(Severity::Quarantine),
        Some("drop") => Ok(Severity::Drop),
        _ => {
            let hint = "use 'warn', 'error' (also written 'fail'), 'quarantine' or 'drop'";
            Err(format!("severity {} is not known\u{1}{hint}", shown(value)))
        }
    }
}
