//! Models and seeds that are new, changed or failing.

use super::support::{CONTRACT, COUNTS, Rig};
use crate::{
    domain::TableName,
    process::{Meter, rebuild},
    verify,
};

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

/// Files are written by the types of columns, whatever their names promise.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_may_give_other_types_to_the_names_of_our_columns() {
    let rig = Rig::new().await;
    let sql = "SELECT id, CAST(_offset AS TEXT) AS _offset, CAST(v AS DOUBLE) AS _ts, \
               v > 10 AS _ingested_at FROM {{ source('bronze', 'events') }}";
    rig.write("models/silver/own.sql", sql);
    let running = rig.start();
    rig.append([(1, "a", 10), (2, "a", 20)]).await;
    running.settled().await;
    running.stop().await;
    let rows = "SELECT _offset, _ts, _ingested_at FROM silver.own ORDER BY id";
    let running = rig.start();
    running.settled().await;
    assert_eq!(running.text(rows).await, "0 10.0 false\n0 20.0 true");
    running.stop().await;
}

/// The engine has functions that only its optimiser makes runnable.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn functions_that_the_engine_replaces_run_in_models_and_rules() {
    let rig = Rig::new().await;
    let some = "coalesce(nullif(v, 10), -1) + nvl(v, 0) + nvl2(v, 1, 2)";
    let sql = format!("SELECT id, {some} AS x FROM {{{{ source('bronze', 'events') }}}}");
    rig.write("models/silver/some.sql", &sql);
    let rule = "coalesce(v, 0) < 1000 AND nvl(v, 0) < 1000";
    rig.write("streams/events.yml", &CONTRACT.replace("v < 1000", rule));
    let running = rig.start();
    rig.append([(1, "a", 10), (2, "a", 20), (3, "a", 1_000)]).await;
    running.settled().await;
    assert_eq!(running.text("SELECT id, x FROM silver.some ORDER BY id").await, "e1 10\ne2 41");
    let quarantined = "SELECT count(*) FROM quarantine.events";
    assert_eq!(running.numbers(quarantined).await, [1]);
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
    assert!(failure.contains("`sluice rebuild`"), "{failure}");
    let failure = status["models"]["gold.named"]["failure"].as_str().expect("failure");
    assert!(failure.contains("gold.totals"), "{failure}");
    running.stop().await;
    // Doing what it says mends it.
    let done = rebuild(&rig.planned(), &rig.plain_lake(), &[], &Meter::default(), |_| {})
        .await
        .expect("rebuilt");
    let names: Vec<String> = done.iter().map(|done| done.table.to_string()).collect();
    assert_eq!(names, ["gold.totals", "gold.named"]);
    let running = rig.start();
    running.settled().await;
    assert_eq!(running.text("SELECT k, n, s FROM totals").await, "a 2 21");
    running.stop().await;
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
    let mut rig = Rig::new().await;
    let joined = "FROM {{ ref('rows') }} AS r LEFT JOIN {{ ref('name') }} AS name ON name.k = r.k";
    rig.write("models/gold/labelled.sql", &format!("SELECT r.id, name.label {joined}"));
    let sql = "SELECT label, count(*) AS n FROM {{ ref('labelled') }} GROUP BY label";
    rig.write("models/gold/by_label.sql", sql);
    let sql = format!("SELECT name.label, count(*) AS n {joined} GROUP BY name.label");
    rig.write("models/gold/per_label.sql", &sql);
    let running = rig.start();
    rig.append([(1, "a", 10)]).await;
    running.settled().await;
    rig.append([(2, "b", 11)]).await;
    running.settled().await;
    running.stop().await;
    rig.write("seeds/name.csv", "k,label,since\na,Alma,2020-01-01\n");
    let running = rig.start();
    running.settled().await;
    assert_eq!(running.text("SELECT label, since FROM seeds.name").await, "Alma 2020-01-01");
    assert_eq!(running.text("SELECT label, n FROM named").await, "Alma 1");
    let labelled = "SELECT id, coalesce(label, '-') FROM labelled ORDER BY id";
    assert_eq!(running.text(labelled).await, "e1 Alma\ne2 -");
    for counted in ["by_label", "per_label"] {
        let sql = format!("SELECT coalesce(label, '-') AS label, n FROM {counted} ORDER BY label");
        assert_eq!(running.text(&sql).await, "- 1\nAlma 1", "{counted}");
    }
    running.stop().await;
    rig.reopen_log().await;
    rig.append([(3, "a", 12), (4, "b", 13)]).await;
    let running = rig.start();
    running.settled().await;
    assert_eq!(running.text(labelled).await, "e1 Alma\ne2 -\ne3 Alma\ne4 -");
    running.stop().await;
    let facts = verify::collect(&rig.planned(), &rig.plain_lake()).await.expect("facts");
    let report = verify::check(&[], &facts);
    assert!(report.green, "{report}");
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
