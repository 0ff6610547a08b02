//! A baseline for the log: the store below it, fed without gRPC, contracts, partitions and acks.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use fjall::{Database, KeyspaceCreateOptions, PersistMode};

use crate::cli::{Failure, chain};

/// What is written, and how.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) events: u64,
    /// Bytes per event.
    pub(super) size: usize,
    /// Events that are written and synced at once.
    pub(super) group: u64,
    /// Events that are one value of the store.
    pub(super) per_value: u64,
    pub(super) fsync: bool,
}

/// Appends to a new database in `folder`. Blocking.
pub(super) fn append(folder: &Path, shape: Shape) -> Result<Duration, Failure> {
    let failed =
        |error: fjall::Error| Failure::unavailable(format!("bare appends: {}", chain(&error)));
    let database = Database::builder(folder).open().map_err(failed)?;
    let keyspace = database.keyspace("events", KeyspaceCreateOptions::default).map_err(failed)?;
    let mode = if shape.fsync { PersistMode::SyncAll } else { PersistMode::Buffer };
    let started = Instant::now();
    for group in cut(0, shape.events, shape.group) {
        let mut batch = database.batch().durability(Some(mode));
        for value in cut(group.0, group.1, shape.per_value) {
            let events = usize::try_from(value.1 - value.0).unwrap_or(1);
            batch.insert(&keyspace, value.0.to_be_bytes(), vec![b'n'; events * shape.size]);
        }
        batch.commit().map_err(failed)?;
    }
    Ok(started.elapsed())
}

/// `from..to` in pieces of `size`: (first, end).
fn cut(from: u64, to: u64, size: u64) -> impl Iterator<Item = (u64, u64)> {
    let size = size.max(1);
    let mut next = from;
    std::iter::from_fn(move || {
        let first = next;
        next = first.saturating_add(size).min(to);
        (first < to).then_some((first, next))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_cut_whole() {
        assert_eq!(cut(0, 7, 3).collect::<Vec<_>>(), [(0, 3), (3, 6), (6, 7)]);
        assert_eq!(cut(3, 6, 3).collect::<Vec<_>>(), [(3, 6)]);
        assert_eq!(cut(5, 5, 0).count(), 0);
    }

    #[test]
    fn every_event_is_written() {
        let dir = tempfile::tempdir().expect("dir");
        let shape = Shape { events: 25, size: 8, group: 10, per_value: 4, fsync: false };
        append(dir.path(), shape).expect("appended");
        let database = Database::builder(dir.path()).open().expect("open");
        let keyspace =
            database.keyspace("events", KeyspaceCreateOptions::default).expect("keyspace");
        let bytes: usize =
            keyspace.iter().map(|entry| entry.into_inner().expect("entry").1.len()).sum();
        assert_eq!(bytes, 25 * 8);
    }
}
