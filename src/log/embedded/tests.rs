use std::sync::atomic::{AtomicI64, Ordering};

use super::*;
use crate::log::contract_tests::{Harness, log_contract, read_after, record};

/// A log in a temporary folder, with small segments and a clock that runs backwards.
struct Embedded {
    folder: tempfile::TempDir,
    now: Arc<AtomicI64>,
}

impl Embedded {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("folder");
        Self { folder, now: Arc::new(AtomicI64::new(1_000_000)) }
    }

    fn log(&self) -> Arc<EmbeddedLog> {
        let now = Arc::clone(&self.now);
        let clock = Clock::from_fn(move || now.fetch_sub(7, Ordering::Relaxed));
        let settings = Settings { segment_bytes: 4_096, ..Settings::default() };
        EmbeddedLog::open(self.folder.path(), settings, clock).expect("open")
    }
}

#[async_trait::async_trait]
impl Harness for Embedded {
    async fn open(&self) -> Arc<dyn Log> {
        self.log()
    }
}

log_contract!(Embedded::new());

async fn ensure(log: &EmbeddedLog, name: &str) {
    log.ensure(&[StreamSpec::new(name, 1)]).await.expect("ensure");
}

async fn append(log: &EmbeddedLog, stream: &str, ids: std::ops::Range<i64>) {
    for id in ids {
        let records = vec![record(None, id, vec![b'x'; 1_000])];
        log.append(stream, records).await.expect("append");
    }
}

fn segments(log: &EmbeddedLog, stream: &str) -> Vec<(Offset, u64)> {
    let stream = log.store.stream(stream).expect("stream");
    let log = stream.partition(0).expect("partition");
    log.segments.iter().map(|segment| (segment.base, segment.bytes)).collect()
}

#[tokio::test]
async fn a_second_open_is_refused_with_what_to_do() {
    let harness = Embedded::new();
    let _held = harness.log();
    let refused = EmbeddedLog::open(harness.folder.path(), Settings::default(), Clock::system());
    let error = refused.err().expect("error");
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    let expected = format!(
        "the log at {}: another process has it open: stop that process or use another data \
         directory",
        harness.folder.path().display()
    );
    assert_eq!(error.to_string(), expected);
}

#[tokio::test]
async fn a_write_that_failed_is_told_until_a_restart() {
    let harness = Embedded::new();
    let log = harness.log();
    ensure(&log, "clicks").await;
    append(&log, "clicks", 0..1).await;
    assert_eq!(log.outage(), None);
    // A file where the folder of the segments should be.
    let path = |name| harness.folder.path().join(name);
    let (folder, aside) = (path("keyspaces"), path("aside"));
    std::fs::rename(&folder, &aside).expect("away");
    std::fs::write(&folder, "").expect("write");
    let refused = async |id| {
        let records = vec![record(None, id, vec![b'x'; 4_000])];
        log.append("clicks", records).await.expect_err("no room for a segment").to_string()
    };
    let expected = format!(
        "the log at {}: a write failed, so its outcome is unknown: Not a directory (os error 20); \
         nothing is appended until the cause is mended and the server restarted",
        harness.folder.path().display()
    );
    assert_eq!(refused(1).await, expected);
    std::fs::remove_file(&folder).expect("remove");
    std::fs::rename(&aside, &folder).expect("back");
    assert_eq!(refused(2).await, expected);
    assert_eq!(log.outage(), Some(expected));
    drop(log);
    let log = harness.log();
    assert_eq!(log.outage(), None);
    append(&log, "clicks", 1..10).await;
    assert_eq!(log.extents("clicks").await.expect("extents"), [Extent { start: 0, end: 10 }]);
}

#[test]
fn a_folder_that_cannot_be_is_unavailable() {
    let file = tempfile::NamedTempFile::new().expect("file");
    let refused = EmbeddedLog::open(&file.path().join("log"), Settings::default(), Clock::system());
    assert!(matches!(refused.err(), Some(Error::Unavailable { .. })));
}

#[tokio::test]
async fn segments_roll_by_size_and_are_dropped_whole() {
    let harness = Embedded::new();
    let log = harness.log();
    ensure(&log, "clicks").await;
    append(&log, "clicks", 0..10).await;
    let bases: Vec<Offset> = segments(&log, "clicks").iter().map(|(base, _)| *base).collect();
    assert_eq!(bases, [0, 3, 6, 9]);
    assert_eq!(log.store.db.keyspace_count(), 5);

    // The segment of the position itself stays.
    log.trim("clicks", 0, 5).await.expect("trim");
    let bases: Vec<Offset> = segments(&log, "clicks").iter().map(|(base, _)| *base).collect();
    assert_eq!(bases, [3, 6, 9]);
    assert_eq!(log.store.db.keyspace_count(), 4);
    assert_eq!(log.get("clicks", 0, 2).await.expect("get"), None);
    assert_eq!(log.get("clicks", 0, 5).await.expect("get").map(|r| r.offset), Some(5));

    let before = segments(&log, "clicks");
    drop(log);
    let log = harness.log();
    let after = segments(&log, "clicks");
    assert_eq!(after.last(), before.last());
    assert_eq!(after.len(), before.len());
    assert_eq!(log.store.db.keyspace_count(), 4);
}

#[tokio::test]
async fn one_append_may_span_segments() {
    let harness = Embedded::new();
    let log = harness.log();
    ensure(&log, "clicks").await;
    let records = (0..40).map(|id| record(None, id, vec![b'x'; 100_000])).collect();
    let ranges = log.append("clicks", records).await.expect("append");
    assert_eq!(ranges, [OffsetRange { partition: 0, first: 0, last: 39 }]);
    assert_eq!(segments(&log, "clicks").len(), 4);
    drop(log);
    let log: Arc<dyn Log> = harness.log();
    assert_eq!(read_after(&log, "clicks", &Positions::default()).await.len(), 40);
}

#[tokio::test]
async fn a_keyspace_that_nothing_names_is_dropped_at_the_next_start() {
    let harness = Embedded::new();
    let log = harness.log();
    ensure(&log, "clicks").await;
    append(&log, "clicks", 0..1).await;
    let options = fjall::KeyspaceCreateOptions::default;
    log.store.db.keyspace("log-0-0-99", options).expect("keyspace");
    assert_eq!(log.store.db.keyspace_count(), 3);
    drop(log);
    let log = harness.log();
    assert_eq!(log.store.db.keyspace_count(), 2);
    assert_eq!(segments(&log, "clicks").len(), 1);
}

#[tokio::test]
async fn a_damaged_block_is_an_error_that_names_the_place() {
    let harness = Embedded::new();
    let log = harness.log();
    ensure(&log, "clicks").await;
    append(&log, "clicks", 0..3).await;
    {
        let stream = log.store.stream("clicks").expect("stream");
        let keyspace = stream.partition(0).expect("partition").segments[0].keyspace.clone();
        let mut value = keyspace.get(1_i64.to_be_bytes()).expect("get").expect("value").to_vec();
        let at = value.len() - 1;
        value[at] ^= 1;
        keyspace.insert(1_i64.to_be_bytes(), value).expect("insert");
    }
    let found = log.get("clicks", 0, 1).await.expect_err("damage");
    assert!(matches!(found, Error::Damaged(_)), "{found:?}");
    let message = found.to_string();
    assert!(message.contains("clicks/0 at offset 1: the checksum of its records"), "{message}");
    assert!(log.get("clicks", 0, 2).await.expect("get").is_some());
}

#[tokio::test]
async fn a_missing_block_is_an_error_not_a_skip() {
    let harness = Embedded::new();
    let log = harness.log();
    ensure(&log, "clicks").await;
    append(&log, "clicks", 0..3).await;
    {
        let stream = log.store.stream("clicks").expect("stream");
        let keyspace = stream.partition(0).expect("partition").segments[0].keyspace.clone();
        keyspace.remove(1_i64.to_be_bytes()).expect("remove");
    }
    let mut reader =
        Arc::clone(&log).reader(&["clicks".into()], &Positions::default()).await.expect("reader");
    let polled = reader.poll(100_000, std::time::Duration::ZERO).await;
    let message = polled.expect_err("damage").to_string();
    assert!(message.contains("clicks/0 at offset 1: a block is missing"), "{message}");
}

#[tokio::test]
async fn after_a_failed_write_nothing_is_acked() {
    let harness = Embedded::new();
    let log = harness.log();
    ensure(&log, "clicks").await;
    append(&log, "clicks", 0..1).await;
    // The folder of the next segment cannot be made: its keyspace folder is gone.
    std::fs::remove_dir_all(harness.folder.path().join("keyspaces")).expect("remove");
    let mut outcome = Ok(Vec::new());
    for id in 1..10 {
        outcome = log.append("clicks", vec![record(None, id, vec![b'x'; 1_000])]).await;
        if outcome.is_err() {
            break;
        }
    }
    assert!(matches!(outcome, Err(Error::Unavailable { .. })), "{outcome:?}");
    let end = log.extents("clicks").await.expect("extents")[0].end;
    let again = log.append("clicks", vec![record(None, 99, "x")]).await;
    assert!(matches!(again, Err(Error::Unavailable { .. })), "{again:?}");
    assert_eq!(log.extents("clicks").await.expect("extents")[0].end, end);
}

#[test]
fn settings_name_unknown_keys() {
    let error = serde_json::from_str::<Settings>(r#"{"segment_size":1}"#).expect_err("unknown");
    assert!(error.to_string().contains("unknown field `segment_size`"), "{error}");
    let settings: Settings = serde_json::from_str(r#"{"segment_bytes":7}"#).expect("settings");
    assert_eq!(settings, Settings { segment_bytes: 7, ..Settings::default() });
}
