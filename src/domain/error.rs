use std::fmt;

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
