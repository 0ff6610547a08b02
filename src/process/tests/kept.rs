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
    models::Class,
    process::{Meter, rebuild},
};

/// Aggregates over a stream, over a row-wise model, over aggregates; and what reads them by SQL.
const CHAIN: [(&str, &str, Class); 31] = [
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
        "silver/seen.sql",
        "{{ config(materialized='view') }} SELECT *, v % 10 AS digit \
         FROM {{ source('bronze', 'events') }} WHERE v > 3",
        Class::View,
    ),
    (
        "gold/of_seen.sql",
        "SELECT digit, count(*) AS n, sum(seen.v) AS v FROM {{ ref('seen') }} AS seen GROUP BY digit",
        Class::Aggregate,
    ),
    (
        "silver/low.sql",
        "{{ config(materialized='view') }} SELECT k, digit, v AS high FROM {{ ref('latest') }} \
         WHERE digit < 5",
        Class::View,
    ),
    (
        "gold/beside.sql",
        "SELECT seen.id, low.high FROM {{ ref('seen') }} AS seen LEFT JOIN {{ ref('low') }} AS low \
         ON low.k = seen.k AND low.digit = seen.digit",
        Class::Lookup,
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
    // Lists taken apart: rows that come of one, in a chain, counted and joined.
    (
        "silver/parts.sql",
        "SELECT id, k, v, unnest(CASE WHEN v % 5 > 0 THEN range(0, v % 5) END) AS part \
         FROM {{ source('bronze', 'events') }}",
        Class::Append,
    ),
    (
        "silver/pairs.sql",
        "SELECT id, part, unnest(make_array(k, 'x')) AS of FROM {{ ref('parts') }} WHERE part <> 2",
        Class::Append,
    ),
    (
        "gold/of_pairs.sql",
        "SELECT of, part, count(*) AS n FROM {{ ref('pairs') }} GROUP BY of, part",
        Class::Aggregate,
    ),
    (
        "silver/named_parts.sql",
        "SELECT p.id, p.part, name.label, unnest(p.both) AS both FROM (SELECT *, make_array(part, v) AS \
         both FROM {{ ref('parts') }}) AS p JOIN {{ ref('name') }} AS name ON name.k = p.k",
        Class::Lookup,
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
            "SELECT id, part, of FROM silver.pairs ORDER BY 1, 2, 3",
            "SELECT id, part, of FROM (SELECT id, k, unnest(range(0, v % 5)) AS part FROM silver.rows) \
             AS p CROSS JOIN (SELECT unnest(make_array('a', 'b', 'c', 'x')) AS of) AS x \
             WHERE of IN (k, 'x') AND part <> 2 ORDER BY 1, 2, 3",
        ),
        (
            "SELECT of, part, n FROM of_pairs ORDER BY 1, 2",
            "SELECT of, part, count(*) FROM silver.pairs GROUP BY 1, 2 ORDER BY 1, 2",
        ),
        (
            "SELECT id, part, label, both FROM silver.named_parts ORDER BY 1, 2, 4",
            "SELECT id, part, label, unnest(make_array(part, v)) AS both FROM silver.parts AS p \
             JOIN seeds.name ON name.k = p.k ORDER BY 1, 2, 4",
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
            let when = format!("seed {seed}, round {round}");
            let append = async |rig: &Rig, random: &mut StdRng| rig.append(batch(random)).await;
            killed(&mut rig, &mut random, 80, append, &when).await;
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
    let done = rebuild(&rig.planned(), &rig.plain_lake(), &[], &Meter::default(), |_| {})
        .await
        .expect("rebuilt");
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
