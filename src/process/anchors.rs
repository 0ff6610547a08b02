//! Whether what was read, and is about to be committed, came from the log that it is said to come
//! from.
//!
//! A topic may be deleted and made again, or another cluster may appear at the address, while the
//! reader is not looking; it then goes on at its offset, among other records. So before Bronze
//! commits, a record from before the rows that are committed is read again, and must be the same.
//! It is asked for after those rows were read, so none of them can be of a later log.

use std::collections::BTreeMap;

use crate::{
    domain::{
        Offset, Partition,
        identity::{Fingerprint, fingerprint},
        record::LogRecord,
    },
    log::{self, Log},
    process::Error,
};

/// What a record is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Anchor {
    offset: Offset,
    timestamp_us: i64,
    payload: Option<Fingerprint>,
}

impl Anchor {
    fn of(record: &LogRecord) -> Self {
        let payload = record.payload.as_deref().map(fingerprint);
        Self { offset: record.offset, timestamp_us: record.timestamp_us, payload }
    }
}

/// The records that tell one stream's log from others.
#[derive(Debug, Default)]
pub(super) struct Anchors {
    /// Per partition, the last record that Bronze has committed, where it was seen.
    committed: BTreeMap<Partition, Anchor>,
    /// Per partition, the first and the last record read since.
    read: BTreeMap<Partition, (Anchor, Anchor)>,
}

impl Anchors {
    /// Takes over a record that stands at Bronze's position.
    pub(super) fn committed_at(&mut self, record: &LogRecord) {
        self.committed.insert(record.partition, Anchor::of(record));
    }

    /// Takes note of records as they came, in order of their offsets.
    pub(super) fn read(&mut self, records: &[LogRecord]) {
        // Only the ends of each partition's run are looked at closely: hashing costs.
        let mut ends: BTreeMap<Partition, (&LogRecord, &LogRecord)> = BTreeMap::new();
        for record in records {
            ends.entry(record.partition).or_insert((record, record)).1 = record;
        }
        for (partition, (first, last)) in ends {
            let (_, end) =
                self.read.entry(partition).or_insert_with(|| (Anchor::of(first), Anchor::of(last)));
            *end = Anchor::of(last);
        }
    }

    /// Everything read so far is committed.
    pub(super) fn sealed(&mut self) {
        let read = std::mem::take(&mut self.read);
        self.committed.extend(read.into_iter().map(|(partition, (_, last))| (partition, last)));
    }

    /// Compares the log with what was read from it since the last seal.
    pub(super) async fn confirm(&self, log: &dyn Log, stream: &str) -> Result<(), Error> {
        for (partition, (first, _)) in &self.read {
            for anchor in self.committed.get(partition).into_iter().chain([first]) {
                if still_there(log, stream, *partition, anchor).await? {
                    break;
                }
            }
        }
        Ok(())
    }
}

/// Whether the log has that record; not where it expired or a compaction took it away. An error
/// where another one stands there.
async fn still_there(
    log: &dyn Log,
    stream: &str,
    partition: Partition,
    anchor: &Anchor,
) -> Result<bool, Error> {
    let reason = match log.get(stream, partition, anchor.offset).await {
        Ok(Some(record)) if Anchor::of(&record) == *anchor => return Ok(true),
        Ok(Some(_)) => "the record there is another one",
        // What was read from it is all that is left.
        Err(log::Error::TopicGone { .. }) => return Ok(true),
        Err(error) => return Err(error.into()),
        Ok(None) => {
            let extents = log.extents(stream).await?;
            if extents.get(partition as usize).is_some_and(|extent| extent.end > anchor.offset) {
                return Ok(false);
            }
            "the log ends before that offset"
        }
    };
    let (stream, offset) = (stream.to_owned(), anchor.offset);
    Err(Error::LogReplaced { stream, partition, offset, reason })
}
