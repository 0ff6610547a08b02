//! Models of several inputs, in the loop: two streams, a stream and what is made of it, and what is kept
//! of such models. By key, except for what unites their rows.

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::support::*;
use crate::{
    log::{Log as _, StreamSpec},
    models::Class,
};

/// Each with how many relations drive it, and with the SQL that gives the same over what queries see.
const KEPT: [(&str, usize, &str, &str); 11] = [
    (
        "matched",
        2,
        "SELECT r.k, r.id, o.id AS other, r.v + o.v AS v FROM {{ ref('rows') }} AS r \
         JOIN {{ source('bronze', 'others') }} AS o ON o.k = r.k AND o.v = r.v",
        "SELECT r.k, r.id, o.id, r.v + o.v FROM silver.rows AS r JOIN silver.other_rows AS o \
         ON o.k = r.k AND o.v = r.v",
    ),
    (
        "beside",
        2,
        "SELECT coalesce(a.k, b.k) AS k, a.n, b.n AS others FROM {{ ref('totals') }} AS a \
         FULL JOIN {{ ref('of_others') }} AS b ON b.k = a.k",
        "SELECT coalesce(a.k, b.k), a.n, b.n FROM (SELECT k, count(*) AS n FROM silver.rows GROUP BY k) \
         AS a FULL JOIN (SELECT k, count(*) AS n FROM silver.other_rows GROUP BY k) AS b ON b.k = a.k",
    ),
    // One stream, by two ways.
    (
        "own",
        2,
        "SELECT e.k, max(e.v) AS most, max(t.n) AS n FROM {{ source('bronze', 'events') }} AS e \
         LEFT JOIN {{ ref('totals') }} AS t ON t.k = e.k GROUP BY e.k",
        "SELECT k, max(v), count(*) FROM silver.rows GROUP BY k",
    ),
    (
        "all_rows",
        2,
        "SELECT id, k FROM {{ ref('rows') }} UNION ALL \
         SELECT id, k FROM {{ source('bronze', 'others') }}",
        "SELECT id, k FROM silver.rows UNION ALL SELECT id, k FROM silver.other_rows",
    ),
    (
        "united_sums",
        2,
        "SELECT k, count(*) AS n, max(v) AS most FROM (SELECT k, v FROM {{ ref('rows') }} UNION ALL \
         SELECT k, v FROM {{ source('bronze', 'others') }}) AS x GROUP BY k",
        "SELECT k, count(*), max(v) FROM (SELECT k, v FROM silver.rows UNION ALL \
         SELECT k, v FROM silver.other_rows) AS x GROUP BY k",
    ),
    // Of tables that are kept by changes, and joined to one.
    (
        "united_totals",
        2,
        "SELECT k, n FROM {{ ref('totals') }} UNION ALL SELECT k, n FROM {{ ref('of_others') }} \
         UNION ALL SELECT 'none', 0",
        "SELECT k, count(*) AS n FROM silver.rows GROUP BY k UNION ALL \
         SELECT k, count(*) FROM silver.other_rows GROUP BY k UNION ALL SELECT 'none', 0",
    ),
    (
        "united_named",
        2,
        "SELECT x.id, t.n FROM (SELECT id, k FROM {{ ref('rows') }} UNION ALL SELECT id, k FROM \
         {{ ref('other_rows') }}) AS x LEFT JOIN {{ ref('of_others') }} AS t ON t.k = x.k",
        "SELECT x.id, t.n FROM (SELECT id, k FROM silver.rows UNION ALL SELECT id, k FROM \
         silver.other_rows) AS x LEFT JOIN (SELECT k, count(*) AS n FROM silver.other_rows GROUP BY k) AS t \
         ON t.k = x.k",
    ),
    (
        "kinds",
        2,
        "SELECT k, count(DISTINCT v) AS n FROM (SELECT k, v FROM {{ ref('rows') }} UNION ALL \
         SELECT k, v FROM {{ ref('other_rows') }}) AS x GROUP BY k",
        "SELECT k, count(DISTINCT v) FROM (SELECT k, v FROM silver.rows UNION ALL \
         SELECT k, v FROM silver.other_rows) AS x GROUP BY k",
    ),
    // Of models that may lag; the last but one is joined to them.
    (
        "of_both",
        2,
        "SELECT m.k, count(DISTINCT m.other) AS others, max(b.n) AS n FROM {{ ref('matched') }} AS m \
         LEFT JOIN {{ ref('beside') }} AS b ON b.k = m.k GROUP BY m.k",
        "SELECT m.k, count(DISTINCT m.other), max(b.n) FROM matched AS m LEFT JOIN beside AS b \
         ON b.k = m.k GROUP BY m.k",
    ),
    (
        "of_lagging",
        1,
        "SELECT e.k, count(DISTINCT m.v) AS n, max(b.others) AS most FROM {{ ref('rows') }} AS e \
         LEFT JOIN {{ ref('matched') }} AS m ON m.id = e.id \
         LEFT JOIN {{ ref('beside') }} AS b ON b.n = e.v GROUP BY e.k",
        "SELECT e.k, count(DISTINCT m.v), max(b.others) FROM silver.rows AS e LEFT JOIN matched AS m \
         ON m.id = e.id LEFT JOIN beside AS b ON b.n = e.v GROUP BY e.k",
    ),
    (
        "missing",
        2,
        "SELECT id, k FROM {{ ref('rows') }} EXCEPT SELECT id, k FROM {{ ref('matched') }} WHERE v > 8",
        "SELECT id, k FROM silver.rows EXCEPT SELECT id, k FROM matched WHERE v > 8",
    ),
];

async fn rig() -> Rig {
    let rig = Rig::new().await;
    let others = CONTRACT.replace("events", "others").replace("partitions: 2", "partitions: 1");
    rig.write("streams/others.yml", &others);
    let rows = "SELECT id, k, v FROM {{ source('bronze', 'others') }}";
    rig.write("models/silver/other_rows.sql", rows);
    let sums = "SELECT k, count(*) AS n FROM {{ ref('other_rows') }} GROUP BY k";
    rig.write("models/gold/of_others.sql", sums);
    for (name, _, sql, _) in KEPT {
        rig.write(&format!("models/gold/{name}.sql"), sql);
    }
    let planned = rig.planned();
    for (name, inputs, ..) in KEPT {
        let plan = planned.plans.iter().find(|plan| plan.model.name.name == name).expect(name);
        let class = match name {
            "all_rows" | "united_totals" => Class::Project,
            "united_sums" => Class::Aggregate,
            "united_named" => Class::Lookup,
            _ => Class::ByKey,
        };
        assert_eq!(plan.class, class, "{name}: {}", plan.reason);
        assert_eq!(plan.driving.len(), inputs, "{name}");
    }
    ensure(&rig).await;
    rig
}

async fn ensure(rig: &Rig) {
    rig.log().ensure(&[StreamSpec::new("others", 1)]).await.expect("ensure");
}

/// Appends to one or both of the streams; some events again.
async fn append(rig: &Rig, random: &mut StdRng) {
    for stream in ["events", "others"] {
        let events = (0..random.random_range(0..12)).map(|_| {
            let id = random.random_range(0..200_usize);
            event(id, ["a", "b", "c", "z"][id % 4], i64::try_from(id % 13).expect("small"))
        });
        let events: Vec<_> = events.collect();
        if !events.is_empty() {
            rig.log().append(stream, events).await.expect("append");
        }
    }
}

async fn expect_equal(running: &Running, when: &str) {
    for (name, _, _, sql) in KEPT {
        let mut lines = Vec::new();
        for sql in [&format!("SELECT * FROM {name}"), sql] {
            let text = running.text(sql).await;
            let mut rows: Vec<String> = text.lines().map(str::to_owned).collect();
            rows.sort();
            lines.push(rows);
        }
        assert_eq!(lines[0], lines[1], "{when}: {name}");
        assert!(!lines[0].is_empty(), "{when}: {name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn models_of_several_inputs_are_what_their_sql_gives_after_kills() {
    for seed in 0..5 {
        let mut rig = rig().await;
        let mut random = StdRng::seed_from_u64(seed);
        for round in 0..4 {
            let when = format!("seed {seed}, round {round}");
            killed(&mut rig, &mut random, 60, append, &when).await;
            ensure(&rig).await;
        }
        let running = rig.start();
        running.settled().await;
        expect_equal(&running, &format!("seed {seed}")).await;
        running.stop().await;
        verified(&rig, &format!("seed {seed}, at the end")).await;
    }
}

/// One input is made anew, so that what it has told is not known any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_of_several_inputs_follows_one_that_was_made_anew() {
    let mut rig = rig().await;
    let mut random = StdRng::seed_from_u64(3);
    let running = rig.start();
    for _ in 0..10 {
        append(&rig, &mut random).await;
    }
    running.settled().await;
    running.stop().await;
    std::fs::remove_dir_all(rig.path("lake/gold/of_others")).expect("the table is gone");
    rig.reopen_log().await;
    ensure(&rig).await;
    let running = rig.start();
    for _ in 0..10 {
        append(&rig, &mut random).await;
    }
    running.settled().await;
    expect_equal(&running, "after the table was made anew").await;
    running.stop().await;
    verified(&rig, "at the end").await;
}
