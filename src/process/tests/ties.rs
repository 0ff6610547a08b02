//! Models whose ORDER BY does not tell rows apart: the same rows whenever they are computed.

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::support::*;
use crate::{log::Log as _, models::Class};

const EVENTS: &str = "{{ source('bronze', 'events') }}";

/// Name, way of keeping it, SQL.
const TIED: [(&str, Class, &str); 10] = [
    (
        "newest",
        Class::Keyed,
        "SELECT k, id FROM (SELECT *, row_number() OVER (PARTITION BY k ORDER BY v DESC) AS r FROM \
         {events}) AS x WHERE r = 1",
    ),
    (
        "newest_row",
        Class::Keyed,
        "SELECT k, id FROM (SELECT *, row_number() OVER (PARTITION BY k ORDER BY v) AS r FROM \
         {{ ref('rows') }}) AS x WHERE r = 1",
    ),
    (
        "ranked",
        Class::ByKey,
        "SELECT k, id, row_number() OVER (PARTITION BY k ORDER BY v) AS r, lag(id) OVER (PARTITION BY \
         k ORDER BY v) AS before FROM {events}",
    ),
    (
        "lists",
        Class::ByKey,
        "SELECT k, array_agg(id ORDER BY v) AS ids, string_agg(id, ',') AS all FROM {{ ref('rows') }} \
         GROUP BY k",
    ),
    ("each", Class::ByKey, "SELECT DISTINCT ON (k) k, id FROM {{ ref('rows') }} ORDER BY k, v"),
    (
        "running",
        Class::ByKey,
        "SELECT k, id, sum(v) OVER (PARTITION BY k ORDER BY v ROWS UNBOUNDED PRECEDING) AS s FROM {events}",
    ),
    ("top", Class::Recompute, "SELECT id, v FROM {events} ORDER BY v DESC LIMIT 7"),
    ("some", Class::Recompute, "SELECT id FROM {{ ref('rows') }} WHERE v > 3 LIMIT 5"),
    (
        "numbered",
        Class::Recompute,
        "SELECT id, row_number() OVER (ORDER BY v) AS r FROM {{ ref('rows') }}",
    ),
    (
        "beside_the_first",
        Class::Lookup,
        "SELECT e.id, x.label FROM {{ ref('rows') }} AS e LEFT JOIN (SELECT k, label, row_number() OVER \
         (PARTITION BY label ORDER BY label) AS r FROM {{ ref('name') }}) AS x ON x.k = e.k AND x.r = 1",
    ),
];

async fn append(rig: &Rig, random: &mut StdRng) {
    let events = (0..random.random_range(0..12)).map(|_| {
        let id = random.random_range(0..150_usize);
        event(id, ["a", "b", "c", "z"][id % 4], i64::try_from(id % 5).expect("small"))
    });
    let events: Vec<_> = events.collect();
    if !events.is_empty() {
        rig.log().append("events", events).await.expect("append");
    }
}

/// The checker computes every table whole, from rows in another order than they came in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_tie_are_told_apart_alike_by_whoever_computes() {
    for seed in 0..3 {
        let mut rig = Rig::new().await;
        for (name, _, sql) in TIED {
            rig.write(&format!("models/gold/{name}.sql"), &sql.replace("{events}", EVENTS));
        }
        let planned = rig.planned();
        for (name, class, _) in TIED {
            let plan = planned.plans.iter().find(|plan| plan.model.name.name == name).expect(name);
            assert_eq!(plan.class, class, "{name}: {}", plan.reason);
        }
        let mut random = StdRng::seed_from_u64(seed);
        for round in 0..3 {
            let when = format!("seed {seed}, round {round}");
            killed(&mut rig, &mut random, 40, append, &when).await;
        }
        let running = rig.start();
        running.settled().await;
        assert_eq!(running.numbers("SELECT count(*) FROM top").await, [7]);
        running.stop().await;
        verified(&rig, &format!("seed {seed}, at the end")).await;
    }
}
