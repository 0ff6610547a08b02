//! A batch becomes log records: each event gets its key and its identity, and what breaks the
//! contract is refused or marked. Pure.
//!
//! Where the contract takes arrays, what is sent as one event may hold several. It is kept or refused
//! as a whole, and every one of them is judged.

use bytes::Bytes;

use crate::{
    domain::{
        array,
        contract::{Contract, EventId, OnError, Validation},
        decode::{Breach, BreachKind, Decoded, Decoder},
        identity::Identity,
    },
    ingest::proto::{EventError, RecordBatch, event_error::Reason},
    log::Record,
};

/// How many errors are listed; the others are counted.
const ERRORS_MAX: usize = 100;
const MESSAGE_CHARS_MAX: usize = 300;
/// Between the values of a key of several columns.
const KEY_SEPARATOR: &str = "|";

/// Who sends a batch: what events without an id of their own are identified by.
#[derive(Debug, Clone)]
pub(super) enum Origin {
    Producer { producer: String, epoch: u32, sequence: i64 },
    Request { idempotency_key: String },
}

/// A batch after the look at its events.
#[derive(Debug, Default)]
pub(super) struct Judged {
    /// What goes into the log, in the order of the batch.
    pub(super) records: Vec<Record>,
    /// Payload bytes of `records`.
    pub(super) bytes: usize,
    pub(super) errors: Vec<EventError>,
    pub(super) errors_cut: u64,
    /// Events among `records` that break the contract.
    pub(super) quarantined: u64,
    /// Events that are not among `records`.
    pub(super) refused: u64,
    /// Nothing may be written, because of `errors`.
    pub(super) is_refused_whole: bool,
}

/// A batch that is wrong as such.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadBatch {
    pub(super) field: &'static str,
    pub(super) message: String,
}

pub(super) fn judge(
    contract: &Contract,
    max_event_bytes: usize,
    origin: &Origin,
    batch: RecordBatch,
) -> Result<Judged, BadBatch> {
    check_arrays(&batch)?;
    check_identity(contract, origin, &batch)?;
    let judge = Judge::new(contract, max_event_bytes, origin, batch.keys, batch.event_ids);
    let mut judged =
        Judged { records: Vec::with_capacity(batch.records.len()), ..Judged::default() };
    for (index, payload) in batch.records.into_iter().enumerate() {
        judge.event(index, payload, &mut judged);
    }
    judged.is_refused_whole = contract.on_error == OnError::RejectBatch && judged.refused > 0;
    Ok(judged)
}

/// Longest event id and idempotency key; each event carries its own in the log.
const ID_BYTES_MAX: usize = 256;

fn check_arrays(batch: &RecordBatch) -> Result<(), BadBatch> {
    let count = batch.records.len();
    let bad = |field, found: usize, allowed: &str| {
        let message = format!("{found} entries for {count} records: {allowed}");
        Err(BadBatch { field, message })
    };
    let (keys, ids) = (batch.keys.len(), batch.event_ids.len());
    if !(keys <= 1 || keys == count) {
        return bad("keys", keys, "give none, one for all, or one each");
    }
    if !(ids == 0 || ids == count) {
        return bad("event_ids", ids, "give none or one each");
    }
    if let Some(index) = batch.event_ids.iter().position(|id| id.len() > ID_BYTES_MAX) {
        let size = batch.event_ids[index].len();
        let message =
            format!("entry {index} is {size} bytes long; at most {ID_BYTES_MAX} are taken");
        return Err(BadBatch { field: "event_ids", message });
    }
    Ok(())
}

fn check_identity(
    contract: &Contract,
    origin: &Origin,
    batch: &RecordBatch,
) -> Result<(), BadBatch> {
    if let Origin::Request { idempotency_key } = origin
        && idempotency_key.len() > ID_BYTES_MAX
    {
        let size = idempotency_key.len();
        let message = format!("{size} bytes long; at most {ID_BYTES_MAX} are taken");
        return Err(BadBatch { field: "idempotency_key", message });
    }
    let has_key =
        !matches!(origin, Origin::Request { idempotency_key } if idempotency_key.is_empty());
    let by_client = contract.event_id == EventId::Client;
    if !by_client || has_key || !batch.event_ids.is_empty() || batch.records.is_empty() {
        return Ok(());
    }
    let message = format!(
        "nothing identifies the events: give `idempotency_key` or `event_ids`, or declare \
         `event_id` in the contract of {:?}",
        contract.name
    );
    Err(BadBatch { field: "idempotency_key", message })
}

struct Judge<'a> {
    contract: &'a Contract,
    decoder: Decoder<'a>,
    max_event_bytes: usize,
    origin: &'a Origin,
    keys: Vec<Bytes>,
    event_ids: Vec<Bytes>,
    must_decode: bool,
}

impl<'a> Judge<'a> {
    fn new(
        contract: &'a Contract,
        max_event_bytes: usize,
        origin: &'a Origin,
        keys: Vec<Bytes>,
        event_ids: Vec<Bytes>,
    ) -> Self {
        let must_decode = contract.validation != Validation::None
            || contract.event_id != EventId::Client
            || !contract.key.is_empty();
        let decoder = Decoder::new(contract);
        Self { contract, decoder, max_event_bytes, origin, keys, event_ids, must_decode }
    }

    fn event(&self, index: usize, payload: Bytes, judged: &mut Judged) {
        // Before anything reads it.
        if payload.len() > self.max_event_bytes {
            return refuse(judged, self.too_large(index, payload.len()));
        }
        let decoded = self.decoded(&payload);
        let key = self.key(index, &decoded);
        let size = payload.len() + key.as_ref().map_or(0, Bytes::len);
        if size > self.max_event_bytes {
            return refuse(judged, self.too_large(index, size));
        }
        let identity = match self.identity(index, &payload, &decoded) {
            Ok(identity) => identity,
            Err(message) => {
                return refuse(judged, error(index, Reason::NoIdentity, "", message.into()));
            }
        };
        let breaches = self.counting(decoded);
        if !breaches.is_empty() {
            let is_kept = self.contract.on_error == OnError::Quarantine;
            for breach in breaches {
                push_error(judged, breach_error(index, breach, is_kept));
            }
            if !is_kept {
                judged.refused += 1;
                return;
            }
            judged.quarantined += 1;
        }
        judged.bytes += payload.len();
        judged.records.push(Record { key, identity, headers: Vec::new(), payload });
    }

    /// What the payload holds, as far as anybody asks: one event, or those of an array.
    fn decoded<'b>(&self, payload: &'b [u8]) -> Vec<Decoded<'b>> {
        if !self.must_decode {
            return Vec::new();
        }
        let events = self.contract.takes_arrays.then(|| array::events(payload).ok().flatten());
        let events = events.flatten().unwrap_or_else(|| vec![payload]);
        events.into_iter().map(|event| self.decoder.decode(event)).collect()
    }

    /// The breaches that count at the contract's level of validation. Of several events, each says
    /// which one it is of.
    fn counting(&self, decoded: Vec<Decoded<'_>>) -> Vec<Breach> {
        let is_one = decoded.len() == 1;
        let counts = |breach: &Breach| match self.contract.validation {
            Validation::None => false,
            Validation::Wire => breach.kind == BreachKind::Malformed,
            Validation::Schema => true,
        };
        let of_all = decoded.into_iter().enumerate().flat_map(|(number, decoded)| {
            decoded.breaches.into_iter().filter(counts).map(move |breach| match is_one {
                true => breach,
                false => {
                    let message = format!("event {number} of the record: {}", breach.message);
                    Breach { message, ..breach }
                }
            })
        });
        of_all.collect()
    }

    /// The key that the client gave, else that of the event; of several the one that all have.
    fn key(&self, index: usize, decoded: &[Decoded<'_>]) -> Option<Bytes> {
        let given = if self.keys.len() == 1 { self.keys.first() } else { self.keys.get(index) };
        if let Some(given) = given.filter(|key| !key.is_empty()) {
            return Some(given.clone());
        }
        let (first, others) = decoded.split_first()?;
        let key = self.key_of(first)?;
        let is_of_all = others.iter().all(|other| self.key_of(other).as_ref() == Some(&key));
        is_of_all.then(|| Bytes::from(key))
    }

    /// The values of the contract's key columns, joined.
    fn key_of(&self, decoded: &Decoded<'_>) -> Option<String> {
        let columns = self.contract.key.iter();
        let values: Vec<_> = columns.map(|c| self.decoder.column_text(c, decoded)).collect();
        let has_one = values.iter().any(Option::is_some);
        let values: Vec<String> = values.into_iter().map(Option::unwrap_or_default).collect();
        has_one.then(|| values.join(KEY_SEPARATOR))
    }

    /// That of the event, or of a record of several.
    fn identity(
        &self,
        index: usize,
        payload: &[u8],
        decoded: &[Decoded<'_>],
    ) -> Result<Identity, &'static str> {
        let decoded = if let [one] = decoded { Some(one) } else { None };
        let content = || {
            let known = decoded.and_then(|decoded| decoded.content);
            Identity::Content(known.unwrap_or_else(|| self.decoder.content(payload)))
        };
        match self.contract.event_id {
            EventId::Content => return Ok(content()),
            EventId::Columns(_) => {
                let id = decoded.and_then(|decoded| self.decoder.given_id(decoded));
                return Ok(id.map_or_else(content, Identity::Given));
            }
            EventId::Client => {}
        }
        if let Some(given) = self.event_ids.get(index).filter(|id| !id.is_empty()) {
            let id = std::str::from_utf8(given).map_err(|_| "its event id is not UTF-8")?;
            return Ok(Identity::Given(id.to_owned()));
        }
        let index = u32::try_from(index).map_err(|_| "its index is over 32 bits")?;
        match self.origin.clone() {
            Origin::Producer { producer, epoch, sequence } => {
                Ok(Identity::Producer { producer, epoch, sequence, index })
            }
            Origin::Request { idempotency_key } if idempotency_key.is_empty() => {
                Err("its event id is empty and the call has no idempotency key")
            }
            Origin::Request { idempotency_key } => Ok(Identity::Request { idempotency_key, index }),
        }
    }

    fn too_large(&self, index: usize, size: usize) -> EventError {
        let limit = self.max_event_bytes;
        let message = format!("{size} bytes of payload and key are over the limit of {limit}");
        error(index, Reason::EventTooLarge, "", message)
    }
}

fn refuse(judged: &mut Judged, error: EventError) {
    judged.refused += 1;
    push_error(judged, error);
}

fn push_error(judged: &mut Judged, error: EventError) {
    if judged.errors.len() < ERRORS_MAX {
        judged.errors.push(error);
    } else {
        judged.errors_cut += 1;
    }
}

fn error(index: usize, reason: Reason, field: &str, message: String) -> EventError {
    EventError {
        index: u32::try_from(index).unwrap_or(u32::MAX),
        reason: reason.into(),
        field: field.to_owned(),
        message,
        quarantined: false,
        rule: String::new(),
    }
}

fn breach_error(index: usize, breach: Breach, quarantined: bool) -> EventError {
    let reason = match breach.kind {
        BreachKind::Malformed => Reason::Malformed,
        BreachKind::MissingField => Reason::MissingField,
        BreachKind::WrongType => Reason::WrongType,
        BreachKind::NotAccepted | BreachKind::Rule => Reason::NotAccepted,
        BreachKind::OutOfRange => Reason::OutOfRange,
    };
    let message = match breach.message.char_indices().nth(MESSAGE_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &breach.message[..end]),
        None => breach.message,
    };
    EventError { quarantined, rule: breach.rule, ..error(index, reason, &breach.field, message) }
}
