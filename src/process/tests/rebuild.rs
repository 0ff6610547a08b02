//! Tables that are made anew after their definition changed.

use super::{
    contracts::{NOTED, is_green, rich},
    support::{CONTRACT, COUNTS, Rig},
};
use crate::{
    domain::TableName,
    lake::{
        FsyncStore, Lake,
        faults::{Fault, FaultStore},
    },
    log::Log as _,
    process::{Meter, Outcome, outdated, rebuild},
};

/// Rebuilds what is outdated: each table with its rows and files, or why not.
async fn rebuilt(rig: &Rig, names: &[TableName]) -> Vec<String> {
    let done = rebuild(&rig.planned(), &rig.plain_lake(), names, &Meter::default(), |_| {})
        .await
        .expect("rebuilt");
    done.iter()
        .map(|done| match &done.outcome {
            Outcome::Rebuilt(rebuilt) => {
                format!("{} {} {}", done.table, rebuilt.rows, rebuilt.files)
            }
            Outcome::Failed(reason) => format!("{} {reason}", done.table),
        })
        .collect()
}

fn with_note() -> String {
    let contract = CONTRACT.replace("  - {name: v, type: int, required: true}\n", NOTED);
    assert!(contract.contains("note"));
    contract
}

const ALL: &str = "SELECT * FROM {{ source('bronze', 'events') }}";

/// A lake with 3 events, two of which have a member that no contract knows yet, and a model that
/// takes all columns; then a contract that knows it.
async fn outgrown() -> Rig {
    let mut rig = Rig::new().await;
    rig.write("models/silver/all.sql", ALL);
    rig.write("models/silver/child.sql", "SELECT id, v + 1 AS v FROM {{ ref('all') }}");
    let running = rig.start();
    let records = vec![rich(1, "a", 10, "7"), rich(2, "b", 60, "8"), rich(1, "a", 10, "7")];
    rig.log().append("events", records).await.expect("append");
    rig.append([(3, "a", 70), (4, "x", 1)]).await;
    running.settled().await;
    running.stop().await;
    rig.write("streams/events.yml", &with_note());
    rig.reopen_log().await;
    rig
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_columns_of_a_stream_take_a_new_field_by_a_rebuild() {
    let mut rig = outgrown().await;
    let running = rig.start();
    rig.log().append("events", vec![rich(5, "a", 5, "9")]).await.expect("append");
    running.settled().await;
    let lagging: Vec<String> =
        running.view.load().lagging.keys().map(ToString::to_string).collect();
    assert_eq!(lagging, ["silver.all", "silver.child"]);
    assert_eq!(running.numbers(COUNTS).await, [4, 4, 145]);
    running.stop().await;
    assert_eq!(rebuilt(&rig, &[]).await, ["silver.all 4 1", "silver.child 4 1"]);
    is_green(&rig).await;
    assert_eq!(rebuilt(&rig, &[]).await, [""; 0]);
    rig.reopen_log().await;
    let running = rig.start();
    rig.log().append("events", vec![rich(6, "b", 6, "11")]).await.expect("append");
    running.settled().await;
    let notes = running.text("SELECT id, v, note FROM silver.all ORDER BY id").await;
    assert_eq!(notes, "e1 10 7\ne2 60 8\ne3 70 \ne5 5 9\ne6 6 11");
    let child = running.text("SELECT id, v FROM silver.child ORDER BY id").await;
    assert_eq!(child, "e1 11\ne2 61\ne3 71\ne5 6\ne6 7");
    assert!(running.view.load().lagging.is_empty(), "{:?}", running.view.load().lagging);
    running.stop().await;
    is_green(&rig).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wider_type_rebuilds_what_reads_it() {
    let mut rig = Rig::new().await;
    let running = rig.start();
    rig.append([(1, "a", 10), (2, "b", 60), (3, "a", 70)]).await;
    running.settled().await;
    running.stop().await;
    rig.write(
        "streams/events.yml",
        &CONTRACT.replace("v, type: int", "v, type: \"decimal(20,1)\""),
    );
    rig.reopen_log().await;
    assert_eq!(
        rebuilt(&rig, &[]).await,
        ["silver.rows 3 1", "gold.totals 2 1", "silver.big 2 1", "gold.named 2 1"]
    );
    is_green(&rig).await;
    let running = rig.start();
    let mut half = rich(4, "a", 0, "1");
    half.payload = "{\"id\":\"e4\",\"k\":\"a\",\"v\":50.5}".into();
    rig.log().append("events", vec![half]).await.expect("append");
    running.settled().await;
    assert_eq!(
        running.text("SELECT id, w FROM silver.big ORDER BY id").await,
        "e2 120.0\ne3 140.0\ne4 101.0"
    );
    assert_eq!(running.text("SELECT k, n, s FROM totals ORDER BY k").await, "a 3 130.5\nb 1 60.0");
    assert_eq!(running.text("SELECT label, n FROM named ORDER BY label").await, "Anna 3\nBerta 1");
    running.stop().await;
    is_green(&rig).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_that_is_kept_otherwise_now_is_rebuilt() {
    let mut rig = Rig::new().await;
    let running = rig.start();
    rig.append([(1, "a", 10), (2, "b", 60), (3, "a", 70)]).await;
    running.settled().await;
    running.stop().await;
    // What was row by row is computed whole now, and the other way round.
    let max = "SELECT k AS id, k, max(v) AS v FROM {{ source('bronze', 'events') }} GROUP BY k";
    rig.write("models/silver/rows.sql", max);
    rig.write("models/gold/totals.sql", "SELECT k, v AS n FROM {{ source('bronze', 'events') }}");
    rig.reopen_log().await;
    assert_eq!(
        rebuilt(&rig, &[]).await,
        ["gold.totals 3 1", "silver.rows 2 1", "gold.named 3 1", "silver.big 2 1"]
    );
    is_green(&rig).await;
    let running = rig.start();
    rig.append([(4, "a", 100)]).await;
    running.settled().await;
    assert_eq!(running.text("SELECT id, w FROM silver.big ORDER BY id").await, "a 200\nb 120");
    assert_eq!(running.numbers("SELECT count(*), sum(n) FROM totals").await, [4, 240]);
    running.stop().await;
    is_green(&rig).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn named_tables_are_rebuilt_with_what_reads_them() {
    let rig = outgrown().await;
    let names = [TableName::new("gold", "totals")];
    assert_eq!(rebuilt(&rig, &names).await, ["gold.totals 2 1", "gold.named 2 1"]);
    // A table over one that is of another definition cannot be made.
    let names = [TableName::new("silver", "child")];
    let refused = "silver.child it reads silver.all, which is of another definition";
    assert_eq!(rebuilt(&rig, &names).await, [refused]);
    rebuilt(&rig, &[]).await;
    is_green(&rig).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_that_fails_leaves_its_table_as_it_was() {
    let rig = Rig::new().await;
    let running = rig.start();
    rig.append([(1, "a", 10), (2, "b", 60)]).await;
    running.settled().await;
    running.stop().await;
    rig.write(
        "models/silver/rows.sql",
        "SELECT id, k, 10 / (v - 60) AS v FROM {{ source('bronze', 'events') }}",
    );
    let before = rig.plain_lake().stored(&TableName::new("silver", "rows")).await.expect("read");
    let done = rebuilt(&rig, &[]).await;
    assert!(done[0].to_lowercase().contains("divide by zero"), "{}", done[0]);
    assert_eq!(done[1], "gold.totals it reads silver.rows, which is of another definition");
    assert_eq!(done.len(), 4);
    let after = rig.plain_lake().stored(&TableName::new("silver", "rows")).await.expect("read");
    let version = |stored: Option<crate::lake::Stored>| stored.expect("table").table.version();
    assert_eq!(version(before), version(after));
}

/// The one commit of a table fails, then lands without an answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebuild_whose_commit_fails_is_tried_again() {
    let rig = outgrown().await;
    let mut commits = 0;
    let faults = move |path: &str| {
        if !(path.ends_with(".json") && path.contains("/silver/")) {
            return None;
        }
        commits += 1;
        [Fault::Refused, Fault::ReplyLost].into_iter().nth(commits - 1)
    };
    let store = FaultStore::new(
        std::sync::Arc::new(FsyncStore::new(crate::domain::Durability::Os)),
        faults,
    );
    let lake = Lake::with_store(&rig.path("lake"), std::sync::Arc::new(store)).expect("lake");
    assert_eq!(outdated(&rig.planned(), &lake).await.expect("read").len(), 2);
    let done =
        rebuild(&rig.planned(), &lake, &[], &Meter::default(), |_| {}).await.expect("rebuilt");
    assert_eq!(done.len(), 2);
    assert_eq!(outdated(&rig.planned(), &lake).await.expect("read"), []);
    is_green(&rig).await;
}
