//! Acceptance: which records count. Decided once per record, recorded by offset.

use std::{collections::HashSet, sync::Arc};

use arrow::{
    array::{ArrayRef, BinaryBuilder, Int32Builder, Int64Builder, RecordBatch, StringBuilder},
    datatypes::{DataType, Field, Schema, SchemaRef},
    error::ArrowError,
};

use foldhash::fast::RandomState;

use crate::{
    bronze::rows::append_shown,
    domain::{
        Offset, Place,
        identity::{Fingerprint, Identity},
    },
};

/// What became of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It counts.
    Accepted,
    /// The same event was accepted, or set aside, at a smaller position.
    Repeat,
    /// It breaks its contract and stands in quarantine.
    Quarantined,
}

impl Verdict {
    /// The recorded form. Persisted: must stay stable.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Repeat => "repeat",
            Self::Quarantined => "quarantined",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        [Self::Accepted, Self::Repeat, Self::Quarantined].into_iter().find(|v| v.as_str() == text)
    }
}

/// The identities of one stream that were decided on. A cache of the acceptance table: filled from
/// its committed rows, discarded as a whole when a commit fails.
#[derive(Debug, Default)]
pub struct Identities {
    // Fingerprints are hashes already, so a fast hasher (with a seed of its own) will do.
    accepted: HashSet<Fingerprint, RandomState>,
    quarantined: HashSet<Fingerprint, RandomState>,
}

impl Identities {
    /// Takes over a recorded decision.
    pub fn remember(&mut self, identity: Fingerprint, verdict: Verdict) {
        match verdict {
            Verdict::Accepted => self.accepted.insert(identity),
            Verdict::Quarantined => self.quarantined.insert(identity),
            Verdict::Repeat => false,
        };
    }

    /// Decides on the next record in arrival order. A repeat is recognised before any rule counts;
    /// a bad record comes here with what it is set aside under, so that each is set aside once.
    pub fn decide(&mut self, identity: Fingerprint, breaks_contract: bool) -> Verdict {
        let (is_first, verdict) = if breaks_contract {
            let is_known = self.accepted.contains(&identity);
            (!is_known && self.quarantined.insert(identity), Verdict::Quarantined)
        } else {
            (self.accepted.insert(identity), Verdict::Accepted)
        };
        if is_first { verdict } else { Verdict::Repeat }
    }

    /// Whether an event of this identity was accepted.
    pub fn is_accepted(&self, identity: &Fingerprint) -> bool {
        self.accepted.contains(identity)
    }

    pub fn len(&self) -> usize {
        self.accepted.len() + self.quarantined.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One recorded decision.
#[derive(Debug, Clone)]
pub struct Decision<'a> {
    pub partition: i32,
    pub offset: Offset,
    pub index: i32,
    pub identity: &'a Identity,
    /// Of the identity.
    pub fingerprint: Fingerprint,
    pub verdict: Verdict,
    /// The quarantined record that this decision resolves: its event counts now.
    pub origin: Option<Place>,
}

/// The columns of every acceptance table. Persisted: must stay stable.
pub fn acceptance_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("_partition", DataType::Int32, true),
        Field::new("_offset", DataType::Int64, true),
        Field::new("_index", DataType::Int32, true),
        Field::new("_event_id", DataType::Utf8, true),
        Field::new("verdict", DataType::Utf8, true),
        Field::new("__identity", DataType::Binary, true),
        Field::new("__origin_partition", DataType::Int32, true),
        Field::new("__origin_offset", DataType::Int64, true),
        Field::new("__origin_index", DataType::Int32, true),
    ]))
}

/// The acceptance rows of decisions.
pub fn acceptance_rows(decisions: &[Decision<'_>]) -> Result<RecordBatch, ArrowError> {
    let n = decisions.len();
    let mut partition = Int32Builder::with_capacity(n);
    let mut offset = Int64Builder::with_capacity(n);
    let mut index = Int32Builder::with_capacity(n);
    let mut event_id = StringBuilder::with_capacity(n, n * 36);
    let mut verdict = StringBuilder::with_capacity(n, n * 8);
    let mut identity = BinaryBuilder::with_capacity(n, n * 16);
    let mut origin_partition = Int32Builder::with_capacity(n);
    let mut origin_offset = Int64Builder::with_capacity(n);
    let mut origin_index = Int32Builder::with_capacity(n);
    for decision in decisions {
        partition.append_value(decision.partition);
        offset.append_value(decision.offset);
        index.append_value(decision.index);
        append_shown(&mut event_id, decision.identity);
        verdict.append_value(decision.verdict.as_str());
        identity.append_value(decision.fingerprint);
        let origin = decision.origin;
        origin_partition.append_option(origin.and_then(|o| i32::try_from(o.partition).ok()));
        origin_offset.append_option(origin.map(|o| o.offset));
        origin_index.append_option(origin.map(|o| o.index));
    }
    let columns: Vec<ArrayRef> = vec![
        Arc::new(partition.finish()),
        Arc::new(offset.finish()),
        Arc::new(index.finish()),
        Arc::new(event_id.finish()),
        Arc::new(verdict.finish()),
        Arc::new(identity.finish()),
        Arc::new(origin_partition.finish()),
        Arc::new(origin_offset.finish()),
        Arc::new(origin_index.finish()),
    ];
    RecordBatch::try_new(acceptance_schema(), columns)
}
