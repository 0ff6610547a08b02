//! What producers say that they sent, and what they were told: one JSON object per line.
//!
//! ```json
//! {"stream":"orders","event_id":"17","outcome":"acked","payload_sha256":"9f86…","key":"c1","producer":"p"}
//! ```
//!
//! `event_id` as `bronze.<stream>._event_id` shows it; `outcome` is `acked`, `rejected` (the server
//! said that it did not take the event) or `unknown` (no answer, or one that leaves it open). An
//! event that was sent again stands there once, with what is known at the end, at the place where it
//! was first sent: lines of one producer and key are in the order of sending. The last three
//! members may be left out; then nothing is said about payloads and order.

use std::{
    io::BufRead,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::domain::{
    ErrorKind,
    identity::{Fingerprint, fingerprint},
};

/// What a producer was told about an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Acked,
    Rejected,
    Unknown,
}

/// An event that a producer sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    pub stream: String,
    pub event_id: String,
    pub outcome: Outcome,
    /// The first half of the payload's SHA-256.
    pub payload: Option<Fingerprint>,
    /// Events with the same value were sent in the order of the history.
    pub order: Option<Fingerprint>,
}

#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    #[error("history {path:?} cannot be read: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("history {path:?}, line {line}: {reason}")]
    Line { path: PathBuf, line: usize, reason: String },
}

impl HistoryError {
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    stream: String,
    event_id: String,
    outcome: Outcome,
    payload_sha256: Option<String>,
    key: Option<String>,
    producer: Option<String>,
}

/// Reads a history; empty lines are passed over.
pub fn read(path: &Path) -> Result<Vec<Sent>, HistoryError> {
    let io = |source| HistoryError::Io { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(io)?;
    let mut sent = Vec::new();
    for (number, line) in (1..).zip(std::io::BufReader::new(file).lines()) {
        let line = line.map_err(io)?;
        if !line.trim().is_empty() {
            sent.push(parse(&line).map_err(|reason| HistoryError::Line {
                path: path.to_owned(),
                line: number,
                reason,
            })?);
        }
    }
    Ok(sent)
}

fn parse(line: &str) -> Result<Sent, String> {
    let line: Line = serde_json::from_str(line).map_err(|e| e.to_string())?;
    let payload = line.payload_sha256.as_deref().map(half_of).transpose()?;
    let order = line.producer.map(|producer| {
        let key = line.key.unwrap_or_default();
        fingerprint(format!("{}\0{producer}\0{key}", line.stream).as_bytes())
    });
    Ok(Sent { stream: line.stream, event_id: line.event_id, outcome: line.outcome, payload, order })
}

fn half_of(digest: &str) -> Result<Fingerprint, String> {
    let wrong = || format!("payload_sha256 {digest:?} is not 64 hexadecimal digits");
    if digest.len() != 64 || !digest.is_ascii() {
        return Err(wrong());
    }
    let mut half = Fingerprint::default();
    for (at, byte) in half.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digest[2 * at..2 * at + 2], 16).map_err(|_| wrong())?;
    }
    Ok(half)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_is_wrong_with_it() {
        let line = |rest: &str| format!(r#"{{"stream":"s","event_id":"1","outcome":{rest}}}"#);
        let sent = parse(&line(r#""acked""#)).expect("line");
        assert_eq!((sent.event_id.as_str(), sent.outcome), ("1", Outcome::Acked));
        assert_eq!((sent.payload, sent.order), (None, None));
        for (rest, wanted) in [
            (
                r#""maybe""#,
                "unknown variant `maybe`, expected one of `acked`, `rejected`, `unknown`",
            ),
            (r#""acked","payload":"x""#, "unknown field `payload`"),
            (r#""acked","payload_sha256":"ab""#, "is not 64 hexadecimal digits"),
        ] {
            let error = parse(&line(rest)).expect_err(rest);
            assert!(error.contains(wanted), "{error}");
        }
    }

    #[test]
    fn order_holds_per_stream_producer_and_key() {
        let order = |stream: &str, producer: &str, key: &str| {
            let line = format!(
                r#"{{"stream":"{stream}","event_id":"1","outcome":"acked","producer":"{producer}","key":"{key}"}}"#
            );
            parse(&line).expect("line").order
        };
        assert_eq!(order("s", "p", "k"), order("s", "p", "k"));
        for other in [order("t", "p", "k"), order("s", "q", "k"), order("s", "p", "l")] {
            assert_ne!(order("s", "p", "k"), other);
        }
    }

    #[test]
    fn the_payload_is_compared_by_half_its_digest() {
        let digest = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
        assert_eq!(half_of(digest), Ok(fingerprint(b"test")));
    }
}
