//! Events that delete: what they delete stays away, in whichever order they come.

use std::collections::BTreeMap;

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::support::*;
use crate::{
    domain::{identity::Identity, record::Record},
    log::{Log as _, StreamSpec},
};

const CHANGES: &str = "
name: changes
key: id
event_id: [id, version]
partitions: 1
deletes: {field: op, values: [d, drop]}
fields:
  - {name: id, type: text, required: true}
  - {name: version, type: int, required: true}
  - {name: op, type: text}
  - {name: k, type: text, required: true}
  - {name: v, type: int, required: true, range: {min: 0}}
rules:
  has_kind: k IS NOT NULL
";
const CURRENT: &str = "SELECT id, k, v FROM (SELECT *, row_number() OVER (PARTITION BY id ORDER BY \
                       version DESC) AS nth FROM {{ source('bronze', 'changes') }}) AS x \
                       WHERE nth = 1 AND coalesce(op, '') NOT IN ('d', 'drop')";
const TOTALS: &str = "SELECT k, count(*) AS n, sum(v) AS s FROM {{ ref('current') }} GROUP BY k";

/// A version of a row: what it holds, or nothing of a delete.
type Version = (usize, i64, Option<(&'static str, i64)>);

fn change((id, version, row): &Version) -> Record {
    let rest = match row {
        Some((k, v)) => format!("\"op\":\"u\",\"k\":\"{k}\",\"v\":{v}"),
        // Of which nothing else is judged.
        None if version % 2 == 0 => "\"op\":\"d\"".to_owned(),
        None => "\"op\":\"drop\",\"v\":\"gone\"".to_owned(),
    };
    Record {
        key: None,
        identity: Identity::Given(format!("r{id}|{version}")),
        headers: Vec::new(),
        payload: format!("{{\"id\":\"r{id}\",\"version\":{version},{rest}}}").into(),
    }
}

async fn rig() -> Rig {
    let rig = Rig::new().await;
    rig.write("streams/changes.yml", CHANGES);
    rig.write("models/silver/current.sql", CURRENT);
    rig.write("models/gold/of_current.sql", TOTALS);
    ensure(&rig).await;
    rig
}

async fn ensure(rig: &Rig) {
    rig.log().ensure(&[StreamSpec::new("changes", 1)]).await.expect("ensure");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_deleted_stays_away_in_whichever_order_it_comes() {
    let mut rig = rig().await;
    let mut random = StdRng::seed_from_u64(5);
    let mut newest: BTreeMap<usize, Version> = BTreeMap::new();
    for round in 0..4 {
        let running = rig.start();
        for _ in 0..6 {
            let versions = (0..20).map(|_| {
                let row = (random.random_range(0..3) > 0)
                    .then(|| (["a", "b"][random.random_range(0..2)], random.random_range(0..9)));
                (random.random_range(0..25), random.random_range(0..1_000), row)
            });
            let versions: Vec<Version> = versions.collect();
            let mut sent = Vec::new();
            for version in versions {
                let known = newest.get(&version.0).map(|known| known.1);
                // One of a version that was sent is a repeat, and nobody else sends one.
                if known != Some(version.1) {
                    sent.push(change(&version));
                }
                if known.is_none_or(|known| known < version.1) {
                    newest.insert(version.0, version);
                }
            }
            rig.log().append("changes", sent).await.expect("append");
        }
        running.settled().await;
        let rows = newest.values().filter_map(|(id, _, row)| Some((format!("r{id}"), (*row)?)));
        let mut rows: Vec<String> = rows.map(|(id, (k, v))| format!("{id} {k} {v}")).collect();
        rows.sort();
        let found = running.text("SELECT id, k, v FROM silver.current ORDER BY id").await;
        assert_eq!(found.lines().collect::<Vec<_>>(), rows, "round {round}");
        assert!(rows.len() < newest.len(), "round {round}: some are deleted");
        let sums = "SELECT count(*), coalesce(sum(v), 0) FROM silver.current";
        let of_gold = "SELECT coalesce(sum(n), 0), coalesce(sum(s), 0) FROM of_current";
        assert_eq!(running.numbers(sums).await, running.numbers(of_gold).await, "round {round}");
        assert_eq!(running.text("SELECT count(*) FROM quarantine.changes").await, "0");
        running.end(round % 2 == 0).await;
        verified(&rig, &format!("round {round}")).await;
        rig.reopen_log().await;
        ensure(&rig).await;
    }
}
