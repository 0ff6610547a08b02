//! What the tests of the log's contract share: records, and reading all of them back.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use crate::domain::{Offset, Partition, Positions, identity::Identity};
use crate::log::{Extent, Log, LogRecord, Record, StreamSpec};

/// A record that is there comes sooner.
pub(super) const WAIT: Duration = Duration::from_secs(60);

pub(crate) fn record(key: Option<&str>, id: impl ToString, payload: impl Into<Bytes>) -> Record {
    Record {
        key: key.map(|key| Bytes::copy_from_slice(key.as_bytes())),
        identity: Identity::Given(id.to_string()),
        headers: Vec::new(),
        payload: payload.into(),
    }
}

pub(super) fn numbered(ids: std::ops::Range<usize>) -> Vec<Record> {
    ids.map(|id| record(None, id, format!("payload {id}"))).collect()
}

pub(super) async fn ensure(log: &Arc<dyn Log>, name: &str, partitions: Partition) {
    log.ensure(&[StreamSpec::new(name, partitions)]).await.expect("ensure");
}

/// Everything that the stream holds now after `after`, partition by partition.
pub(crate) async fn read_after(
    log: &Arc<dyn Log>,
    stream: &str,
    after: &Positions,
) -> Vec<LogRecord> {
    let ends = log.extents(stream).await.expect("extents");
    let mut reader = Arc::clone(log).reader(&[stream.into()], after).await.expect("reader");
    let (mut seen, mut found) = (after.clone(), Vec::new());
    let is_read = |seen: &Positions| {
        let mut all = (0..).zip(&ends);
        all.all(|(partition, extent)| {
            let next = seen.get(stream, partition).map_or(extent.start, |at| at + 1);
            next >= extent.end
        })
    };
    while !is_read(&seen) {
        let chunks = reader.poll(64 * 1024, WAIT).await.expect("poll");
        assert!(!chunks.is_empty(), "nothing came after {seen}");
        for chunk in chunks {
            assert_eq!(chunk.stream, stream);
            for record in chunk.records {
                seen.advance(stream, record.partition, record.offset);
                found.push(record);
            }
        }
    }
    found.sort_by_key(|record| record.partition);
    found
}

pub(super) async fn read_all(log: &Arc<dyn Log>, stream: &str) -> Vec<LogRecord> {
    read_after(log, stream, &Positions::default()).await
}

pub(super) fn id_of(record: &LogRecord) -> String {
    let header = record.identity.as_ref().expect("identity");
    Identity::decode(header).expect("identity").to_string()
}

pub(super) fn sorted_ids(records: &[LogRecord]) -> Vec<String> {
    let mut ids: Vec<String> = records.iter().map(id_of).collect();
    ids.sort();
    ids
}

pub(super) fn expected_ids(ids: std::ops::Range<usize>) -> Vec<String> {
    let mut ids: Vec<String> = ids.map(|id| id.to_string()).collect();
    ids.sort();
    ids
}

pub(super) fn positions(stream: &str, partition: Partition, offset: Offset) -> Positions {
    let mut positions = Positions::default();
    positions.advance(stream, partition, offset);
    positions
}

/// A stream of one partition whose beginning was trimmed; returns what it holds.
pub(super) async fn trimmed(log: &Arc<dyn Log>, stream: &str) -> Extent {
    ensure(log, stream, 1).await;
    for id in 0..40 {
        let payload = vec![b'x'; 1_000];
        log.append(stream, vec![record(None, id, payload)]).await.expect("append");
    }
    log.trim(stream, 0, 29).await.expect("trim");
    let extent = log.extents(stream).await.expect("extents")[0];
    assert!((2..=30).contains(&extent.start), "{extent:?}");
    assert_eq!(extent.end, 40);
    extent
}
