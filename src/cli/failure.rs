use std::fmt;

use crate::domain::ErrorKind;

/// Why a command did not do its work: one sentence for the user, and the exit code.
#[derive(Debug)]
pub struct Failure {
    kind: ErrorKind,
    message: String,
    exit_code: u8,
}

/// 128 and the number of SIGINT, as shells have it.
const STOPPED: u8 = 130;

impl Failure {
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), exit_code: kind.exit_code() }
    }

    /// Bad usage, project or configuration: exit code 2.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    /// A server, port or folder is missing: exit code 69.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unavailable, message)
    }

    /// The work itself failed: exit code 1.
    pub fn work(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Data, message)
    }

    /// The user stopped it: exit code 130. For a command that has nothing to bring to an end.
    pub fn stopped() -> Self {
        Self { kind: ErrorKind::Unavailable, message: "stopped".to_owned(), exit_code: STOPPED }
    }

    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    pub fn exit_code(&self) -> u8 {
        self.exit_code
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
