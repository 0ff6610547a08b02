//! Why sending ended, and which answers are worth another try.

use std::{error::Error, time::Duration};

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::domain::ErrorKind;

/// Why sending ended before everything was settled.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The server could not be reached, or did not acknowledge anything, for as long as asked.
    #[error("{url} did not answer for {seconds} s: {reason}")]
    Lost { url: String, seconds: u64, reason: String },
    /// The server refuses, and will again.
    #[error("{url} refused: {message} ({code:?})")]
    Refused { url: String, code: Code, message: String },
    #[error("the sender is closed")]
    Closed,
    #[error("sending failed: {0}")]
    Failed(String),
}

impl SendError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Lost { .. } => ErrorKind::Unavailable,
            Self::Refused { code, .. } => kind_of(*code),
            Self::Closed | Self::Failed(_) => ErrorKind::Internal,
        }
    }
}

/// What a caller can do about a code.
pub fn kind_of(code: Code) -> ErrorKind {
    match code {
        Code::NotFound => ErrorKind::NotFound,
        Code::InvalidArgument
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unauthenticated
        | Code::PermissionDenied => ErrorKind::Invalid,
        Code::ResourceExhausted => ErrorKind::Exhausted,
        Code::Unavailable | Code::Unimplemented | Code::DeadlineExceeded => ErrorKind::Unavailable,
        _ => ErrorKind::Data,
    }
}

/// Why a connection ended.
#[derive(Debug)]
pub(super) enum Fault {
    /// Worth another try, after the time that the server names.
    Retry { reason: String, after: Option<Duration> },
    /// Not worth one.
    Final { code: Code, message: String },
}

impl Fault {
    pub(super) fn retry(reason: impl Into<String>) -> Self {
        Self::Retry { reason: reason.into(), after: None }
    }
}

impl From<Status> for Fault {
    fn from(status: Status) -> Self {
        let after = status.get_details_retry_info().and_then(|info| info.retry_delay);
        // A status with a cause was made here, of a broken connection, not sent by the server.
        let broken = status.source().is_some();
        let retry = broken
            || match status.code() {
                Code::Unavailable | Code::Aborted | Code::DeadlineExceeded => true,
                Code::ResourceExhausted => after.is_some(),
                _ => false,
            };
        if retry {
            return Self::Retry { reason: describe(&status), after };
        }
        Self::Final { code: status.code(), message: status.message().to_owned() }
    }
}

/// The message of a status, with the root of a broken connection.
pub fn describe(status: &Status) -> String {
    let mut text = status.message().to_owned();
    if let Some(root) = status.source().map(root_of).filter(|root| !text.contains(root)) {
        text = if text.is_empty() { root } else { format!("{text}: {root}") };
    }
    if text.is_empty() { format!("{:?}", status.code()) } else { text }
}

/// What lies at the bottom of an error: of a connection that failed, the reason.
pub(super) fn root_of(error: &(dyn Error + 'static)) -> String {
    let mut root = error;
    while let Some(cause) = root.source() {
        root = cause;
    }
    root.to_string()
}
