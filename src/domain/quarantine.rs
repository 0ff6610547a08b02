//! What is asked about quarantine, and what is answered: the bodies of the admin API.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::domain::Place;

/// One request decides on so many records at most.
pub const PLACES_MAX: usize = 1_000;
/// Longest reason of a discard, in characters.
pub const REASON_MAX: usize = 1_000;

/// Which records in quarantine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Filter {
    /// Of this stream only.
    pub stream: Option<String>,
    /// Only those that broke this rule.
    pub rule: Option<String>,
}

/// Records in quarantine, in the order of their positions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Listed {
    pub records: Vec<Entry>,
    /// How many there are, also beyond the limit.
    pub total: u64,
}

/// A record in quarantine, on one line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    pub stream: String,
    pub position: Place,
    /// When the log took it, RFC 3339.
    pub arrived_at: String,
    pub rules: Vec<String>,
    pub message: String,
}

/// All about one record that is or was in quarantine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Shown {
    pub stream: String,
    pub position: Place,
    pub topic: String,
    /// When the log took it, RFC 3339.
    pub arrived_at: String,
    /// `open`, `replayed` or `discarded`.
    pub state: String,
    /// Where its event counts, if it does.
    pub accepted_at: Option<Place>,
    /// Why it was discarded, if it was.
    pub reason: Option<String>,
    /// The identity that came with it.
    pub identity: String,
    pub key: Option<String>,
    pub headers: Vec<(String, Option<String>)>,
    pub rules: Vec<String>,
    pub message: String,
    /// Of the contract that it broke.
    pub contract_version: String,
    /// The payload as it came; what is not UTF-8 as `base64:…`.
    pub payload: Option<String>,
    /// The payload as JSON, where it is.
    pub decoded: Option<Value>,
}

/// The places of the records that a filter names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Places {
    pub positions: Vec<Place>,
}

/// Asks for records to be appended to the log again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Replay {
    pub positions: Vec<Place>,
    /// Records that are not in quarantine any more are passed over; else they are an error.
    #[serde(default)]
    pub pass_over: bool,
    /// Only says what would be done.
    #[serde(default)]
    pub dry_run: bool,
}

/// What a replay did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replayed {
    /// Records that were appended, or would be.
    pub replayed: u64,
    /// Of those, records whose event counted already.
    pub repeats: u64,
    /// Records that were passed over.
    pub passed_over: u64,
    /// What still breaks the contract, and was not appended.
    pub broken: Vec<Broken>,
    /// Whether queries see what was appended.
    pub is_visible: bool,
}

/// A record that breaks the contract of today.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Broken {
    pub position: Place,
    pub rules: Vec<String>,
}

/// Asks for records to be taken out of quarantine for good.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Discard {
    pub positions: Vec<Place>,
    pub reason: String,
    /// Records that are not in quarantine any more are passed over; else they are an error.
    #[serde(default)]
    pub pass_over: bool,
}

/// What a discard did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Discarded {
    pub discarded: u64,
    /// Records that had been discarded before; their reason stays.
    pub before: u64,
    /// Records that were passed over.
    pub passed_over: u64,
}
