use std::fmt;

use serde::Serialize;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    Ok,
    /// It works, but not as well or as safely as it should.
    Warn,
    /// A server would not start, or could lose data.
    Fail,
}

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) level: Level,
    pub(super) name: String,
    pub(super) found: String,
    /// How to mend it, where it is not fine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) mend: Option<String>,
}

impl Finding {
    pub(super) fn ok(name: &str, found: impl Into<String>) -> Self {
        Self { level: Level::Ok, name: name.to_owned(), found: found.into(), mend: None }
    }

    pub(super) fn warn(name: &str, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { level: Level::Warn, mend: Some(mend.into()), ..Self::ok(name, found) }
    }

    pub(super) fn fail(name: &str, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { level: Level::Fail, ..Self::warn(name, found, mend) }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Ok => "ok",
            Level::Warn => "warn",
            Level::Fail => "fail",
        };
        write!(f, "{level:<5} {:<16} {}", self.name, self.found)?;
        match &self.mend {
            Some(mend) => write!(f, "\n{:<22} to mend it: {mend}", ""),
            None => Ok(()),
        }
    }
}

/// A size as people read it.
pub(super) fn bytes(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    #[allow(clippy::cast_precision_loss, reason = "shown with one digit")]
    let mut size = bytes as f64 / 1024.0;
    let mut unit = 0;
    while size >= 1024.0 && unit + 1 < units.len() {
        size /= 1024.0;
        unit += 1;
    }
    format!("{size:.1} {}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_a_line_and_how_to_mend_it_another() {
        assert_eq!(Finding::ok("log", "fine").to_string(), "ok    log              fine");
        let warning = Finding::warn("open files", "few", "allow more").to_string();
        let expected = "warn  open files       few\n                       to mend it: allow more";
        assert_eq!(warning, expected);
        let json = serde_json::json!(Finding::fail("lake", "gone", "look"));
        assert_eq!(
            json.to_string(),
            r#"{"found":"gone","level":"fail","mend":"look","name":"lake"}"#
        );
    }

    #[test]
    fn sizes_are_readable() {
        let shown = [0, 1_536, 5 << 20, 10 << 30, 3 << 50].map(bytes);
        assert_eq!(shown, ["0.0 KiB", "1.5 KiB", "5.0 MiB", "10.0 GiB", "3072.0 TiB"]);
    }
}
