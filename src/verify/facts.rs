//! What a lake holds, as plain data: all that [`super::check`] looks at.

use std::collections::BTreeMap;

use crate::{
    bronze::Verdict,
    domain::{Offset, Partition, Place, TableName, identity::Fingerprint},
    lake::{AuditedFile, AuditedVersion},
};

/// How far a table reaches into a stream: per partition the last offset included.
pub(super) type Reach = BTreeMap<Partition, Offset>;

/// Whether `place` lies within `reach`.
pub(super) fn is_within(place: Place, reach: &Reach) -> bool {
    reach.get(&place.partition).is_some_and(|last| place.offset <= *last)
}

/// A row of Bronze.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub place: Place,
    /// Microseconds since 1970.
    pub ts: i64,
    /// Of the text in `_event_id`.
    pub event_id: Fingerprint,
    /// What repeats are told by, as it came with the record.
    pub identity: Option<Fingerprint>,
    /// The first half of the payload's SHA-256; `None` for a null payload.
    pub payload: Option<Fingerprint>,
}

/// A row of the acceptance table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    pub place: Place,
    /// Of the text in `_event_id`.
    pub event_id: Fingerprint,
    /// What repeats are told by.
    pub identity: Fingerprint,
    pub verdict: Verdict,
    /// The quarantined record that is resolved by it.
    pub origin: Option<Place>,
}

/// A stream, from its records to what was decided about each.
#[derive(Debug, Clone, Default)]
pub struct StreamFacts {
    pub name: String,
    pub records: Vec<Record>,
    pub bronze: Reach,
    pub decisions: Vec<Decided>,
    pub acceptance: Reach,
    /// The rows in quarantine: their places, and of what they hold the first half of its SHA-256.
    pub quarantined: Vec<(Place, Option<Fingerprint>)>,
    pub quarantine: Reach,
}

/// What a table holds beside what its SQL over its inputs gives.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Difference {
    pub rows: u64,
    /// Rows that the SQL gives and the table lacks.
    pub missing: u64,
    /// Rows of the table that the SQL does not give.
    pub surplus: u64,
    /// Some of them, with a sign.
    pub samples: Vec<String>,
}

/// Why a table's content was not compared, or how it differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Nothing to compare with: the beginning of a chain, or one that a stream's facts cover.
    Given,
    Compared(Difference),
    /// It belongs to another definition of its model, or could not be computed.
    NotCompared(String),
}

/// How far a table says that it was built into one of its inputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// The table, or the stream and partition.
    pub input: String,
    /// Version or offset.
    pub at: i64,
    /// How far the input itself reaches; `None`: nowhere.
    pub newest: Option<i64>,
}

/// A stored table.
#[derive(Debug, Clone)]
pub struct TableFacts {
    pub name: TableName,
    pub reads: Vec<Read>,
    pub versions: Vec<AuditedVersion>,
    pub files: Vec<AuditedFile>,
    pub content: Content,
}

/// What of a table cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Log,
    Rows,
}

/// A table that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread {
    pub table: TableName,
    pub part: Part,
    pub reason: String,
}

/// The whole lake.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    pub streams: Vec<StreamFacts>,
    /// Without those whose log cannot be read.
    pub tables: Vec<TableFacts>,
    pub unread: Vec<Unread>,
    /// Tables of the project that a lake with other tables does not have.
    pub missing: Vec<TableName>,
    /// Streams of which a table cannot be read: (stream, table).
    pub unread_streams: Vec<(String, TableName)>,
}

impl Facts {
    pub(super) fn is_unread(&self, table: &TableName, part: Part) -> bool {
        self.unread.iter().any(|unread| unread.table == *table && unread.part == part)
    }

    /// Takes note of it, once.
    pub(super) fn add_unread(&mut self, unread: Unread) {
        if !self.is_unread(&unread.table, unread.part) {
            self.unread.push(unread);
        }
    }
}
