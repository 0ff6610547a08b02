//! A project, its log, its lake, and the loop running over them.

use std::{sync::Arc, time::Duration};

use arrow::{array::AsArray as _, datatypes::Int64Type};
use datafusion::{execution::runtime_env::RuntimeEnv, prelude::SessionConfig};
use rand::{Rng as _, rngs::StdRng};
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{
    domain::{Durability, identity::Identity, record::Record},
    lake::{
        FsyncStore, LakeView,
        faults::{Fault, FaultStore},
        session::{Columns, session},
    },
    log::{
        StreamSpec,
        embedded::{self, EmbeddedLog},
    },
    process::{quarantine::Quarantine, *},
    project, verify,
};

pub(crate) const CONTRACT: &str = "
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

pub(crate) const MODELS: [(&str, &str); 5] = [
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
pub(crate) struct Rig {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) log: Option<Arc<EmbeddedLog>>,
}

/// A running loop.
pub(crate) struct Running {
    pub(crate) view: Arc<LakeHandle>,
    pub(crate) status: Arc<Status>,
    pub(crate) quarantine: Quarantine,
    pub(crate) stop: CancellationToken,
    pub(crate) task: JoinHandle<Result<(), Error>>,
}

pub(crate) fn settings() -> Settings {
    Settings {
        seal_interval_ms: 20,
        poll_wait_ms: 2,
        recompute_percent: 100,
        ..Settings::default()
    }
}

impl Rig {
    pub(crate) async fn new() -> Self {
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

    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.dir.path().join("project").join(name);
        std::fs::create_dir_all(path.parent().expect("parent")).expect("folder");
        std::fs::write(path, text).expect("file");
    }

    pub(crate) fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) async fn open_log(&mut self) {
        let settings = embedded::Settings {
            // Small, so that trimming really drops segments.
            segment_bytes: 2_048,
            durability: Durability::Os,
            ..embedded::Settings::default()
        };
        // What a killed loop has under way in the log ends first.
        let opened = async {
            loop {
                match EmbeddedLog::open(&self.path("log"), settings.clone(), Clock::system()) {
                    Err(log::Error::Unavailable { .. }) => tokio::task::yield_now().await,
                    opened => return opened.expect("log"),
                }
            }
        };
        let log =
            tokio::time::timeout(Duration::from_secs(60), opened).await.expect("the log is free");
        log.ensure(&[StreamSpec::new("events", 2)]).await.expect("ensure");
        self.log = Some(log);
    }

    /// Closes the log and opens it again, as a restart does.
    pub(crate) async fn reopen_log(&mut self) {
        self.log.take();
        self.open_log().await;
    }

    pub(crate) fn log(&self) -> &Arc<EmbeddedLog> {
        self.log.as_ref().expect("log")
    }

    pub(crate) async fn append(
        &self,
        events: impl IntoIterator<Item = (usize, &'static str, i64)>,
    ) {
        let records = events.into_iter().map(|(id, k, v)| event(id, k, v)).collect();
        self.log().append("events", records).await.expect("append");
    }

    pub(crate) fn plain_lake(&self) -> Lake {
        Lake::local(&self.path("lake"), Durability::Os).expect("lake")
    }

    pub(crate) fn planned(&self) -> Planned {
        let loaded = project::load(&self.path("project")).and_then(plan);
        loaded.unwrap_or_else(|errors| panic!("{errors}"))
    }

    pub(crate) fn deps(&self, lake: Lake) -> Deps {
        Deps {
            planned: Arc::new(self.planned()),
            log: Arc::<EmbeddedLog>::clone(self.log()),
            membership: None,
            lake,
            view: LakeHandle::new(LakeView::default()),
            clock: Clock::system(),
            status: Arc::default(),
            discards: Arc::default(),
            results: Arc::default(),
        }
    }

    pub(crate) fn start(&self) -> Running {
        self.start_on(self.plain_lake())
    }

    /// Runs on a lake whose commits meet what `plan` says; it sees the path of every commit.
    pub(crate) fn start_on_faults(
        &self,
        mut plan: impl FnMut(&str) -> Option<Fault> + Send + 'static,
    ) -> Running {
        let inner = Arc::new(FsyncStore::new(Durability::Os));
        let only_commits = move |path: &str| path.ends_with(".json").then(|| plan(path)).flatten();
        let store = Arc::new(FaultStore::new(inner, only_commits));
        self.start_on(Lake::with_store(&self.path("lake"), store).expect("lake"))
    }

    /// Runs on a lake in which, after `left` commits, the outcome of one is not told and the next
    /// ones are refused.
    pub(crate) fn start_until_refused(&self, mut left: usize) -> Running {
        self.start_on_faults(move |path| {
            if path.contains("00000000000.json") {
                return None;
            }
            left = left.saturating_sub(1);
            match left {
                0 => Some(Fault::Refused),
                1 => Some(Fault::ReplyLost),
                _ => None,
            }
        })
    }

    pub(crate) fn start_on(&self, lake: Lake) -> Running {
        start(settings(), self.deps(lake))
    }
}

/// A run on top of what is there, in which commits stop going through at a random one of the first
/// `commits`, anywhere between two tables; then a kill. What it leaves is sound.
pub(crate) async fn killed(
    rig: &mut Rig,
    random: &mut StdRng,
    commits: usize,
    append: impl AsyncFn(&Rig, &mut StdRng),
    when: &str,
) {
    let running = rig.start_until_refused(random.random_range(1..commits));
    running.view.wait_until(|view| !view.tables.is_empty()).await;
    for _ in 0..12 {
        append(rig, random).await;
        for _ in 0..random.random_range(0..400) {
            tokio::task::yield_now().await;
        }
    }
    let settled = tokio::time::timeout(Duration::from_millis(300), running.view.settle());
    settled.await.ok();
    running.kill().await;
    verified(rig, when).await;
    rig.reopen_log().await;
}

/// The loop over `deps`, running.
pub(crate) fn start(settings: Settings, deps: Deps) -> Running {
    let (view, status) = (Arc::clone(&deps.view), Arc::clone(&deps.status));
    let quarantine = Quarantine::new(&deps);
    let stop = CancellationToken::new();
    let task = tokio::spawn(run(settings, deps, watch::Sender::new(false), stop.clone()));
    Running { view, status, quarantine, stop, task }
}

pub(crate) fn event(id: usize, k: &str, v: i64) -> Record {
    Record {
        key: None,
        identity: Identity::Given(format!("e{id}")),
        headers: Vec::new(),
        payload: format!("{{\"id\":\"e{id}\",\"k\":\"{k}\",\"v\":{v}}}").into(),
    }
}

impl Running {
    /// Everything that is in the log is in every table, committed.
    pub(crate) async fn settled(&self) -> &Self {
        let settled = tokio::time::timeout(Duration::from_secs(120), self.view.settle()).await;
        if settled.is_err() {
            let (view, status) = (self.view.load(), self.status.to_json());
            let (at, lagging, ended) = (&view.positions, &view.lagging, self.task.is_finished());
            panic!("not settled: at {at}, lagging {lagging:?}, ended {ended}, {status}");
        }
        self
    }

    pub(crate) async fn numbers(&self, sql: &str) -> Vec<i64> {
        numbers(&self.view.load(), sql).await
    }

    pub(crate) async fn text(&self, sql: &str) -> String {
        text(&self.view.load(), sql).await
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.task.await.expect("task").expect("stopped");
    }

    pub(crate) async fn end(self, is_killed: bool) {
        match is_killed {
            true => self.kill().await,
            false => self.stop().await,
        }
    }

    /// Ends as a killed process does: nothing more is written.
    pub(crate) async fn kill(self) {
        self.task.abort();
        self.task.await.ok();
    }
}

pub(crate) async fn batches(view: &Arc<LakeView>, sql: &str) -> Vec<arrow::array::RecordBatch> {
    let runtime = Arc::new(RuntimeEnv::default());
    let context = session(view, Columns::Visible, SessionConfig::new(), runtime);
    context.sql(sql).await.expect(sql).collect().await.expect(sql)
}

/// The first row.
pub(crate) async fn numbers(view: &Arc<LakeView>, sql: &str) -> Vec<i64> {
    let rows = batches(view, sql).await;
    let row = rows.iter().find(|b| b.num_rows() > 0).expect("a row");
    row.columns().iter().map(|c| c.as_primitive::<Int64Type>().value(0)).collect()
}

pub(crate) async fn text(view: &Arc<LakeView>, sql: &str) -> String {
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

/// What `silver.rows` holds: rows, identities, sum.
pub(crate) const COUNTS: &str = "SELECT count(*), count(DISTINCT id), sum(v) FROM silver.rows";

/// The checker finds nothing in the lake.
pub(crate) async fn verified(rig: &Rig, when: &str) {
    let facts = verify::collect(&rig.planned(), &rig.plain_lake()).await.expect("facts");
    let report = verify::check(&[], &facts);
    assert!(report.green, "{when}: {report}");
}
