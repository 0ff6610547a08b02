//! Models kept by changes: equal to their SQL at every moment, whatever was killed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::support::*;
use crate::{
    domain::TableName,
    models::Class,
    process::{Halted, Settings, pipeline::Pipeline, rebuild},
    verify,
};

/// Aggregates over a stream, over a row-wise model, over aggregates; and what reads them by SQL.
const CHAIN: [(&str, &str, Class); 23] = [
    (
        "gold/direct.sql",
        "SELECT k, count(*) AS n, avg(v) AS mean, max(_offset) AS newest, \
         min(arrow_cast(id, 'Utf8View')) AS first \
         FROM {{ source('bronze', 'events') }} WHERE v % 2 = 0 GROUP BY k",
        Class::Aggregate,
    ),
    (
        "gold/whole.sql",
        "SELECT count(*) AS n, coalesce(sum(v), 0) AS s FROM {{ ref('rows') }}",
        Class::Aggregate,
    ),
    (
        "gold/by_value.sql",
        "SELECT v % 10 AS digit, count(*) AS n, sum(v) FILTER (WHERE k = 'a') AS of_a \
         FROM {{ ref('rows') }} GROUP BY v % 10",
        Class::Aggregate,
    ),
    (
        "gold/by_count.sql",
        "SELECT n, count(*) AS groups, sum(digit) AS digits, avg(of_a) AS mean \
         FROM {{ ref('by_value') }} GROUP BY n",
        Class::Aggregate,
    ),
    (
        "gold/counts.sql",
        "SELECT count(*) AS counts, sum(groups) AS groups, sum(n * groups) AS n \
         FROM {{ ref('by_count') }}",
        Class::Aggregate,
    ),
    (
        "silver/latest.sql",
        "SELECT k, digit, id, v FROM (SELECT *, v % 10 AS digit, row_number() OVER (PARTITION BY k, \
         v % 10 ORDER BY v DESC, _ts DESC, _partition DESC, _offset DESC, _index DESC) AS place \
         FROM {{ source('bronze', 'events') }}) AS ranked WHERE place = 1",
        Class::Keyed,
    ),
    (
        "gold/of_latest.sql",
        "SELECT k, count(*) AS n, sum(v) AS s FROM {{ ref('latest') }} GROUP BY k",
        Class::Aggregate,
    ),
    (
        "gold/joined.sql",
        "SELECT c.n, c.groups, w.s FROM {{ ref('by_count') }} AS c CROSS JOIN {{ ref('whole') }} AS w",
        Class::Lookup,
    ),
    (
        "gold/labelled.sql",
        "SELECT r.id, r.v, coalesce(name.label, '?') AS label, d.n FROM {{ ref('rows') }} AS r \
         LEFT JOIN {{ ref('name') }} AS name ON name.k = r.k \
         LEFT JOIN {{ ref('by_value') }} AS d ON d.digit = r.v % 10 AND d.n < 20",
        Class::Lookup,
    ),
    (
        "gold/by_label.sql",
        "SELECT label, count(*) AS rows, count(n) AS known, sum(n) AS n FROM {{ ref('labelled') }} \
         GROUP BY label",
        Class::Aggregate,
    ),
    (
        "gold/above.sql",
        "SELECT e.id, l.digit, l.v - e.v AS less FROM {{ source('bronze', 'events') }} AS e \
         JOIN {{ ref('latest') }} AS l ON l.k = e.k AND l.v > e.v WHERE l.digit < 3",
        Class::Lookup,
    ),
    (
        "gold/per_label.sql",
        "SELECT coalesce(name.label, '?') AS label, d.n, count(*) AS rows, sum(r.v) AS v \
         FROM {{ ref('rows') }} AS r LEFT JOIN {{ ref('name') }} AS name ON name.k = r.k \
         JOIN {{ ref('by_value') }} AS d ON d.digit = r.v % 10 GROUP BY coalesce(name.label, '?'), d.n",
        Class::Aggregate,
    ),
    (
        "gold/few.sql",
        "SELECT n AS size, groups * 2 AS twice FROM {{ ref('by_count') }} WHERE groups < 3",
        Class::Project,
    ),
    (
        "gold/of_few.sql",
        "SELECT twice, count(*) AS sizes, sum(size) AS size FROM {{ ref('few') }} GROUP BY twice",
        Class::Aggregate,
    ),
    (
        "gold/kinds.sql",
        "SELECT v % 10 AS digit, count(DISTINCT k) AS kinds, max(v) AS most FROM {{ ref('rows') }} \
         GROUP BY v % 10",
        Class::ByKey,
    ),
    (
        "gold/of_kinds.sql",
        "SELECT kinds, count(*) AS digits, sum(most) AS most FROM {{ ref('kinds') }} GROUP BY kinds",
        Class::Aggregate,
    ),
    (
        "gold/running.sql",
        "SELECT k, id, sum(v) OVER (PARTITION BY k ORDER BY v, id) AS v \
         FROM {{ source('bronze', 'events') }}",
        Class::ByKey,
    ),
    (
        "gold/groups.sql",
        "SELECT groups, min(n) AS least, max(n) AS most FROM {{ ref('by_count') }} GROUP BY groups \
         HAVING count(*) < 9",
        Class::ByKey,
    ),
    (
        "gold/labels.sql",
        "SELECT r.k, count(DISTINCT name.label) AS labels, max(r.v) AS most FROM {{ ref('rows') }} AS r \
         LEFT JOIN {{ ref('name') }} AS name ON name.k = r.k GROUP BY r.k",
        Class::ByKey,
    ),
    // By its bare name.
    (
        "gold/zero.sql",
        "SELECT n, count(DISTINCT k) AS kinds FROM totals WHERE {{ 'true' if ref('totals') }} \
         GROUP BY n",
        Class::ByKey,
    ),
    (
        "gold/above_mean.sql",
        "SELECT groups, most FROM {{ ref('groups') }} WHERE most > (SELECT avg(least) FROM {{ ref('groups') }})",
        Class::Recompute,
    ),
    (
        "gold/shares.sql",
        "SELECT digit, most * 100 / (SELECT sum(most) + 1 FROM {{ ref('kinds') }}) AS share \
         FROM {{ ref('kinds') }}",
        Class::Recompute,
    ),
    (
        "gold/both.sql",
        "SELECT b.label, b.known, a.less FROM {{ ref('by_label') }} AS b \
         FULL JOIN (SELECT max(less) AS less FROM {{ ref('above') }}) AS a ON a.less = b.known",
        Class::Recompute,
    ),
];

async fn rig() -> Rig {
    let rig = Rig::new().await;
    CHAIN.iter().for_each(|(file, sql, _)| rig.write(&format!("models/{file}"), sql));
    let planned = rig.planned();
    for (file, _, class) in CHAIN {
        let plan = planned
            .plans
            .iter()
            .find(|plan| file.ends_with(&format!("/{}.sql", plan.model.name.name)));
        let plan = plan.expect(file);
        assert_eq!(plan.class, class, "{file}: {}", plan.reason);
    }
    rig
}

async fn verified(rig: &Rig, when: &str) {
    let facts = verify::collect(&rig.planned(), &rig.plain_lake()).await.expect("facts");
    let report = verify::check(&[], &facts);
    assert!(report.green, "{when}: {report}");
}

fn batch(random: &mut StdRng) -> Vec<(usize, &'static str, i64)> {
    let count = random.random_range(1..25);
    let event =
        |id: usize| (id, ["a", "b", "c", "z"][id % 4], i64::try_from(id % 97).expect("small"));
    (0..count).map(|_| event(random.random_range(0..600))).collect()
}

/// What queries see of the chain, each table beside its SQL over what it reads.
async fn expect_equal(view: &Arc<crate::lake::LakeView>, when: &str) {
    let same = [
        ("SELECT n, s FROM whole", "SELECT count(*), coalesce(sum(v), 0) FROM silver.rows"),
        (
            "SELECT digit, n, of_a FROM by_value ORDER BY 1",
            "SELECT v % 10, count(*), sum(v) FILTER (WHERE k = 'a') FROM silver.rows GROUP BY 1 \
             ORDER BY 1",
        ),
        (
            "SELECT n, groups, digits FROM by_count ORDER BY 1",
            "SELECT n, count(*), sum(digit) FROM by_value GROUP BY 1 ORDER BY 1",
        ),
        (
            "SELECT k, digit, v FROM silver.latest ORDER BY 1, 2",
            "SELECT k, v % 10, max(v) FROM silver.rows GROUP BY 1, 2 ORDER BY 1, 2",
        ),
        (
            "SELECT k, n, s FROM of_latest ORDER BY 1",
            "SELECT k, count(*), sum(v) FROM silver.latest GROUP BY k ORDER BY 1",
        ),
        (
            "SELECT counts, groups, n FROM counts",
            "SELECT count(*), sum(groups), sum(n * groups) FROM by_count",
        ),
        (
            "SELECT id, label, n FROM labelled ORDER BY id",
            "SELECT id, coalesce(label, '?'), d.n FROM silver.rows AS r LEFT JOIN seeds.name ON \
             name.k = r.k LEFT JOIN by_value AS d ON d.digit = v % 10 AND d.n < 20 ORDER BY id",
        ),
        (
            "SELECT label, n, rows, v FROM per_label ORDER BY 1, 2",
            "SELECT label, n, count(*), sum(v) FROM (SELECT coalesce(label, '?') AS label, d.n, v FROM \
             silver.rows AS r LEFT JOIN seeds.name ON name.k = r.k JOIN by_value AS d ON d.digit = v % 10) \
             AS x GROUP BY 1, 2 ORDER BY 1, 2",
        ),
        (
            "SELECT twice, sizes, size FROM of_few ORDER BY 1",
            "SELECT groups * 2, count(*), sum(n) FROM by_count WHERE groups < 3 GROUP BY 1 ORDER BY 1",
        ),
        (
            "SELECT label, n FROM named ORDER BY label",
            "SELECT label, n FROM totals JOIN seeds.name ON name.k = totals.k ORDER BY label",
        ),
        (
            "SELECT label, rows, known, n FROM by_label ORDER BY 1",
            "SELECT label, count(*), count(n), sum(n) FROM labelled GROUP BY 1 ORDER BY 1",
        ),
        (
            "SELECT id, digit, less FROM above ORDER BY 1, 2, 3",
            "SELECT r.id, digit, l.v - r.v FROM silver.rows AS r JOIN silver.latest AS l ON \
             l.k = r.k AND l.v > r.v AND digit < 3 ORDER BY 1, 2, 3",
        ),
    ];
    for (kept, sql) in same {
        assert_eq!(text(view, kept).await, text(view, sql).await, "{when}: {kept}");
    }
}

/// The same for those that may lag behind, once everything has settled.
async fn expect_all_equal(view: &Arc<crate::lake::LakeView>, when: &str) {
    expect_equal(view, when).await;
    let same = [
        (
            "SELECT digit, kinds, most FROM kinds ORDER BY 1",
            "SELECT v % 10, count(DISTINCT k), max(v) FROM silver.rows GROUP BY 1 ORDER BY 1",
        ),
        (
            "SELECT kinds, digits, most FROM of_kinds ORDER BY 1",
            "SELECT kinds, count(*), sum(most) FROM kinds GROUP BY 1 ORDER BY 1",
        ),
        (
            "SELECT id, v FROM running ORDER BY id",
            "SELECT id, sum(v) OVER (PARTITION BY k ORDER BY v, id) FROM silver.rows ORDER BY id",
        ),
        (
            "SELECT groups, least, most FROM groups ORDER BY 1",
            "SELECT groups, min(n), max(n) FROM by_count GROUP BY 1 HAVING count(*) < 9 ORDER BY 1",
        ),
        (
            "SELECT k, labels, most FROM labels ORDER BY k",
            "SELECT r.k, count(DISTINCT label), max(v) FROM silver.rows AS r LEFT JOIN seeds.name ON \
             name.k = r.k GROUP BY 1 ORDER BY 1",
        ),
        (
            "SELECT n, kinds FROM zero ORDER BY n",
            "SELECT n, count(DISTINCT k) FROM totals GROUP BY n ORDER BY n",
        ),
        (
            "SELECT digit, share FROM shares ORDER BY digit",
            "SELECT digit, most * 100 / (SELECT sum(most) + 1 FROM kinds) FROM kinds ORDER BY digit",
        ),
    ];
    for (kept, sql) in same {
        assert_eq!(text(view, kept).await, text(view, sql).await, "{when}: {kept}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn models_kept_by_changes_are_what_their_sql_gives_after_kills() {
    for seed in 0..5 {
        let mut rig = rig().await;
        let mut random = StdRng::seed_from_u64(seed);
        for round in 0..4 {
            // Commits stop going through at a random point, anywhere between two tables.
            let running = rig.start_until_refused(random.random_range(1..80));
            running.view.wait_until(|view| !view.tables.is_empty()).await;
            for _ in 0..12 {
                rig.append(batch(&mut random)).await;
                for _ in 0..random.random_range(0..400) {
                    tokio::task::yield_now().await;
                }
            }
            let settled = tokio::time::timeout(Duration::from_millis(300), running.view.settle());
            settled.await.ok();
            running.kill().await;
            verified(&rig, &format!("seed {seed}, round {round}")).await;
            rig.reopen_log().await;
        }
        let running = rig.start();
        running.settled().await;
        expect_all_equal(&running.view.load(), &format!("seed {seed}")).await;
        running.stop().await;
        verified(&rig, &format!("seed {seed}, at the end")).await;
    }
}

/// Whoever reads while everything moves sees the same events in every table.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_view_holds_the_same_events_in_all_kept_tables() {
    let mut rig = rig().await;
    let mut random = StdRng::seed_from_u64(7);
    for round in 0..4 {
        let running = rig.start();
        // Before it is caught up, queries wait, or see what is committed.
        running.settled().await;
        let is_over = Arc::new(AtomicBool::new(false));
        let looks = Arc::new(AtomicUsize::new(0));
        let reader = {
            let (view, is_over) = (Arc::clone(&running.view), Arc::clone(&is_over));
            let looks = Arc::clone(&looks);
            tokio::spawn(async move {
                let mut most = 0;
                while !is_over.load(Ordering::SeqCst) {
                    let view = view.load();
                    expect_equal(&view, "while data flows").await;
                    let n = numbers(&view, "SELECT n FROM whole").await[0];
                    assert!(n >= most, "{n} after {most}");
                    most = n;
                    looks.fetch_add(1, Ordering::SeqCst);
                }
            })
        };
        while looks.load(Ordering::SeqCst) < 10 {
            assert!(!reader.is_finished(), "the reader has failed");
            rig.append(batch(&mut random)).await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if round % 2 == 0 {
            running.settled().await;
            is_over.store(true, Ordering::SeqCst);
            reader.await.expect("reader");
            running.stop().await;
        } else {
            is_over.store(true, Ordering::SeqCst);
            reader.await.expect("reader");
            running.kill().await;
        }
        rig.reopen_log().await;
    }
}

/// A kept model that is new, and one that cannot be computed for a while.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kept_model_that_fails_waits_and_catches_up_by_itself() {
    let rig = Rig::new().await;
    let sql = "SELECT k, 10 / (sum(v) - 10) AS q, count(*) AS n FROM {{ ref('rows') }} GROUP BY k";
    rig.write("models/gold/fragile.sql", sql);
    rig.write("models/gold/below.sql", "SELECT sum(n) AS n FROM {{ ref('fragile') }}");
    let running = rig.start();
    rig.append([(1, "b", 11)]).await;
    running.settled().await;
    rig.append([(2, "a", 10)]).await;
    rig.append([(3, "b", 1)]).await;
    running.settled().await;
    // What it had stays; the others go on.
    assert_eq!(running.text("SELECT k, q, n FROM fragile").await, "b 10 1");
    assert_eq!(running.numbers("SELECT n FROM below").await, [1]);
    assert_eq!(running.numbers(COUNTS).await, [3, 3, 22]);
    let lagging: Vec<String> =
        running.view.load().lagging.keys().map(ToString::to_string).collect();
    assert_eq!(lagging, ["gold.below", "gold.fragile"]);
    rig.append([(4, "a", 5)]).await;
    running.settled().await;
    assert_eq!(running.text("SELECT k, q, n FROM fragile ORDER BY k").await, "a 2 2\nb 5 2");
    assert_eq!(running.numbers("SELECT n FROM below").await, [4]);
    assert!(running.view.load().lagging.is_empty());
    running.stop().await;
    verified(&rig, "at the end").await;
}

/// An aggregate is rebuilt with what it needs to go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebuilt_aggregate_goes_on() {
    let mut rig = rig().await;
    let running = rig.start();
    let mut random = StdRng::seed_from_u64(11);
    for _ in 0..20 {
        rig.append(batch(&mut random)).await;
    }
    running.settled().await;
    running.stop().await;
    let sql = "SELECT v % 10 AS digit, count(*) AS n, sum(v) FILTER (WHERE k = 'b') AS of_a \
               FROM {{ ref('rows') }} GROUP BY v % 10";
    rig.write("models/gold/by_value.sql", sql);
    let done = rebuild(&rig.planned(), &rig.plain_lake(), &[], |_| {}).await.expect("rebuilt");
    let names: Vec<String> = done.iter().map(|done| done.table.to_string()).collect();
    assert_eq!(
        names,
        [
            "gold.by_value",
            "gold.by_count",
            "gold.labelled",
            "gold.per_label",
            "gold.by_label",
            "gold.counts",
            "gold.few",
            "gold.groups",
            "gold.joined",
            "gold.above_mean",
            "gold.both",
            "gold.of_few"
        ]
    );
    verified(&rig, "rebuilt").await;
    rig.reopen_log().await;
    let running = rig.start();
    for _ in 0..20 {
        rig.append(batch(&mut random)).await;
    }
    running.settled().await;
    let kept = running.text("SELECT digit, n, of_a FROM by_value ORDER BY 1").await;
    let whole = "SELECT v % 10, count(*), sum(v) FILTER (WHERE k = 'b') FROM silver.rows GROUP BY 1 \
                 ORDER BY 1";
    assert_eq!(kept, running.text(whole).await);
    running.stop().await;
    verified(&rig, "at the end").await;
}

const PER_KEY: &str = "SELECT k, count(*) AS c, sum(v) AS s FROM {{ ref('rows') }} GROUP BY k";

/// What a model could not compute is not lost where it stops, is killed or begins again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_a_failing_model_is_read_again_after_a_restart() {
    for is_killed in [false, true] {
        let mut rig = Rig::new().await;
        let sql = "SELECT sum(c) AS c, sum(s) AS s, 1000 / sum(s) AS q FROM {{ ref('per_key') }}";
        rig.write("models/gold/per_key.sql", PER_KEY);
        let running = rig.start();
        rig.append([(1, "a", 5), (2, "b", -5)]).await;
        running.settled().await;
        running.stop().await;
        // A new model that cannot be computed of what is there.
        rig.write("models/gold/m.sql", sql);
        rig.write("models/gold/of_m.sql", "SELECT q, count(*) AS n FROM {{ ref('m') }} GROUP BY q");
        for (id, v, expected) in [(3, 10, "3 10 100"), (4, 15, "4 25 40")] {
            rig.reopen_log().await;
            let running = rig.start();
            running.settled().await;
            let failure = running.status.to_json()["models"]["gold.m"]["failure"].to_string();
            assert_eq!(failure.to_lowercase().contains("divide by zero"), id == 3, "{failure}");
            running.end(is_killed).await;
            rig.reopen_log().await;
            let running = rig.start();
            rig.append([(id, "a", v)]).await;
            running.settled().await;
            assert_eq!(running.text("SELECT c, s, q FROM m").await, expected);
            let below = running.text("SELECT q, n FROM of_m").await;
            assert_eq!(below, format!("{} 1", expected.rsplit(' ').next().expect("q")));
            running.stop().await;
            verified(&rig, expected).await;
        }
        // It computes one change, not the next; both before anything is committed.
        rig.reopen_log().await;
        let running = rig.start();
        rig.append([(5, "a", 1)]).await;
        rig.append([(6, "a", -26)]).await;
        running.settled().await;
        running.end(is_killed).await;
        rig.reopen_log().await;
        let running = rig.start();
        rig.append([(7, "c", 10)]).await;
        running.settled().await;
        assert_eq!(running.text("SELECT c, s, q FROM m").await, "7 10 100");
        running.stop().await;
        verified(&rig, "at the end").await;
    }
}

/// A row that came and went again need not be computable.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_goes_on_once_the_row_is_gone_that_it_could_not_compute() {
    let rig = Rig::new().await;
    rig.write("models/gold/per_key.sql", PER_KEY);
    let sql = "SELECT count(*) AS n, sum(100 / s) AS q FROM {{ ref('per_key') }}";
    rig.write("models/gold/inverse.sql", sql);
    rig.write(
        "models/gold/newest.sql",
        "SELECT k, v, 100 / v AS q FROM (SELECT *, row_number() OVER (PARTITION BY k ORDER BY id \
         DESC, _ts, _partition, _offset, _index) AS place FROM {{ source('bronze', 'events') }}) \
         AS ranked WHERE place = 1",
    );
    let running = rig.start();
    for (id, v, failing) in [(1, 5, false), (2, -5, true), (3, 4, false)] {
        rig.append([(id, "a", v)]).await;
        running.settled().await;
        let status = running.status.to_json();
        let failure = &status["models"]["gold.inverse"]["failure"];
        assert_eq!(failure.is_string(), failing, "{id}: {failure}");
    }
    assert_eq!(running.text("SELECT n, q FROM inverse").await, "1 25");
    assert_eq!(running.text("SELECT v, q FROM newest").await, "4 25");
    rig.append([(4, "a", 0)]).await;
    running.settled().await;
    assert!(running.status.to_json()["models"]["gold.newest"]["failure"].is_string());
    rig.append([(5, "a", 20), (6, "b", 50)]).await;
    running.settled().await;
    assert_eq!(running.text("SELECT k, v, q FROM newest ORDER BY k").await, "a 20 5\nb 50 2");
    running.stop().await;
    verified(&rig, "at the end").await;
}

/// A dimension that makes rows impossible to compute, until it changes again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lookup_that_fails_waits_for_its_dimension_and_catches_up_by_itself() {
    for end in [None, Some(false), Some(true)] {
        let mut rig = Rig::new().await;
        rig.write(
            "models/silver/factor.sql",
            "SELECT k, v FROM (SELECT *, row_number() OVER (PARTITION BY k ORDER BY _ts DESC, \
             _partition, _offset DESC, _index) AS place FROM {{ source('bronze', 'events') }}) AS x \
             WHERE place = 1",
        );
        rig.write(
            "models/gold/ratio.sql",
            "SELECT r.id, 100 / f.v AS q FROM {{ ref('rows') }} AS r LEFT JOIN {{ ref('factor') }} \
             AS f ON f.k = r.k",
        );
        let sql = "SELECT count(*) AS n, sum(q) AS q FROM {{ ref('ratio') }}";
        rig.write("models/gold/below.sql", sql);
        let mut running = rig.start();
        let ratio = "SELECT id, q FROM ratio ORDER BY id";
        for (id, k, v, is_failing) in
            [(1, "a", 5, false), (2, "b", 0, true), (3, "a", 10, true), (4, "b", 4, false)]
        {
            rig.append([(id, k, v)]).await;
            running.settled().await;
            let status = running.status.to_json();
            let failure = status["models"]["gold.ratio"]["failure"].to_string().to_lowercase();
            assert_eq!(failure.contains("divide by zero"), is_failing, "{id}: {failure}");
            let lagging = &running.view.load().lagging;
            assert_eq!(lagging.contains_key(&TableName::new("gold", "ratio")), is_failing);
            if let Some(is_killed) = end {
                running.end(is_killed).await;
                verified(&rig, &format!("after {id}")).await;
                rig.reopen_log().await;
                running = rig.start();
                running.settled().await;
            }
        }
        assert_eq!(running.text(ratio).await, "e1 10\ne2 25\ne3 10\ne4 25");
        assert_eq!(running.numbers("SELECT n, q FROM below").await, [4, 70]);
        running.stop().await;
        verified(&rig, "at the end").await;
    }
}

/// A key that cannot be computed keeps what was touched with it back, until it can.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_by_key_that_fails_waits_and_catches_up_by_itself() {
    for end in [None, Some(false), Some(true)] {
        let mut rig = Rig::new().await;
        rig.write(
            "models/gold/share.sql",
            "SELECT k, count(DISTINCT id) AS n, 100 / sum(v) AS q FROM {{ ref('rows') }} GROUP BY k",
        );
        let sql = "SELECT count(*) AS keys, sum(n) AS n, sum(q) AS q FROM {{ ref('share') }}";
        rig.write("models/gold/below.sql", sql);
        let mut running = rig.start();
        for (id, k, v, is_failing, below) in [
            (1, "a", 5, false, [1, 1, 20]),
            (2, "b", 0, true, [1, 1, 20]),
            (3, "a", 5, true, [1, 1, 20]),
            (4, "b", 4, false, [2, 4, 35]),
        ] {
            rig.append([(id, k, v)]).await;
            running.settled().await;
            let status = running.status.to_json();
            let failure = status["models"]["gold.share"]["failure"].to_string().to_lowercase();
            assert_eq!(failure.contains("divide by zero"), is_failing, "{id}: {failure}");
            let lagging = &running.view.load().lagging;
            assert_eq!(lagging.contains_key(&TableName::new("gold", "share")), is_failing);
            assert_eq!(running.numbers("SELECT keys, n, q FROM below").await, below, "{id}");
            if let Some(is_killed) = end {
                running.end(is_killed).await;
                verified(&rig, &format!("after {id}")).await;
                rig.reopen_log().await;
                running = rig.start();
                running.settled().await;
            }
        }
        running.stop().await;
        verified(&rig, "at the end").await;
    }
}

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
    pipeline.next_look += Duration::from_secs(3_600);
    rig.append([(3, "a", 1), (4, "b", 7)]).await;
    for _ in 0..20 {
        pipeline.step().await.expect("step");
    }
    pipeline.seal(true).await.expect("sealed");
    drop(pipeline);
    verified(&rig, "after the kill").await;
    let running = rig.start();
    running.settled().await;
    assert_eq!(running.text("SELECT s, n FROM by_sum ORDER BY s").await, "2 1\n9 1");
    running.stop().await;
    verified(&rig, "at the end").await;
}
