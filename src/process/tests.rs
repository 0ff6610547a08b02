//! The loop as a whole, on an embedded log and real Delta tables.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use arrow::{array::AsArray as _, datatypes::Int64Type};
use datafusion::{execution::runtime_env::RuntimeEnv, prelude::SessionConfig};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    domain::{Durability, TableName, identity::Identity, record::Record},
    lake::{
        FsyncStore, LakeView,
        faults::{Fault, FaultStore},
        session::{Columns, session},
    },
    log::{
        StreamSpec,
        embedded::{self, EmbeddedLog},
    },
    project,
};

const CONTRACT: &str = "
name: events
event_id: id
partitions: 2
fields:
  - {name: id, type: text, required: true}
  - {name: k, type: text, required: true, accepted_values: [a, b, c]}
  - {name: v, type: int, required: true}
rules:
  small: v < 1000
";

const MODELS: [(&str, &str); 5] = [
    ("silver/rows.sql", "SELECT id, k, v FROM {{ source('bronze', 'events') }}"),
    ("silver/big.sql", "SELECT id, v * 2 AS w FROM {{ ref('rows') }} WHERE v >= 50"),
    ("gold/totals.sql", "SELECT k, count(*) AS n, sum(v) AS s FROM {{ ref('rows') }} GROUP BY k"),
    (
        "gold/named.sql",
        "SELECT name.label, t.n FROM {{ ref('totals') }} AS t JOIN {{ ref('name') }} AS name ON \
         name.k = t.k",
    ),
    (
        "gold/top.sql",
        "{{ config(materialized='view') }} SELECT k FROM {{ ref('totals') }} ORDER BY n DESC, k",
    ),
];

/// A project, its log and its lake in a temporary folder.
struct Rig {
    dir: tempfile::TempDir,
    log: Option<Arc<EmbeddedLog>>,
}

/// A running loop.
struct Running {
    view: Arc<LakeHandle>,
    status: Arc<Status>,
    stop: CancellationToken,
    task: JoinHandle<Result<(), Error>>,
}

fn settings() -> Settings {
    Settings {
        seal_interval_ms: 20,
        poll_wait_ms: 2,
        recompute_percent: 100,
        ..Settings::default()
    }
}

impl Rig {
    async fn new() -> Self {
        let mut rig = Self { dir: tempfile::tempdir().expect("folder"), log: None };
        rig.write("sluice.yml", "name: test\n");
        rig.write("streams/events.yml", CONTRACT);
        rig.write("seeds/name.csv", "k,label\na,Anna\nb,Berta\n");
        for (name, sql) in MODELS {
            rig.write(&format!("models/{name}"), sql);
        }
        rig.open_log().await;
        rig
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.dir.path().join("project").join(name);
        std::fs::create_dir_all(path.parent().expect("parent")).expect("folder");
        std::fs::write(path, text).expect("file");
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    async fn open_log(&mut self) {
        let settings = embedded::Settings {
            // Small, so that trimming really drops segments.
            segment_bytes: 2_048,
            durability: Durability::Os,
            ..embedded::Settings::default()
        };
        let log = EmbeddedLog::open(&self.path("log"), settings, Clock::system()).expect("log");
        log.ensure(&[StreamSpec { name: "events".into(), partitions: 2 }]).await.expect("ensure");
        self.log = Some(log);
    }

    fn log(&self) -> &Arc<EmbeddedLog> {
        self.log.as_ref().expect("log")
    }

    async fn append(&self, events: impl IntoIterator<Item = (usize, &'static str, i64)>) {
        let records = events.into_iter().map(|(id, k, v)| event(id, k, v)).collect();
        self.log().append("events", records).await.expect("append");
    }

    fn plain_lake(&self) -> Lake {
        Lake::local(&self.path("lake"), Durability::Os).expect("lake")
    }

    fn planned(&self) -> Planned {
        let loaded = project::load(&self.path("project")).and_then(plan);
        loaded.unwrap_or_else(|errors| panic!("{errors}"))
    }

    fn deps(&self, lake: Lake) -> Deps {
        Deps {
            planned: Arc::new(self.planned()),
            log: Arc::<EmbeddedLog>::clone(self.log()),
            lake,
            view: LakeHandle::new(LakeView::default()),
            clock: Clock::system(),
            status: Arc::default(),
        }
    }

    fn start(&self) -> Running {
        self.start_on(self.plain_lake())
    }

    /// Runs on a lake whose commits meet what `plan` says; it sees the path of every commit.
    fn start_on_faults(
        &self,
        mut plan: impl FnMut(&str) -> Option<Fault> + Send + 'static,
    ) -> Running {
        let inner = Arc::new(FsyncStore::new(Durability::Os));
        let only_commits = move |path: &str| path.ends_with(".json").then(|| plan(path)).flatten();
        let store = Arc::new(FaultStore::new(inner, only_commits));
        self.start_on(Lake::with_store(&self.path("lake"), store).expect("lake"))
    }

    fn start_on(&self, lake: Lake) -> Running {
        let deps = self.deps(lake);
        let (view, status) = (Arc::clone(&deps.view), Arc::clone(&deps.status));
        let stop = CancellationToken::new();
        let task = tokio::spawn(run(settings(), deps, watch::Sender::new(false), stop.clone()));
        Running { view, status, stop, task }
    }
}

fn event(id: usize, k: &str, v: i64) -> Record {
    Record {
        key: None,
        identity: Identity::Given(format!("e{id}")),
        payload: format!("{{\"id\":\"e{id}\",\"k\":\"{k}\",\"v\":{v}}}").into(),
    }
}

impl Running {
    /// Everything that is in the log is in every table, committed.
    async fn settled(&self) -> &Self {
        tokio::time::timeout(Duration::from_secs(120), self.view.settle()).await.expect("settled");
        self
    }

    async fn numbers(&self, sql: &str) -> Vec<i64> {
        numbers(&self.view.load(), sql).await
    }

    async fn text(&self, sql: &str) -> String {
        text(&self.view.load(), sql).await
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.expect("task").expect("stopped");
    }

    /// Ends as a killed process does: nothing more is written.
    async fn kill(self) {
        self.task.abort();
        self.task.await.ok();
    }
}

async fn batches(view: &Arc<LakeView>, sql: &str) -> Vec<arrow::array::RecordBatch> {
    let runtime = Arc::new(RuntimeEnv::default());
    let context = session(view, Columns::Visible, SessionConfig::new(), runtime);
    context.sql(sql).await.expect(sql).collect().await.expect(sql)
}

/// The first row.
async fn numbers(view: &Arc<LakeView>, sql: &str) -> Vec<i64> {
    let rows = batches(view, sql).await;
    let row = rows.iter().find(|b| b.num_rows() > 0).expect("a row");
    row.columns().iter().map(|c| c.as_primitive::<Int64Type>().value(0)).collect()
}

async fn text(view: &Arc<LakeView>, sql: &str) -> String {
    let rows = batches(view, sql).await;
    let mut lines: Vec<String> = Vec::new();
    for batch in &rows {
        for row in 0..batch.num_rows() {
            let cells = batch.columns().iter().map(|column| {
                arrow::util::display::array_value_to_string(column, row).expect("cell")
            });
            lines.push(cells.collect::<Vec<_>>().join(" "));
        }
    }
    lines.join("\n")
}

const COUNTS: &str = "SELECT count(*), count(DISTINCT id), sum(v) FROM silver.rows";

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
    rig.log.take();
    rig.open_log().await;
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
    rig.log.take();
    rig.open_log().await;
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
            let mut left: usize = random.random_range(1..40);
            let running = rig.start_on_faults(move |path| {
                if path.contains("00000000000.json") {
                    return None;
                }
                left = left.saturating_sub(1);
                match left {
                    0 => Some(Fault::Refused),
                    1 => Some(Fault::ReplyLost),
                    _ => None,
                }
            });
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
            rig.log.take();
            rig.open_log().await;
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
    let opened = open::open(&deps).await.expect("open");
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
    let promised = below(&|p| totals.positions.get("events", p));
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
async fn a_changed_seed_is_a_change_like_any_other() {
    let rig = Rig::new().await;
    let running = rig.start();
    rig.append([(1, "a", 10)]).await;
    running.settled().await;
    running.stop().await;
    rig.write("seeds/name.csv", "k,label\na,Alma\nb,Berta\n");
    let running = rig.start();
    running.settled().await;
    assert_eq!(running.text("SELECT label, n FROM named").await, "Alma 1");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_model_is_filled_from_what_is_there() {
    let rig = Rig::new().await;
    let running = rig.start();
    rig.append((0..30).map(|id| (id, "a", 1))).await;
    running.settled().await;
    running.stop().await;
    rig.write("models/silver/late.sql", "SELECT id FROM {{ source('bronze', 'events') }}");
    let running = rig.start();
    rig.append([(77, "b", 1)]).await;
    running.settled().await;
    assert_eq!(running.numbers("SELECT count(*) FROM silver.late").await, [31]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_model_stops_with_what_depends_on_it_and_says_what_to_do() {
    let rig = Rig::new().await;
    let running = rig.start();
    rig.append([(1, "a", 10)]).await;
    running.settled().await;
    running.stop().await;
    let changed = "SELECT k, count(*) AS n, sum(v) + 1 AS s FROM {{ ref('rows') }} GROUP BY k";
    rig.write("models/gold/totals.sql", changed);
    let running = rig.start();
    rig.append([(2, "a", 10)]).await;
    running.settled().await;
    // The others go on, the old table still answers.
    assert_eq!(running.numbers(COUNTS).await, [2, 2, 20]);
    assert_eq!(running.text("SELECT k, n, s FROM totals").await, "a 1 10");
    let status = running.status.to_json();
    let failure = status["models"]["gold.totals"]["failure"].as_str().expect("failure");
    assert!(failure.contains("remove the folder lake/gold/totals"), "{failure}");
    let failure = status["models"]["gold.named"]["failure"].as_str().expect("failure");
    assert!(failure.contains("gold.totals"), "{failure}");
    running.stop().await;
    // Doing what it says mends it.
    for name in ["totals", "named"] {
        std::fs::remove_dir_all(rig.path("lake/gold").join(name)).expect("removed");
    }
    let running = rig.start();
    running.settled().await;
    assert_eq!(running.text("SELECT k, n, s FROM totals").await, "a 2 21");
    running.stop().await;
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
async fn a_model_that_fails_leaves_the_others_running() {
    let rig = Rig::new().await;
    let division = "SELECT k, 1 / (sum(v) - 10) AS q FROM {{ ref('rows') }} GROUP BY k";
    rig.write("models/gold/fragile.sql", division);
    rig.write("models/gold/below.sql", "SELECT count(*) AS n FROM {{ ref('fragile') }}");
    let running = rig.start();
    rig.append([(1, "a", 10)]).await;
    running.settled().await;
    assert_eq!(running.numbers(COUNTS).await, [1, 1, 10]);
    assert_eq!(running.text("SELECT k, n FROM totals").await, "a 1");
    let failure = running.status.to_json()["models"]["gold.fragile"]["failure"].to_string();
    assert!(failure.to_lowercase().contains("divide by zero"), "{failure}");
    rig.append([(2, "a", 1)]).await;
    running.settled().await;
    assert_eq!(running.text("SELECT k, q FROM gold.fragile").await, "a 1");
    assert_eq!(running.numbers("SELECT n FROM gold.below").await, [1]);
    assert!(running.status.to_json()["models"]["gold.fragile"]["failure"].is_null());
    running.stop().await;
}

/// An event that a row-wise model cannot be computed for stops that model and what reads it, not
/// the server; after mending, the table is caught up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_bad_row_stops_its_model_and_nothing_else() {
    let rig = Rig::new().await;
    rig.write("models/silver/fragile.sql", "SELECT id, 10 / v AS q FROM {{ ref('rows') }}");
    rig.write("models/silver/child.sql", "SELECT id, q + 1 AS r FROM {{ ref('fragile') }}");
    rig.write("models/gold/below.sql", "SELECT count(*) AS n FROM {{ ref('child') }}");
    let running = rig.start();
    rig.append([(1, "a", 5)]).await;
    running.settled().await;
    assert!(running.view.load().lagging.is_empty());
    rig.append([(2, "a", 0)]).await;
    rig.append([(3, "b", 2)]).await;
    running.settled().await;
    assert_eq!(running.numbers(COUNTS).await, [3, 3, 7]);
    assert_eq!(running.text("SELECT k, n FROM totals ORDER BY k").await, "a 2\nb 1");
    let view = running.view.load();
    let lagging: Vec<String> = view.lagging.keys().map(ToString::to_string).collect();
    assert_eq!(lagging, ["gold.below", "silver.child", "silver.fragile"]);
    let fragile = &view.lagging[&TableName::new("silver", "fragile")];
    assert!(fragile.to_lowercase().contains("divide by zero"), "{fragile}");
    // What it had stays, at its own positions.
    assert_eq!(running.numbers("SELECT count(*) FROM silver.fragile").await, [1]);
    let names = [TableName::new("silver", "fragile")];
    assert!(!view.positions_of(&names).covers(&view.positions));
    running.stop().await;
    let running = rig.start();
    running.settled().await;
    assert_eq!(running.numbers("SELECT count(*) FROM silver.fragile").await, [1]);
    running.stop().await;
    rig.write(
        "models/silver/fragile.sql",
        "SELECT id, 10 / nullif(v, 0) AS q FROM {{ ref('rows') }}",
    );
    for name in ["silver/fragile", "silver/child", "gold/below"] {
        std::fs::remove_dir_all(rig.path("lake").join(name)).expect("removed");
    }
    let running = rig.start();
    running.settled().await;
    assert!(running.view.load().lagging.is_empty(), "{:?}", running.view.load().lagging);
    assert_eq!(running.text("SELECT id, r FROM silver.child ORDER BY id").await, "e1 3\ne2 \ne3 6");
    assert_eq!(running.numbers("SELECT n FROM below").await, [3]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_that_cannot_be_evaluated_for_a_row_is_broken_by_that_row() {
    let rig = Rig::new().await;
    rig.write("streams/events.yml", &CONTRACT.replace("v < 1000", "10 / v >= 0"));
    let running = rig.start();
    rig.append([(1, "a", 5), (2, "a", 0), (3, "b", 2)]).await;
    running.settled().await;
    assert_eq!(running.numbers(COUNTS).await, [2, 2, 7]);
    let quarantined = "SELECT array_to_string(rules, '+'), message FROM quarantine.events";
    let text = running.text(quarantined).await.to_lowercase();
    assert!(text.starts_with("small ") && text.contains("divide by zero"), "{text}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seed_with_other_columns_is_loaded_anew() {
    let rig = Rig::new().await;
    let running = rig.start();
    rig.append([(1, "a", 10)]).await;
    running.settled().await;
    running.stop().await;
    rig.write("seeds/name.csv", "k,label,since\na,Alma,2020-01-01\n");
    let running = rig.start();
    running.settled().await;
    assert_eq!(running.text("SELECT label, since FROM seeds.name").await, "Alma 2020-01-01");
    assert_eq!(running.text("SELECT label, n FROM named").await, "Alma 1");
    running.stop().await;
}

/// A quarantined event keeps the identity of its content, also where its id is accepted later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quarantine_that_is_rebuilt_is_what_it_was() {
    let rig = Rig::new().await;
    let running = rig.start();
    rig.append([(1, "a", 5_000)]).await;
    running.settled().await;
    rig.append([(1, "a", 5)]).await;
    running.settled().await;
    let sql = "SELECT _event_id, payload_text FROM quarantine.events";
    let first = running.text(sql).await;
    assert!(first.starts_with("content:"), "{first}");
    running.stop().await;
    std::fs::remove_dir_all(rig.path("lake/quarantine/events")).expect("removed");
    let running = rig.start();
    running.settled().await;
    assert_eq!(running.text(sql).await, first);
    running.stop().await;
}

#[test]
fn sql_that_would_exhaust_the_stack_is_refused_with_its_file() {
    let dir = tempfile::tempdir().expect("folder");
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().expect("parent")).expect("folder");
        std::fs::write(path, text).expect("file");
    };
    let chain = vec!["1"; 20_000].join("+");
    write("sluice.yml", "name: test\n");
    write("streams/events.yml", &CONTRACT.replace("v < 1000", &format!("{chain} > v")));
    write("models/gold/b.sql", &format!("SELECT {chain} AS a"));
    write("models/gold/c.sql", "SELECT 1 AS a, 2 AS \"A\"");
    write("models/gold/d.sql", "SELECT count(*) FROM {{ source('bronze', 'events') }}");
    let errors = plan_at(dir.path()).expect_err("errors").to_string();
    for expected in
        ["models/gold/b.sql", "in one chain", "rule `small`", "`A` stands twice", "AS name"]
    {
        assert!(errors.contains(expected), "{expected} in\n{}", &errors[..errors.len().min(4_000)]);
    }
    write(
        "models/gold/b.sql",
        "{% for i in range(9999) %}{% for j in range(9999) %}x{% endfor %}{% endfor %}",
    );
    let errors = plan_at(dir.path()).expect_err("errors").to_string();
    assert!(errors.contains("models/gold/b.sql"), "{errors}");
}

#[test]
fn rules_that_are_not_sql_are_placed_in_the_contract() {
    let dir = tempfile::tempdir().expect("folder");
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().expect("parent")).expect("folder");
        std::fs::write(path, text).expect("file");
    };
    write("sluice.yml", "name: test\n");
    write("streams/events.yml", &CONTRACT.replace("v < 1000", "w < 1000"));
    let errors = plan_at(dir.path()).expect_err("errors").to_string();
    assert!(errors.contains("streams/events.yml:10"), "{errors}");
    assert!(errors.contains("rule `small`"), "{errors}");
    write("streams/events.yml", &CONTRACT.replace("v < 1000", "v + 1"));
    let errors = plan_at(dir.path()).expect_err("errors").to_string();
    assert!(errors.contains("not a boolean"), "{errors}");
}

#[test]
fn wrong_sql_is_placed_in_the_users_file_with_the_nearest_column() {
    let dir = tempfile::tempdir().expect("folder");
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().expect("parent")).expect("folder");
        std::fs::write(path, text).expect("file");
    };
    write("sluice.yml", "name: test\n");
    write("streams/events.yml", CONTRACT);
    write("models/silver/a.sql", "SELECT id,\n       kk\nFROM {{ source('bronze', 'events') }}");
    write("models/silver/b.sql", "SELECT id\nFRM {{ source('bronze', 'events') }}");
    write("models/silver/c.sql", "SELECT id, id FROM {{ source('bronze', 'events') }}");
    write("models/silver/d.sql", "CREATE TABLE x AS SELECT 1 AS a");
    let errors = plan_at(dir.path()).expect_err("errors").to_string();
    for expected in [
        "models/silver/a.sql:2:8",
        "did you mean `k`?",
        "models/silver/b.sql:2",
        "models/silver/c.sql",
        "models/silver/d.sql",
        "4 errors",
    ] {
        assert!(errors.contains(expected), "{expected} in\n{errors}");
    }
}

fn plan_at(root: &Path) -> Result<(), project::Diagnostics> {
    project::load(root).and_then(plan).map(|_| ())
}
