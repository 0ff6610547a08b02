//! What every log promises. An implementation calls [`log_contract`] with a harness of its own.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;

// Also part of `tests/kafka`, whose file is elsewhere.
#[path = "contract_support.rs"]
mod support;

use self::support::{
    WAIT, ensure, expected_ids, id_of, numbered, positions, read_all, sorted_ids, trimmed,
};
pub(crate) use self::support::{read_after, record};
use crate::domain::{
    Offset, Positions,
    record::{Header, ORIGIN_HEADER},
};
use crate::log::{Error, Log, LogRecord, Record, StreamSpec};

/// Makes logs for the suite. Each stream name is used by one test only.
#[async_trait::async_trait]
pub(crate) trait Harness: Send + Sync {
    /// Opens the one log of this harness, again after [`Harness::open`]'s result was dropped.
    /// Trimming forgets records in steps of a few KB at most.
    async fn open(&self) -> Arc<dyn Log>;
}

/// Generates one test per promise.
macro_rules! log_contract {
    ($harness:expr) => {
        $crate::log::contract_tests::log_contract!(@each $harness;
            what_was_acked_is_there_after_a_reopen
            headers_come_back_with_their_records
            records_of_a_key_stay_in_order_in_one_partition
            appends_first_polled_in_order_land_in_order
            a_reader_resumes_after_its_positions
            a_reader_waits_for_what_comes
            a_dropped_poll_loses_nothing
            a_budget_is_kept_and_shared_among_partitions
            a_budget_that_ends_inside_an_append_loses_nothing
            a_position_beyond_the_end_is_truncation
            a_position_that_was_trimmed_is_a_gap
            trimming_never_takes_what_is_above
            a_trimmed_log_keeps_its_end_after_a_reopen
            another_partition_count_is_refused
            an_unknown_stream_is_an_error
            concurrent_appends_are_all_there_once
            timestamps_never_fall
            a_big_append_is_all_there
            an_oversize_record_refuses_its_whole_append
            a_closed_log_refuses_appends
        );
    };
    (@each $harness:expr; $($name:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                $crate::log::contract_tests::$name(&$harness).await;
            }
        )*
    };
}
pub(crate) use log_contract;

pub(crate) async fn what_was_acked_is_there_after_a_reopen(harness: &dyn Harness) {
    let log = harness.open().await;
    ensure(&log, "reopen", 3).await;
    let log_id = log.id("reopen");
    let mut ranges = log.append("reopen", numbered(0..50)).await.expect("append");
    ranges.extend(log.append("reopen", numbered(50..60)).await.expect("append"));
    let before = read_all(&log, "reopen").await;
    let extents = log.extents("reopen").await.expect("extents");
    drop(log);

    let log = harness.open().await;
    ensure(&log, "reopen", 3).await;
    assert_eq!(log.id("reopen"), log_id);
    assert_eq!(log.extents("reopen").await.expect("extents"), extents);
    assert_eq!(read_all(&log, "reopen").await, before);
    assert_eq!(sorted_ids(&before), expected_ids(0..60));
    for found in &before {
        let covered = ranges.iter().any(|range| {
            range.partition == found.partition && (range.first..=range.last).contains(&found.offset)
        });
        assert!(covered, "{found:?} is in none of {ranges:?}");
        let got = log.get("reopen", found.partition, found.offset).await.expect("get");
        assert_eq!(got.as_ref(), Some(found));
    }
    let after_end = log.get("reopen", 0, extents[0].end).await.expect("get");
    assert_eq!(after_end, None);
    for (partition, extent) in (0..).zip(extents) {
        let last = extent.end - 1;
        assert!(log.has_records("reopen", partition, last).await.expect("look"));
        assert!(!log.has_records("reopen", partition, extent.end).await.expect("look"));
    }
}

pub(crate) async fn headers_come_back_with_their_records(harness: &dyn Harness) {
    let log = harness.open().await;
    ensure(&log, "headers", 1).await;
    let value = |text: &'static str| Some(Bytes::from_static(text.as_bytes()));
    let given: [Vec<Header>; 4] = [
        Vec::new(),
        vec![("a".into(), value("1")), ("b".into(), None), ("a".into(), value("2"))],
        vec![(ORIGIN_HEADER.into(), value("0/41"))],
        Vec::new(),
    ];
    let records = (0..).zip(&given).map(|(id, headers)| {
        let headers = headers.clone();
        Record { headers, ..record(None, id, format!("payload {id}")) }
    });
    log.append("headers", records.collect()).await.expect("append");
    let check = |records: Vec<LogRecord>| {
        let headers: Vec<_> = records.iter().map(|record| record.headers.clone()).collect();
        assert_eq!(headers, given);
        assert_eq!(records.iter().map(id_of).collect::<Vec<_>>(), ["0", "1", "2", "3"]);
    };
    check(read_all(&log, "headers").await);
    drop(log);
    let log = harness.open().await;
    ensure(&log, "headers", 1).await;
    check(read_all(&log, "headers").await);
}

pub(crate) async fn records_of_a_key_stay_in_order_in_one_partition(harness: &dyn Harness) {
    let log = harness.open().await;
    ensure(&log, "keys", 4).await;
    for round in 0..5 {
        let records = (0..20).map(|i| {
            let key = format!("key-{}", i % 7);
            record(Some(&key), format!("{round:02}-{i:02}"), "x")
        });
        log.append("keys", records.collect()).await.expect("append");
    }
    let mut of_key: HashMap<Bytes, Vec<LogRecord>> = HashMap::new();
    for record in read_all(&log, "keys").await {
        of_key.entry(record.key.clone().expect("key")).or_default().push(record);
    }
    assert_eq!(of_key.len(), 7);
    for (key, records) in of_key {
        assert!(records.iter().all(|r| r.partition == records[0].partition), "{key:?}");
        assert!(records.is_sorted_by(|a, b| a.offset < b.offset), "{key:?}");
        assert!(records.iter().map(id_of).is_sorted(), "{key:?}");
    }
}

pub(crate) async fn appends_first_polled_in_order_land_in_order(harness: &dyn Harness) {
    let log = harness.open().await;
    ensure(&log, "pipelined", 1).await;
    let appends = (0..200).map(|id| log.append("pipelined", vec![record(None, id, "x")]));
    let outcomes = futures::future::join_all(appends).await;
    assert!(outcomes.iter().all(Result::is_ok));
    let ids: Vec<String> = read_all(&log, "pipelined").await.iter().map(id_of).collect();
    assert_eq!(ids, (0..200).map(|id| id.to_string()).collect::<Vec<_>>());
}

pub(crate) async fn a_reader_resumes_after_its_positions(harness: &dyn Harness) {
    let log = harness.open().await;
    ensure(&log, "resume", 2).await;
    log.append("resume", numbered(0..30)).await.expect("append");
    let mut reader =
        Arc::clone(&log).reader(&["resume".into()], &Positions::default()).await.expect("reader");
    let first = reader.poll(60, WAIT).await.expect("poll");
    let mut seen = Positions::default();
    let mut found: Vec<LogRecord> = first.into_iter().flat_map(|chunk| chunk.records).collect();
    assert!(!found.is_empty() && found.len() < 30, "{}", found.len());
    for record in &found {
        seen.advance("resume", record.partition, record.offset);
    }
    found.extend(read_after(&log, "resume", &seen).await);
    assert_eq!(sorted_ids(&found), expected_ids(0..30));
}

pub(crate) async fn a_reader_waits_for_what_comes(harness: &dyn Harness) {
    let log = harness.open().await;
    ensure(&log, "wait", 1).await;
    let mut reader =
        Arc::clone(&log).reader(&["wait".into()], &Positions::default()).await.expect("reader");
    assert!(reader.poll(100, Duration::ZERO).await.expect("poll").is_empty());
    let waiting = tokio::spawn(async move { reader.poll(100, WAIT).await });
    log.append("wait", numbered(0..1)).await.expect("append");
    let chunks = waiting.await.expect("join").expect("poll");
    assert_eq!(sorted_ids(&chunks[0].records), ["0"]);
}

pub(crate) async fn a_dropped_poll_loses_nothing(harness: &dyn Harness) {
    let log = harness.open().await;
    ensure(&log, "dropped", 1).await;
    log.append("dropped", numbered(0..5)).await.expect("append");
    let mut reader =
        Arc::clone(&log).reader(&["dropped".into()], &Positions::default()).await.expect("reader");
    let mut found = Vec::new();
    let once = futures::poll!(reader.poll(10_000, WAIT));
    if let std::task::Poll::Ready(chunks) = once {
        found.extend(chunks.expect("poll").into_iter().flat_map(|chunk| chunk.records));
    }
    while found.len() < 5 {
        let chunks = reader.poll(10_000, WAIT).await.expect("poll");
        found.extend(chunks.into_iter().flat_map(|chunk| chunk.records));
    }
    assert_eq!(sorted_ids(&found), expected_ids(0..5));
}

pub(crate) async fn a_budget_is_kept_and_shared_among_partitions(harness: &dyn Harness) {
    let log = harness.open().await;
    ensure(&log, "budget", 3).await;
    let records = (0..300).map(|id| record(None, id, vec![b'x'; 100])).collect();
    log.append("budget", records).await.expect("append");
    let mut reader =
        Arc::clone(&log).reader(&["budget".into()], &Positions::default()).await.expect("reader");
    let (mut found, mut touched) = (Vec::new(), HashSet::new());
    // Record by record until each partition's have arrived: from then on all get their share.
    while found.len() < 300 {
        let has_all = touched.len() == 3;
        let budget = if has_all { 3_000 } else { 1 };
        let chunks = reader.poll(budget, WAIT).await.expect("poll");
        let records: Vec<_> = chunks.into_iter().flat_map(|chunk| chunk.records).collect();
        let bytes: usize = records.iter().map(LogRecord::payload_len).sum();
        assert!((1..=3_300).contains(&bytes), "{bytes}");
        let of_poll: HashSet<_> = records.iter().map(|record| record.partition).collect();
        let left = 300 - found.len();
        assert!(!has_all || left < 200 || of_poll.len() == 3, "a partition starves");
        touched.extend(of_poll);
        found.extend(records);
    }
    assert_eq!(sorted_ids(&found), expected_ids(0..300));
}

pub(crate) async fn a_budget_that_ends_inside_an_append_loses_nothing(harness: &dyn Harness) {
    let log = harness.open().await;
    ensure(&log, "uneven", 1).await;
    for first in [0, 3, 6] {
        let sizes = [500, 2_000, 100];
        let records =
            sizes.iter().zip(first..).map(|(size, id)| record(None, id, vec![b'x'; *size]));
        log.append("uneven", records.collect()).await.expect("append");
    }
    let mut reader =
        Arc::clone(&log).reader(&["uneven".into()], &Positions::default()).await.expect("reader");
    let mut offsets = Vec::new();
    while offsets.len() < 9 {
        let chunks = reader.poll(1_000, WAIT).await.expect("poll");
        offsets.extend(chunks.into_iter().flat_map(|chunk| chunk.records).map(|r| r.offset));
    }
    assert_eq!(offsets, (0..9).collect::<Vec<_>>());
}

pub(crate) async fn a_position_beyond_the_end_is_truncation(harness: &dyn Harness) {
    let log = harness.open().await;
    ensure(&log, "truncated", 1).await;
    log.append("truncated", numbered(0..3)).await.expect("append");
    let end = log.extents("truncated").await.expect("extents")[0].end;
    let opened =
        Arc::clone(&log).reader(&["truncated".into()], &positions("truncated", 0, end)).await.err();
    assert!(
        matches!(opened, Some(Error::Truncated { wanted, end: found, .. })
            if wanted == end && found == end),
        "{opened:?}"
    );
    assert!(read_after(&log, "truncated", &positions("truncated", 0, end - 1)).await.is_empty());
}

pub(crate) async fn a_position_that_was_trimmed_is_a_gap(harness: &dyn Harness) {
    let log = harness.open().await;
    let mut early = {
        ensure(&log, "gap", 1).await;
        Arc::clone(&log).reader(&["gap".into()], &Positions::default()).await.expect("reader")
    };
    let extent = trimmed(&log, "gap").await;
    let wanted = extent.start - 1;
    let opened =
        Arc::clone(&log).reader(&["gap".into()], &positions("gap", 0, wanted - 1)).await.err();
    assert!(
        matches!(opened, Some(Error::Gap { wanted: found, start, .. })
            if found == wanted && start == extent.start),
        "{opened:?}"
    );
    // What the reader fetched before is its own; it never goes on behind a gap.
    let mut next = 0;
    while next < extent.end {
        match early.poll(1_000, WAIT).await {
            Ok(chunks) => {
                for record in chunks.into_iter().flat_map(|chunk| chunk.records) {
                    assert_eq!(record.offset, next);
                    next += 1;
                }
            }
            Err(Error::Gap { wanted, start, .. }) => {
                assert_eq!((wanted, start), (next, extent.start));
                break;
            }
            Err(other) => assert!(matches!(other, Error::Gap { .. }), "{other:?}"),
        }
    }
    let rest = read_after(&log, "gap", &positions("gap", 0, wanted)).await;
    assert_eq!(rest.len() as i64, extent.end - extent.start);
}

pub(crate) async fn trimming_never_takes_what_is_above(harness: &dyn Harness) {
    let log = harness.open().await;
    let extent = trimmed(&log, "above").await;
    let kept: Vec<Offset> = read_all(&log, "above").await.iter().map(|r| r.offset).collect();
    assert_eq!(kept, (extent.start..40).collect::<Vec<_>>());
    log.trim("above", 0, 10_000).await.expect("trim");
    let extent = log.extents("above").await.expect("extents")[0];
    assert_eq!(extent.end, 40);
    let appended = log.append("above", numbered(40..41)).await.expect("append");
    assert_eq!((appended[0].first, appended[0].last), (40, 40));
}

pub(crate) async fn a_trimmed_log_keeps_its_end_after_a_reopen(harness: &dyn Harness) {
    let log = harness.open().await;
    trimmed(&log, "trimmed-reopen").await;
    log.trim("trimmed-reopen", 0, 39).await.expect("trim");
    let before = log.extents("trimmed-reopen").await.expect("extents");
    drop(log);
    let log = harness.open().await;
    ensure(&log, "trimmed-reopen", 1).await;
    assert_eq!(log.extents("trimmed-reopen").await.expect("extents"), before);
    assert_eq!(before[0].end, 40);
    let appended = log.append("trimmed-reopen", numbered(40..41)).await.expect("append");
    assert_eq!(appended[0].first, 40);
}

pub(crate) async fn another_partition_count_is_refused(harness: &dyn Harness) {
    let log = harness.open().await;
    ensure(&log, "count", 2).await;
    ensure(&log, "count", 2).await;
    let refused = log.ensure(&[StreamSpec::new("count", 3)]).await;
    assert!(
        matches!(refused, Err(Error::PartitionCount { existing: 2, wanted: 3, .. })),
        "{refused:?}"
    );
    assert_eq!(log.extents("count").await.expect("extents").len(), 2);
}

pub(crate) async fn an_unknown_stream_is_an_error(harness: &dyn Harness) {
    let log = harness.open().await;
    let appended = log.append("nowhere", numbered(0..1)).await;
    assert!(matches!(appended, Err(Error::UnknownStream(_))), "{appended:?}");
    assert!(matches!(log.extents("nowhere").await, Err(Error::UnknownStream(_))));
    let opened = Arc::clone(&log).reader(&["nowhere".into()], &Positions::default()).await;
    assert!(matches!(opened.err(), Some(Error::UnknownStream(_))));
}

pub(crate) async fn concurrent_appends_are_all_there_once(harness: &dyn Harness) {
    let log = harness.open().await;
    ensure(&log, "concurrent", 3).await;
    let tasks = (0..8).map(|task| {
        let log = Arc::clone(&log);
        tokio::spawn(async move {
            for round in 0..10 {
                let first = task * 100 + round * 10;
                log.append("concurrent", numbered(first..first + 10)).await.expect("append");
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.expect("task");
    }
    let found = read_all(&log, "concurrent").await;
    assert_eq!(sorted_ids(&found), expected_ids(0..800));
    for partition in 0..3 {
        let of_partition = found.iter().filter(|record| record.partition == partition);
        let offsets: Vec<Offset> = of_partition.map(|record| record.offset).collect();
        assert!(offsets.is_sorted_by(|a, b| a < b), "{partition}");
    }
}

pub(crate) async fn timestamps_never_fall(harness: &dyn Harness) {
    for round in 0..3 {
        let log = harness.open().await;
        ensure(&log, "times", 1).await;
        for id in 0..5 {
            log.append("times", numbered(round * 5 + id..round * 5 + id + 1))
                .await
                .expect("append");
        }
        let times: Vec<i64> =
            read_all(&log, "times").await.iter().map(|record| record.timestamp_us).collect();
        assert!(times.is_sorted(), "{times:?}");
        assert_eq!(times.len(), (round + 1) * 5);
    }
}

pub(crate) async fn a_big_append_is_all_there(harness: &dyn Harness) {
    let log = harness.open().await;
    ensure(&log, "big", 2).await;
    let records: Vec<Record> =
        (0..80).map(|id| record(None, id, vec![u8::try_from(id).unwrap_or(0); 100_000])).collect();
    log.append("big", records).await.expect("append");
    let found = read_all(&log, "big").await;
    assert_eq!(sorted_ids(&found), expected_ids(0..80));
    for record in found {
        let id: u8 = id_of(&record).parse().expect("number");
        assert_eq!(record.payload, Some(vec![id; 100_000].into()));
    }
}

pub(crate) async fn an_oversize_record_refuses_its_whole_append(harness: &dyn Harness) {
    let log = harness.open().await;
    ensure(&log, "oversize", 1).await;
    let records = vec![record(None, 0, "small"), record(None, 1, vec![0; 20 * 1024 * 1024])];
    let refused = log.append("oversize", records).await;
    assert!(matches!(refused, Err(Error::RecordTooLarge { .. })), "{refused:?}");
    assert!(read_all(&log, "oversize").await.is_empty());
}

pub(crate) async fn a_closed_log_refuses_appends(harness: &dyn Harness) {
    let log = harness.open().await;
    ensure(&log, "closed", 1).await;
    let under_way = log.append("closed", numbered(0..1));
    let (outcome, ()) = tokio::join!(under_way, async { log.close().await });
    assert!(outcome.is_ok(), "{outcome:?}");
    let refused = log.append("closed", numbered(1..2)).await;
    assert!(matches!(refused, Err(Error::Closed)), "{refused:?}");
    assert_eq!(sorted_ids(&read_all(&log, "closed").await), ["0"]);
}
