use std::{error::Error, fmt};

/// What a caller can do about an error. Every public error type of ours maps to one of these; the
/// edges map it on to a gRPC code, an HTTP status and an exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request or the project is wrong: mend it, do not retry.
    Invalid,
    /// What is named does not exist.
    NotFound,
    /// Somebody else was faster, or the outcome is unknown: look again, then decide.
    Conflict,
    /// A server, port, file or log cannot be reached now: retry later.
    Unavailable,
    /// A limit was reached.
    Exhausted,
    /// Stored data is missing, damaged or not what it was: a person has to look.
    Data,
    /// Our own defect.
    Internal,
}

impl ErrorKind {
    /// Whether the same call may succeed later without a change.
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::Conflict | Self::Unavailable)
    }

    /// The process exit code.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Invalid | Self::NotFound => 2,
            Self::Conflict | Self::Exhausted | Self::Data => 1,
            Self::Unavailable => 69,
            Self::Internal => 70,
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Invalid => "invalid",
            Self::NotFound => "not found",
            Self::Conflict => "conflict",
            Self::Unavailable => "unavailable",
            Self::Exhausted => "exhausted",
            Self::Data => "data",
            Self::Internal => "internal",
        })
    }
}

/// An error with the chain of its causes on one line, without stack traces:
/// `open table: no such file`.
pub fn chain(error: &dyn Error) -> String {
    let mut text = one_line(&error.to_string());
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = one_line(&cause.to_string());
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// What stands before the first frame of a stack trace: some libraries' errors show theirs.
fn one_line(text: &str) -> String {
    let mut lines = text.lines().map(str::trim);
    let first = lines.next().into_iter();
    let lines = first.chain(lines.take_while(|line| !is_trace(line)));
    lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

/// Whether a line is a frame of a stack trace (`12: main`), or says that one follows.
fn is_trace(line: &str) -> bool {
    let frame = line.trim_start_matches(|c: char| c.is_ascii_digit());
    let is_frame = frame.len() < line.len() && frame.starts_with(": ");
    is_frame || line.to_ascii_lowercase().starts_with("backtrace:")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Said(&'static str, #[source] Option<Box<Said>>);

    #[test]
    fn a_chain_is_one_line_that_names_every_cause_once() {
        let cause =
            Said("No space left on device\n   0: write\n             at file.rs:3:4\n", None);
        let repeats = Said("a: No space\nleft on device", Some(Box::new(cause)));
        let error = Said("files could not be written", Some(Box::new(repeats)));
        let expected = "files could not be written: a: No space left on device";
        assert_eq!(chain(&error), expected);
        assert_eq!(chain(&Said("bad\n\nbacktrace:    0: f", None)), "bad");
        assert_eq!(chain(&Said("line 1\n2 of 3", None)), "line 1 2 of 3");
    }
}
