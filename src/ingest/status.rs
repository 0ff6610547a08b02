//! What a caller is told when a call fails: code, message and details, one function per situation.
//!
//! Every status carries an `ErrorInfo` of the domain [`DOMAIN`]. `RetryInfo` stands exactly where
//! sending the same again can succeed.

use std::{collections::HashMap, time::Duration};

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::{domain::ErrorKind, ingest::proto::EventError, log};

const DOMAIN: &str = "ingest.sluice";
const RETRY_AFTER: Duration = Duration::from_millis(500);
/// Details travel in a response header; clients break at about 8 KB, and base64 takes a third.
const VIOLATION_BYTES_MAX: usize = 4_800;
const VIOLATIONS_MAX: usize = 100;

fn details(reason: &str, metadata: &[(&str, &str)]) -> ErrorDetails {
    let metadata: HashMap<String, String> =
        metadata.iter().map(|(name, value)| ((*name).into(), short(value))).collect();
    ErrorDetails::with_error_info(reason, DOMAIN, metadata)
}

/// Text of a caller is repeated only so far.
fn short(text: &str) -> String {
    text.chars().take(200).collect()
}

pub(super) fn unknown_stream(stream: &str) -> Status {
    let stream = short(stream);
    let message = format!("there is no stream {stream:?}: ListStreams names those there are");
    let mut details = details("UNKNOWN_STREAM", &[("stream", &stream)]);
    details.set_resource_info("stream", stream, "", "not declared under streams/");
    Status::with_error_details(Code::NotFound, message, details)
}

/// A request that is wrong in one field.
pub(super) fn invalid_field(field: &str, message: &str) -> Status {
    let mut details = details("INVALID_REQUEST", &[("field", field)]);
    details.add_bad_request_violation(field, message);
    Status::with_error_details(Code::InvalidArgument, format!("{field}: {message}"), details)
}

/// Messages of a stream that are not what comes next.
pub(super) fn protocol(message: &str) -> Status {
    Status::with_error_details(Code::InvalidArgument, message, details("PROTOCOL", &[]))
}

/// A batch refused whole for what its events are.
pub(super) fn refused_batch(stream: &str, errors: &[EventError], errors_cut: u64) -> Status {
    let mut details = details("BATCH_REFUSED", &[("stream", stream)]);
    let (mut bytes, mut shown) = (0, 0);
    for error in errors.iter().take(VIOLATIONS_MAX) {
        let (field, message) = (violation_field(error), short(&error.message));
        bytes += field.len() + message.len() + 8;
        if bytes > VIOLATION_BYTES_MAX {
            break;
        }
        details.add_bad_request_violation(field, message);
        shown += 1;
    }
    let left = (errors.len() - shown) as u64 + errors_cut;
    let message = refusal(errors, left);
    Status::with_error_details(Code::InvalidArgument, message, details)
}

/// Why a batch was refused, in one sentence; `left` more errors are not listed beside it.
pub(super) fn refusal(errors: &[EventError], left: u64) -> String {
    let first = errors.first().map_or_else(String::new, |error| {
        format!(": {}: {}", violation_field(error), short(&error.message))
    });
    let cut = if left == 0 { String::new() } else { format!(" ({left} errors not listed)") };
    format!("the batch is refused, nothing of it was written{first}{cut}")
}

fn violation_field(error: &EventError) -> String {
    let dot = if error.field.is_empty() { "" } else { "." };
    format!("records[{}]{dot}{}", error.index, error.field)
}

/// More than a limit allows: the caller has to split it.
pub(super) fn oversize(limit_name: &str, found: Option<usize>, limit: usize) -> Status {
    let found = found.map_or_else(|| "more".to_owned(), |found| found.to_string());
    let message = format!("{found} is over {limit_name} ({limit}): split the batch");
    let limit = limit.to_string();
    let mut details = details("REQUEST_TOO_LARGE", &[("limit", limit_name), ("value", &limit)]);
    details.add_quota_failure_violation(limit_name, &message);
    Status::with_error_details(Code::ResourceExhausted, message, details)
}

pub(super) fn overload() -> Status {
    let mut details = details("OVERLOAD", &[]);
    details.set_retry_info(Some(RETRY_AFTER));
    let message = "too much is on its way into the log: send it again a little later";
    Status::with_error_details(Code::Unavailable, message, details)
}

pub(super) fn draining() -> Status {
    let mut details = details("DRAINING", &[]);
    details.set_retry_info(Some(RETRY_AFTER));
    let message = "the server is stopping: connect again";
    Status::with_error_details(Code::Unavailable, message, details)
}

/// The log did not do it. `again` says what to send again.
pub(super) fn append_failed(error: &log::Error, again: &str) -> Status {
    match error {
        log::Error::Closed => draining(),
        log::Error::RecordTooLarge { size, limit } => {
            oversize("the log's record size", Some(*size), *limit)
        }
        log::Error::Unreachable { .. } | log::Error::TopicGone { .. } => {
            let mut details = details("LOG_UNREACHABLE", &[]);
            details.set_retry_info(Some(RETRY_AFTER));
            let message = format!("nothing was written, send {again} again: {error}");
            Status::with_error_details(Code::Unavailable, message, details)
        }
        error if error.kind() == ErrorKind::Unavailable => {
            let mut details = details("OUTCOME_UNKNOWN", &[]);
            details.set_retry_info(Some(RETRY_AFTER));
            let message = format!("the outcome is unknown, send {again} again: {error}");
            Status::with_error_details(Code::Aborted, message, details)
        }
        error => {
            let details = details("LOG_FAILED", &[]);
            Status::with_error_details(Code::Internal, error.to_string(), details)
        }
    }
}

/// Our own defect.
pub(super) fn internal(what: &str) -> Status {
    Status::with_error_details(Code::Internal, what, details("INTERNAL", &[]))
}
