//! Every acked event once: repeats, kills between any two commits, trimming, another log.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use arrow::{
    array::AsArray as _,
    datatypes::{Int64Type, Schema},
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::support::{CONTRACT, COUNTS, Rig, batches};
use crate::{
    domain::{identity::Identity, record::Record},
    lake::{Move, TableSpec, faults::Fault},
    process::*,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_comes_out_of_every_table_once() {
    let rig = Rig::new().await;
    let running = rig.start();
    rig.append([(1, "a", 10), (2, "b", 60), (1, "a", 10), (3, "a", 70)]).await;
    rig.append([(4, "z", 5), (4, "z", 5), (5, "b", 5_000), (2, "z", 1)]).await;
    running.settled().await;
    assert_eq!(running.numbers(COUNTS).await, [3, 3, 140]);
    assert_eq!(running.numbers("SELECT count(*), sum(w) FROM silver.big").await, [2, 260]);
    assert_eq!(running.text("SELECT k, n, s FROM totals ORDER BY k").await, "a 2 80\nb 1 60");
    assert_eq!(running.text("SELECT label, n FROM named ORDER BY label").await, "Anna 2\nBerta 1");
    assert_eq!(running.text("SELECT k FROM top ORDER BY k").await, "a\nb");
    let quarantined = "SELECT _event_id <> '' AS named, array_to_string(rules, '+'), payload_text \
                       FROM quarantine.events ORDER BY 2";
    assert_eq!(
        running.text(quarantined).await,
        "true accepted_values:k {\"id\":\"e4\",\"k\":\"z\",\"v\":5}\n\
         true small {\"id\":\"e5\",\"k\":\"b\",\"v\":5000}"
    );
    let verdicts = "SELECT verdict, count(*) FROM system.acceptance GROUP BY verdict ORDER BY 1";
    assert_eq!(running.text(verdicts).await, "accepted 3\nquarantined 2\nrepeat 3");
    let bronze = "SELECT count(*), count(*) FILTER (WHERE _verdict = 'ok') FROM bronze.events";
    assert_eq!(running.numbers(bronze).await, [8, 4]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_pushed_again_after_a_restart_changes_nothing() {
    let mut rig = Rig::new().await;
    let events: Vec<(usize, &str, i64)> = (0..200).map(|id| (id, "a", 1)).collect();
    let running = rig.start();
    rig.append(events.clone()).await;
    running.settled().await;
    running.stop().await;
    rig.reopen_log().await;
    let running = rig.start();
    rig.append(events).await;
    rig.append([(900, "b", 7)]).await;
    running.settled().await;
    assert_eq!(running.numbers(COUNTS).await, [201, 201, 207]);
    assert_eq!(running.text("SELECT k, n FROM totals ORDER BY k").await, "a 200\nb 1");
    assert_eq!(running.numbers("SELECT count(*) FROM bronze.events").await, [401]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hidden_columns_stay_hidden() {
    let rig = Rig::new().await;
    let running = rig.start();
    rig.append([(1, "a", 10)]).await;
    running.settled().await;
    let rows = batches(&running.view.load(), "SELECT * FROM silver.rows").await;
    let names: Vec<_> = rows[0].schema().fields().iter().map(|f| f.name().clone()).collect();
    assert_eq!(names, ["id", "k", "v"]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bronze_can_be_filtered_once_it_is_committed() {
    let mut rig = Rig::new().await;
    let running = rig.start();
    rig.append([(1, "a", 10), (2, "b", 60), (3, "z", 5)]).await;
    running.settled().await;
    running.stop().await;
    rig.reopen_log().await;
    let running = rig.start();
    rig.append([(4, "a", 70)]).await;
    running.settled().await;
    for (condition, wanted) in [
        ("_offset >= 0", [4, 145]),
        ("_offset >= 0 AND v > 50", [2, 130]),
        ("_ts > TIMESTAMP '2020-01-01T00:00:00Z' AND _verdict = 'ok'", [3, 140]),
        ("_event_id = 'e4'", [1, 70]),
        ("_key IS NULL AND k <> 'a'", [2, 65]),
    ] {
        let sql = format!("SELECT count(*), sum(v) FROM bronze.events WHERE {condition}");
        assert_eq!(running.numbers(&sql).await, wanted, "{condition}");
    }
    running.stop().await;
}

/// Events without the id that their contract names are told apart by their content.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_without_their_id_are_told_apart() {
    let rig = Rig::new().await;
    rig.write(
        "streams/events.yml",
        &CONTRACT.replace("id, type: text, required: true", "id, type: text"),
    );
    let running = rig.start();
    let nameless = |v: i64| Record {
        key: None,
        identity: Identity::Given("not asked".into()),
        headers: Vec::new(),
        payload: format!("{{\"id\":\" \",\"k\":\"a\",\"v\":{v}}}").into(),
    };
    let records = [1, 2, 3, 2].map(nameless).into();
    rig.log().append("events", records).await.expect("append");
    rig.append([(7, "a", 4)]).await;
    running.settled().await;
    assert_eq!(running.numbers("SELECT count(*), sum(v) FROM silver.rows").await, [4, 10]);
    let verdicts = "SELECT verdict, count(DISTINCT event_id) FROM system.acceptance GROUP BY \
                    verdict ORDER BY 1";
    assert_eq!(running.text(verdicts).await, "accepted 4\nrepeat 1");
    running.stop().await;
}

/// An event whose identity was met, but whose Bronze commit failed, is not a repeat of itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn identities_that_were_never_committed_do_not_count() {
    let rig = Rig::new().await;
    let failures = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&failures);
    let running = rig.start_on_faults(move |path| {
        let bronze =
            path.contains("bronze/events/_delta_log") && !path.contains("00000000000.json");
        // More often than a commit is tried, so that the loop has to start again.
        (bronze && seen.fetch_add(1, Ordering::SeqCst) < 12).then_some(Fault::Refused)
    });
    rig.append((0..50).map(|id| (id, "a", 1))).await;
    running.settled().await;
    assert!(failures.load(Ordering::SeqCst) >= 12);
    assert_eq!(running.numbers(COUNTS).await, [50, 50, 50]);
    let verdicts = "SELECT verdict, count(*) FROM system.acceptance GROUP BY verdict";
    assert_eq!(running.text(verdicts).await, "accepted 50");
    running.stop().await;
}

/// The log forgets only what Bronze holds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_is_not_trimmed_before_bronze_has_it() {
    let mut rig = Rig::new().await;
    let blocked = Arc::new(AtomicBool::new(true));
    let refused = Arc::new(AtomicUsize::new(0));
    let (gate, counter) = (Arc::clone(&blocked), Arc::clone(&refused));
    let running = rig.start_on_faults(move |path| {
        let bronze =
            path.contains("bronze/events/_delta_log") && !path.contains("00000000000.json");
        let refuse = bronze && gate.load(Ordering::SeqCst);
        if refuse {
            counter.fetch_add(1, Ordering::SeqCst);
        }
        refuse.then_some(Fault::Refused)
    });
    for id in 0..300 {
        rig.append([(id, "a", 1)]).await;
    }
    let waited = async {
        while refused.load(Ordering::SeqCst) < 3 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waited).await.expect("a refused commit");
    running.kill().await;
    for extent in rig.log().extents("events").await.expect("extents") {
        assert_eq!(extent.start, 0, "trimmed before Bronze had it");
    }
    rig.reopen_log().await;
    blocked.store(false, Ordering::SeqCst);
    let running = rig.start();
    running.settled().await;
    assert_eq!(running.numbers(COUNTS).await, [300, 300, 300]);
    let extents = rig.log().extents("events").await.expect("extents");
    assert!(extents.iter().any(|extent| extent.start > 0), "never trimmed: {extents:?}");
    running.stop().await;
}

/// Each table's rows are its SQL over what its recorded positions say, whatever was committed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_committed_table_is_what_its_positions_say_after_kills() {
    for seed in 0..6 {
        let mut rig = Rig::new().await;
        let mut random = StdRng::seed_from_u64(seed);
        let mut expected: BTreeMap<usize, (&'static str, i64)> = BTreeMap::new();
        for _ in 0..4 {
            // Commits stop going through at a random point, anywhere between two tables.
            let running = rig.start_until_refused(random.random_range(1..40));
            for _ in 0..12 {
                let batch: Vec<(usize, &'static str, i64)> = (0..random.random_range(1..20))
                    .map(|_| {
                        let id = random.random_range(0..400);
                        let k = ["a", "b", "c", "z"][id % 4];
                        (id, k, i64::try_from(id % 97).expect("small"))
                    })
                    .collect();
                for (id, k, v) in batch.iter().filter(|(_, k, _)| *k != "z") {
                    expected.insert(*id, (k, *v));
                }
                rig.append(batch).await;
                for _ in 0..random.random_range(0..400) {
                    tokio::task::yield_now().await;
                }
            }
            let settled = tokio::time::timeout(Duration::from_millis(300), running.view.settle());
            settled.await.ok();
            running.kill().await;
            check_tables(&rig).await;
            rig.reopen_log().await;
        }
        let running = rig.start();
        running.settled().await;
        let sum: i64 = expected.values().map(|(_, v)| v).sum();
        let n = i64::try_from(expected.len()).expect("small");
        assert_eq!(running.numbers(COUNTS).await, [n, n, sum], "seed {seed}");
        let totals = "SELECT sum(n), sum(s) FROM totals";
        assert_eq!(running.numbers(totals).await, [n, sum], "seed {seed}");
        running.stop().await;
        check_tables(&rig).await;
    }
}

/// Compares every table as committed with what its positions promise.
async fn check_tables(rig: &Rig) {
    let deps = rig.deps(rig.plain_lake());
    let opened = open::open_tables(&deps).await.expect("open");
    let stream = &opened.streams[0];
    let accepted = accepted_rows(stream).await;
    let below = |at: &dyn Fn(u32) -> Option<Offset>| -> BTreeSet<String> {
        let within = accepted
            .iter()
            .filter(|(partition, offset, _)| at(*partition).is_some_and(|at| *offset <= at));
        within.map(|(_, _, id)| id.clone()).collect()
    };
    let rows = stream.models.iter().find(|m| m.name.name == "rows").expect("rows");
    let found: Vec<String> = ids(&rows.table.table.all_rows().await.expect("rows"), "id");
    let unique: BTreeSet<String> = found.iter().cloned().collect();
    assert_eq!(unique.len(), found.len(), "a row stands twice");
    assert_eq!(unique, below(&|p| rows.table.committed_at(p)), "silver.rows");
    let totals = opened.derived.iter().find(|d| d.info.name.name == "totals").expect("totals");
    let counted: i64 = totals
        .table
        .all_rows()
        .await
        .expect("totals")
        .iter()
        .flat_map(|b| {
            b.column_by_name("n").expect("n").as_primitive::<Int64Type>().values().to_vec()
        })
        .sum();
    let promised = below(&|p| totals.at.positions.get("events", p));
    assert_eq!(counted, i64::try_from(promised.len()).expect("small"), "gold.totals");
}

/// (partition, offset, id) of every accepted record.
async fn accepted_rows(stream: &stream::StreamTables) -> Vec<(u32, Offset, String)> {
    let mut accepted = Vec::new();
    for rows in stream.acceptance.table.all_rows().await.expect("acceptance") {
        let verdict = rows.column_by_name("verdict").expect("verdict").as_string::<i32>();
        let id = rows.column_by_name("_event_id").expect("id").as_string::<i32>();
        let partition = rows.column_by_name("_partition").expect("partition");
        let partition = partition.as_primitive::<arrow::datatypes::Int32Type>();
        let offset = rows.column_by_name("_offset").expect("offset").as_primitive::<Int64Type>();
        for row in (0..rows.num_rows()).filter(|row| verdict.value(*row) == "accepted") {
            let partition = u32::try_from(partition.value(row)).expect("partition");
            accepted.push((partition, offset.value(row), id.value(row).to_owned()));
        }
    }
    accepted
}

fn ids(batches: &[arrow::array::RecordBatch], column: &str) -> Vec<String> {
    let columns = batches.iter().map(|b| b.column_by_name(column).expect("column"));
    columns.flat_map(|c| c.as_string::<i32>().iter().flatten().map(str::to_owned)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_log_than_the_lakes_is_refused() {
    let mut rig = Rig::new().await;
    let running = rig.start();
    rig.append([(1, "a", 10)]).await;
    running.settled().await;
    running.stop().await;
    rig.log.take();
    std::fs::remove_dir_all(rig.path("log")).expect("removed");
    rig.open_log().await;
    let error = rig.start().task.await.expect("task").expect_err("refused");
    assert!(matches!(error, Error::LogReplaced { .. }), "{error:?}");
    assert_eq!(error.kind(), ErrorKind::Data);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_of_bronze_that_is_missing_is_named() {
    let rig = Rig::new().await;
    let running = rig.start();
    rig.append([(1, "a", 1)]).await;
    running.settled().await;
    running.stop().await;
    let opened = async || {
        let deps = rig.deps(rig.plain_lake());
        let mut opened = open::open_tables(&deps).await?;
        opened.streams[0].hold([0, 1].into(), true);
        open::check(&deps, &mut opened.streams[0], &[0, 1].into()).await
    };
    opened().await.expect("whole");

    // Over offsets that no record has, decisions may be ahead of Bronze.
    let [_, name, _] = relations::stored_of("events");
    let audited = rig.plain_lake().audit(&name).await.expect("audit").expect("table");
    let (app_id, at) = audited.positions().pop_first().expect("position");
    let spec = TableSpec {
        name,
        schema: Arc::new(Schema::empty()),
        fingerprint: String::new(),
        description: String::new(),
    };
    let mut acceptance = rig.plain_lake().open(&spec, [app_id.clone()]).await.expect("open");
    acceptance.advance(vec![Move { app_id, from: Some(at), to: at + 1 }]).await.expect("advance");
    opened().await.expect("nothing is missing");

    let log = rig.path("lake/bronze/events/_delta_log").canonicalize().expect("log");
    let entries = std::fs::read_dir(&log).expect("folder").flatten().map(|entry| entry.path());
    let mut commits: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|e| e == "json")).collect();
    commits.sort();
    let adds = |path: &PathBuf| std::fs::read_to_string(path).expect("commit").contains("\"add\"");
    let rows = commits.iter().position(adds).expect("a commit with rows");
    commits[rows..].iter().for_each(|path| std::fs::remove_file(path).expect("remove"));
    let gone = opened().await.expect_err("gone").to_string();
    let missing = format!(": {} is not there; bring that file back", commits[rows].display());
    assert!(gone.starts_with("commit_missing: bronze.events ends before offset 0 of"), "{gone}");
    assert!(gone.ends_with(&missing), "{gone}");
    std::fs::write(&commits[rows], "").expect("empty");
    let empty = opened().await.expect_err("empty").to_string();
    let missing = format!(": {} is empty; bring that file back", commits[rows].display());
    assert!(empty.ends_with(&missing), "{empty}");
}
