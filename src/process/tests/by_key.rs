//! Models by key, in the loop: what they show, say and commit between two looks.

use std::{sync::Arc, time::Duration};

use super::support::*;
use crate::{
    domain::TableName,
    process::{Halted, Settings, looks::Scope, pipeline::Pipeline},
};

/// What is joined to the rows has changed while nobody ran.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_by_key_sees_a_seed_that_changed_before_the_start() {
    let mut rig = Rig::new().await;
    rig.write(
        "models/gold/labels.sql",
        "SELECT r.k, count(DISTINCT name.label) AS labels FROM {{ ref('rows') }} AS r \
         LEFT JOIN {{ ref('name') }} AS name ON name.k = r.k GROUP BY r.k",
    );
    let running = rig.start();
    rig.append([(1, "a", 5), (2, "b", 5), (3, "c", 5)]).await;
    running.settled().await;
    let labels = "SELECT k, labels FROM labels ORDER BY k";
    assert_eq!(running.text(labels).await, "a 1\nb 1\nc 0");
    running.stop().await;
    rig.write("seeds/name.csv", "k,label\na,Anna\na,Anton\nc,Cilly\n");
    rig.reopen_log().await;
    let running = rig.start();
    running.settled().await;
    assert_eq!(running.text(labels).await, "a 2\nb 0\nc 1");
    running.stop().await;
    verified(&rig, "with other labels").await;
}

/// Between two looks its positions say what it shows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_by_key_reaches_as_far_as_it_shows() {
    let rig = Rig::new().await;
    rig.write(
        "models/gold/ids.sql",
        "SELECT k, count(DISTINCT id) AS n FROM {{ ref('rows') }} GROUP BY k",
    );
    let running =
        start(Settings { recompute_percent: 1, ..settings() }, rig.deps(rig.plain_lake()));
    running.settled().await;
    let (name, mut behind) = (TableName::new("gold", "ids"), 0);
    for id in 0..200 {
        rig.append([(id, "a", 5)]).await;
        let view = running.view.load();
        let shown = numbers(&view, "SELECT coalesce(sum(n), 0) FROM ids").await[0];
        let reached = view.tables[&name].positions.iter().map(|(_, _, at)| at + 1).sum::<i64>();
        assert_eq!(shown, reached, "after {id}");
        behind += usize::from(shown <= i64::try_from(id).expect("small"));
    }
    assert!(behind > 0, "nothing had to wait");
    running.settled().await;
    assert_eq!(running.numbers("SELECT sum(n) FROM ids").await, [200]);
    running.stop().await;
}

/// A mark that falls between a change and the look at what it touched.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_lags_is_committed_with_what_it_was_made_of() {
    let rig = Rig::new().await;
    let sums = "SELECT k, sum(v) AS s FROM {{ ref('rows') }} GROUP BY k";
    rig.write("models/gold/sums.sql", sums);
    let by_sum = "SELECT s, count(DISTINCT k) AS n FROM {{ ref('sums') }} GROUP BY s";
    rig.write("models/gold/by_sum.sql", by_sum);
    // Computed whole from it.
    let most = "SELECT s FROM {{ ref('by_sum') }} ORDER BY n DESC, s LIMIT 1";
    rig.write("models/gold/most.sql", most);
    let seldom = Settings { seal_interval_ms: 3_600_000, ..settings() };
    let deps = rig.deps(rig.plain_lake());
    let mut pipeline = Pipeline::open(&seldom, &deps, &Halted::new()).await.expect("open");
    pipeline.catch_up().await.expect("caught up");
    rig.append([(1, "a", 1), (2, "b", 2)]).await;
    while !pipeline.poll().await.expect("poll") {}
    pipeline.whole_round().await.expect("computed");
    // Its input moves, and nobody looks.
    let later = Duration::from_secs(3_600);
    pipeline.looks.pause(later);
    pipeline.next_round += later;
    rig.append([(3, "a", 1), (4, "b", 7)]).await;
    let sums = "SELECT s FROM sums ORDER BY k";
    while text(&Arc::new(pipeline.build_view()), sums).await != "2\n9" {
        pipeline.step().await.expect("step");
    }
    pipeline.step().await.expect("step");
    let view = Arc::new(pipeline.build_view());
    assert_eq!(text(&view, "SELECT s FROM by_sum ORDER BY s").await, "1\n2");
    pipeline.seal(true).await.expect("sealed");
    drop(pipeline);
    verified(&rig, "after the kill").await;
    let running = rig.start();
    running.settled().await;
    assert_eq!(running.text("SELECT s, n FROM by_sum ORDER BY s").await, "2 1\n9 1");
    running.stop().await;
    verified(&rig, "at the end").await;
}

/// While a model by key is computed, everything else goes on, and is committed; what comes meanwhile
/// is taken in afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_loop_goes_on_while_a_model_by_key_is_computed() {
    let rig = Rig::new().await;
    let ids = "SELECT k, count(DISTINCT id) AS n FROM {{ ref('rows') }} GROUP BY k";
    rig.write("models/gold/ids.sql", ids);
    let by_n = "SELECT n, count(*) AS keys FROM {{ ref('ids') }} GROUP BY n";
    rig.write("models/gold/by_n.sql", by_n);
    let shown = [
        "SELECT count(*) FROM silver.rows",
        "SELECT coalesce(sum(n), 0) FROM ids",
        "SELECT coalesce(sum(n * keys), 0) FROM by_n",
    ];
    let deps = rig.deps(rig.plain_lake());
    let mut pipeline = Pipeline::open(&settings(), &deps, &Halted::new()).await.expect("open");
    pipeline.catch_up().await.expect("caught up");
    let see = async |pipeline: &mut Pipeline| {
        let view = Arc::new(pipeline.build_view());
        let mut seen = Vec::new();
        for sql in shown {
            seen.extend(numbers(&view, sql).await);
        }
        let reached = ["ids", "by_n"].map(|name| {
            let table = &view.tables[&TableName::new("gold", name)];
            table.positions.iter().map(|(_, _, at)| at + 1).sum::<i64>()
        });
        (seen, reached)
    };
    rig.append([(1, "a", 1), (2, "b", 2)]).await;
    while !pipeline.poll().await.expect("poll") {}
    let pass = pipeline.pass(Scope::All { is_round: false });
    assert_eq!(see(&mut pipeline).await, (vec![2, 0, 0], [0, 0]));
    rig.append([(3, "a", 1), (4, "c", 7)]).await;
    pipeline.looks.pause(Duration::from_secs(3_600));
    while see(&mut pipeline).await.0[0] < 4 {
        pipeline.step().await.expect("step");
    }
    pipeline.looks.wants_mark = true;
    pipeline.seal(false).await.expect("sealed");
    // Of the moment in which it began, and no later.
    let looked = pass.run().await.expect("looked");
    pipeline.end_look(Scope::All { is_round: false }, looked).expect("taken over");
    assert_eq!(see(&mut pipeline).await, (vec![4, 2, 2], [2, 2]));
    pipeline.seal(false).await.expect("sealed");
    pipeline.look_at_all(false).await.expect("looked");
    assert_eq!(see(&mut pipeline).await, (vec![4, 4, 4], [4, 4]));
    drop(pipeline);
    verified(&rig, "after the kill").await;
    let running = rig.start();
    running.settled().await;
    assert_eq!(running.text("SELECT n, keys FROM by_n ORDER BY n").await, "1 2\n2 1");
    running.stop().await;
    verified(&rig, "at the end").await;
}

/// Where what grows is committed more often than tables are looked at, these are committed too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn models_by_key_are_committed_while_memory_is_short() {
    for (seal_bytes, seal_interval_ms) in [(1, 3_600_000), (1 << 30, 1)] {
        let rig = Rig::new().await;
        let ids = "SELECT k, count(DISTINCT id) AS n FROM {{ ref('rows') }} GROUP BY k";
        rig.write("models/gold/ids.sql", ids);
        let short = Settings { seal_bytes, seal_interval_ms, recompute_percent: 100, ..settings() };
        let deps = rig.deps(rig.plain_lake());
        let mut pipeline = Pipeline::open(&short, &deps, &Halted::new()).await.expect("open");
        pipeline.catch_up().await.expect("caught up");
        // Something is always new.
        let (mut id, mut rows) = (0, 0);
        while rows < 3 {
            assert!(id < 500, "nothing was committed: {rows} rows");
            id += 1;
            rig.append([(id, ["a", "b", "c"][id % 3], 1)]).await;
            pipeline.step().await.expect("step");
            let view = pipeline.build_view();
            let committed = view.tables[&TableName::new("gold", "ids")].committed.clone();
            rows = committed.map_or(0, |committed| committed.rows);
        }
        drop(pipeline);
        verified(&rig, "after the kill").await;
    }
}
