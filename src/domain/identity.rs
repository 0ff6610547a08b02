//! What makes two events the same event.

use std::fmt;

use sha2::{Digest as _, Sha256};

use crate::domain::ErrorKind;

/// The identity of an event. Every event has exactly one; equal identities are one event, however
/// often it was sent. It travels with the record in one binary header (see [`Identity::encode`]).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Identity {
    /// The value of the contract's id column, or the id that the client gave.
    Given(String),
    /// A hash of the content, see [`crate::domain::content`].
    Content(Fingerprint),
    /// The place in a producer's sequence.
    Producer { producer: String, epoch: u32, sequence: i64, index: u32 },
    /// The place in an idempotent unary call.
    Request { idempotency_key: String, index: u32 },
    /// The place in the log, of a record that something else wrote.
    Record { topic: String, partition: u32, offset: i64 },
    /// The place in a record that holds several events, of one that is not the first: that has the
    /// identity of the record.
    Element { record: Box<Identity>, index: u32 },
}

/// 128 bits of SHA-256: enough that two different inputs never meet by accident or by intent.
pub type Fingerprint = [u8; 16];

/// Why a header is not an identity.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the identity header is damaged: {0}")]
pub struct DecodeError(&'static str);

impl DecodeError {
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Data
    }
}

/// First byte of the header. Persisted in the log: must stay stable.
const VERSION: u8 = 1;
const GIVEN: u8 = 1;
const CONTENT: u8 = 2;
const PRODUCER: u8 = 3;
const REQUEST: u8 = 4;
const RECORD: u8 = 5;
const ELEMENT: u8 = 6;

impl Identity {
    /// The header form: version, kind, then the fields; numbers big-endian, text last and
    /// undelimited. Persisted: must stay stable.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(48);
        out.push(VERSION);
        match self {
            Self::Given(id) => {
                out.push(GIVEN);
                out.extend_from_slice(id.as_bytes());
            }
            Self::Content(hash) => {
                out.push(CONTENT);
                out.extend_from_slice(hash);
            }
            Self::Producer { producer, epoch, sequence, index } => {
                out.push(PRODUCER);
                out.extend_from_slice(&epoch.to_be_bytes());
                out.extend_from_slice(&sequence.to_be_bytes());
                out.extend_from_slice(&index.to_be_bytes());
                out.extend_from_slice(producer.as_bytes());
            }
            Self::Request { idempotency_key, index } => {
                out.push(REQUEST);
                out.extend_from_slice(&index.to_be_bytes());
                out.extend_from_slice(idempotency_key.as_bytes());
            }
            Self::Record { topic, partition, offset } => {
                out.push(RECORD);
                out.extend_from_slice(&partition.to_be_bytes());
                out.extend_from_slice(&offset.to_be_bytes());
                out.extend_from_slice(topic.as_bytes());
            }
            Self::Element { record, index } => {
                out.push(ELEMENT);
                out.extend_from_slice(&index.to_be_bytes());
                out.extend_from_slice(&record.encode());
            }
        }
        out
    }

    /// The identity of the event at `index` in a record of this identity.
    pub fn at(&self, index: u32) -> Self {
        match self {
            whole if index == 0 => whole.clone(),
            // Nobody of ours sends such a record.
            Self::Element { .. } => {
                let bytes = [self.encode().as_slice(), &index.to_be_bytes()].concat();
                Self::Content(fingerprint(&bytes))
            }
            record => Self::Element { record: Box::new(record.clone()), index },
        }
    }

    /// Reads what [`Identity::encode`] wrote.
    pub fn decode(header: &[u8]) -> Result<Self, DecodeError> {
        let [version, kind, rest @ ..] = header else {
            return Err(DecodeError("shorter than two bytes"));
        };
        if *version != VERSION {
            return Err(DecodeError("unknown version"));
        }
        match *kind {
            GIVEN => Ok(Self::Given(text(rest)?)),
            CONTENT => {
                let hash = rest.try_into().map_err(|_| DecodeError("hash is not 16 bytes"))?;
                Ok(Self::Content(hash))
            }
            PRODUCER => {
                let (epoch, rest) = number(rest)?;
                let (sequence, rest) = number(rest)?;
                let (index, rest) = number(rest)?;
                Ok(Self::Producer {
                    producer: text(rest)?,
                    epoch: u32::from_be_bytes(epoch),
                    sequence: i64::from_be_bytes(sequence),
                    index: u32::from_be_bytes(index),
                })
            }
            REQUEST => {
                let (index, rest) = number(rest)?;
                Ok(Self::Request { idempotency_key: text(rest)?, index: u32::from_be_bytes(index) })
            }
            RECORD => {
                let (partition, rest) = number(rest)?;
                let (offset, rest) = number(rest)?;
                Ok(Self::Record {
                    topic: text(rest)?,
                    partition: u32::from_be_bytes(partition),
                    offset: i64::from_be_bytes(offset),
                })
            }
            // No deeper, whoever wrote the header.
            ELEMENT if rest.get(5) != Some(&ELEMENT) => {
                let (index, rest) = number(rest)?;
                let record = Box::new(Self::decode(rest)?);
                Ok(Self::Element { record, index: u32::from_be_bytes(index) })
            }
            _ => Err(DecodeError("unknown kind")),
        }
    }

    /// What identities are compared by.
    pub fn fingerprint(&self) -> Fingerprint {
        match self {
            Self::Content(hash) => *hash,
            // As encoded, without the detour.
            Self::Given(id) => cut(Sha256::new().chain_update([VERSION, GIVEN]).chain_update(id)),
            other => fingerprint(&other.encode()),
        }
    }
}

/// The text form, as in `_event_id`: a given id as it is, the others with their kind in front.
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Given(id) => f.write_str(id),
            Self::Content(hash) => {
                f.write_str("content:")?;
                hash.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
            Self::Producer { producer, epoch, sequence, index } => {
                write!(f, "producer:{producer}/{epoch}/{sequence}/{index}")
            }
            Self::Request { idempotency_key, index } => {
                write!(f, "request:{idempotency_key}/{index}")
            }
            Self::Record { topic, partition, offset } => {
                write!(f, "record:{topic}/{partition}/{offset}")
            }
            Self::Element { record, index } => write!(f, "element:{index}/{record}"),
        }
    }
}

/// The first 128 bits of SHA-256 of `bytes`.
pub fn fingerprint(bytes: &[u8]) -> Fingerprint {
    cut(Sha256::new().chain_update(bytes))
}

fn cut(hash: Sha256) -> Fingerprint {
    let mut out = Fingerprint::default();
    out.copy_from_slice(&hash.finalize()[..16]);
    out
}

fn number<const N: usize>(bytes: &[u8]) -> Result<([u8; N], &[u8]), DecodeError> {
    let (head, rest) = bytes.split_first_chunk::<N>().ok_or(DecodeError("cut short"))?;
    Ok((*head, rest))
}

fn text(bytes: &[u8]) -> Result<String, DecodeError> {
    let text = std::str::from_utf8(bytes).map_err(|_| DecodeError("text is not UTF-8"))?;
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_survives_the_header() {
        for identity in [
            Identity::Given("a-1".into()),
            Identity::Content([7; 16]),
            Identity::Producer { producer: "p".into(), epoch: 2, sequence: 9, index: 4 },
            Identity::Request { idempotency_key: "k".into(), index: 1 },
            Identity::Record { topic: "t".into(), partition: 3, offset: 1 << 40 },
            Identity::Given("a-1".into()).at(7),
        ] {
            assert_eq!(Identity::decode(&identity.encode()), Ok(identity));
        }
    }

    #[test]
    fn fingerprints_are_those_of_the_header_form() {
        let given = Identity::Given("a-1".into());
        assert_eq!(given.fingerprint(), fingerprint(&given.encode()));
        let hex: String = given.fingerprint().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "503b9f5466293d318b1c421e42303508", "persisted, so it must stay");
        let request = Identity::Request { idempotency_key: "k".into(), index: 1 };
        assert_eq!(request.fingerprint(), fingerprint(&request.encode()));
    }

    #[test]
    fn every_event_of_a_record_has_an_identity_of_its_own() {
        let record = Identity::Given("a-1".into());
        assert_eq!(record.at(0), record);
        assert_eq!(record.at(2).to_string(), "element:2/a-1");
        let element = record.at(2);
        let all = [record.at(0), record.at(1), element.at(0), element.at(1), element.at(2)];
        let told: std::collections::HashSet<_> = all.iter().map(Identity::fingerprint).collect();
        assert_eq!(told.len(), all.len());
        for identity in all {
            assert_eq!(Identity::decode(&identity.encode()), Ok(identity));
        }
        // As deep as somebody likes to write it.
        let deep = [1, 6, 0, 0, 0, 1].repeat(100_000);
        assert!(Identity::decode(&deep).is_err());
    }

    #[test]
    fn a_damaged_header_is_an_error() {
        for header in [&[][..], &[1], &[9, 1, 65], &[1, 2, 0], &[1, 3, 0, 0], &[1, 1, 0xff]] {
            assert!(Identity::decode(header).is_err(), "{header:?}");
        }
    }
}
