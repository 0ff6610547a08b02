//! Records that hold arrays: every event of one is judged, counts, is set aside and comes back by
//! itself.

use std::sync::Arc;

use arrow::{array::AsArray as _, datatypes::Int64Type};
use datafusion::{execution::runtime_env::RuntimeEnv, prelude::SessionConfig};

use super::support::*;
use crate::{
    domain::{
        Place,
        identity::Identity,
        quarantine::{Filter, Replay, Replayed},
        record::Record,
    },
    lake::session::{Columns, session},
    log::Log as _,
    process::{Meter, rebuild},
};

fn contract() -> String {
    format!("{CONTRACT}records: arrays\n")
}

/// A record of this identity; all are of one partition.
fn record(identity: &str, payload: &str) -> Record {
    let identity = Identity::Given(identity.into());
    let payload = bytes::Bytes::from(payload.to_owned());
    Record { key: Some("all".into()), identity, headers: Vec::new(), payload }
}

async fn rig(contract: &str) -> Rig {
    let rig = Rig::new().await;
    rig.write("streams/events.yml", contract);
    rig.write(
        "models/silver/places.sql",
        "SELECT id, _partition, _offset, _index, _event_id FROM {{ source('bronze', 'events') }}",
    );
    rig.write(
        "models/silver/twice.sql",
        "SELECT id, unnest(make_array(v, v + 1)) AS x FROM {{ source('bronze', 'events') }}",
    );
    rig.write(
        "models/gold/first.sql",
        "SELECT k, id FROM (SELECT k, id, row_number() OVER (PARTITION BY k ORDER BY v, _ts, \
         _partition, _offset, _index) AS place FROM {{ source('bronze', 'events') }}) AS x WHERE \
         place = 1",
    );
    rig
}

async fn send(rig: &Rig, records: &[(&str, &str)]) {
    let records = records.iter().map(|(identity, payload)| record(identity, payload));
    rig.log().append("events", records.collect()).await.expect("append");
}

async fn places(running: &Running) -> Vec<Place> {
    running.quarantine.places(&Filter::default()).await.expect("places")
}

async fn replay(running: &Running, positions: &[Place]) -> Replayed {
    let asked = Replay { positions: positions.to_vec(), ..Replay::default() };
    running.quarantine.replay("events", &asked).await.expect("replay")
}

/// Every row of a row-wise model stands at a place of its own.
async fn places_differ(running: &Running, table: &str) {
    let (view, runtime) = (running.view.load(), Arc::new(RuntimeEnv::default()));
    let context = session(&view, Columns::All, SessionConfig::new(), runtime);
    let sql = format!(
        "SELECT count(*), count(DISTINCT concat_ws('/', __partition, __offset, __index)) FROM {table}"
    );
    let rows = context.sql(&sql).await.expect("sql").collect().await.expect("rows");
    let count = |column: usize| rows[0].column(column).as_primitive::<Int64Type>().value(0);
    assert!(count(0) > 0 && count(0) == count(1), "{table}: {} {}", count(0), count(1));
}

const MIXED: [(&str, &str); 7] = [
    (
        "r1",
        r#" [{"id":"e1","k":"a","v":1}, {"id":"e2","k":"b","v":5000}, 7,
             {"id":"e1","k":"c","v":2}, {"k":"a","v":3}, [{"id":"e9","k":"a","v":1}], {"id":NaN}] "#,
    ),
    ("r2", "[]"),
    ("r3", r#"{"id":"e3","k":"c","v":3}"#),
    ("r4", "\"no event\""),
    ("r5", r#"[{"id":"e1","k":"a","v":9},{"id":"e4","k":"a","v":4}]"#),
    ("r6", r#"[{"id":"e5","k":"a","v":5}"#),
    ("r7", r#"[{"id":"e6","k":"b","v":6}]"#),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_event_of_an_array_counts_by_itself() {
    let mut rig = rig(&contract()).await;
    let mut running = rig.start();
    send(&rig, &MIXED).await;
    running.settled().await;
    // Once as it came, once out of the tables, and then with tables that are made anew.
    for time in ["at once", "after a kill", "rebuilt"] {
        assert_eq!(running.numbers(COUNTS).await, [4, 4, 14], "{time}");
        let events = "SELECT count(*), count(DISTINCT concat(_partition, '/', _offset)) FROM \
                      bronze.events";
        assert_eq!(running.numbers(events).await, [13, 6], "{time}");
        let verdicts = "SELECT verdict, count(*) FROM system.acceptance GROUP BY 1 ORDER BY 1";
        assert_eq!(running.text(verdicts).await, "accepted 4\nquarantined 7\nrepeat 2", "{time}");
        let set_aside = "SELECT _index, rules, payload_text FROM quarantine.events ORDER BY 1, 3";
        let wanted = [
            "0 [malformed] \"no event\"",
            "0 [malformed] [{\"id\":\"e5\",\"k\":\"a\",\"v\":5}",
            "1 [small] {\"id\":\"e2\",\"k\":\"b\",\"v\":5000}",
            "2 [malformed] 7",
            "4 [not_null:id] {\"k\":\"a\",\"v\":3}",
            "5 [malformed] [{\"id\":\"e9\",\"k\":\"a\",\"v\":1}]",
            "6 [malformed] {\"id\":NaN}",
        ];
        assert_eq!(running.text(set_aside).await, wanted.join("\n"), "{time}");
        let named = "SELECT p.id FROM silver.places AS p JOIN bronze.events AS b ON p._event_id = \
                     b._event_id AND p._partition = b._partition AND p._offset = b._offset AND \
                     p._index = b._index AND p.id = b.id ORDER BY 1";
        assert_eq!(running.text(named).await, "e1\ne3\ne4\ne6", "{time}");
        let first = "SELECT k, id FROM gold.first ORDER BY 1";
        assert_eq!(running.text(first).await, "a e1\nb e6\nc e3", "{time}");
        for table in ["silver.rows", "silver.twice", "silver.places"] {
            places_differ(&running, table).await;
        }
        running.kill().await;
        if time == "after a kill" {
            rig.write(
                "models/silver/twice.sql",
                "SELECT id, unnest(make_array(v, v + 1, v)) AS x FROM {{ source('bronze', 'events') }}",
            );
            let done =
                rebuild(&rig.planned(), &rig.plain_lake(), &[], &Meter::default(), |_| {}).await;
            assert_eq!(done.expect("rebuilt").len(), 1);
        }
        verified(&rig, time).await;
        rig.reopen_log().await;
        running = rig.start();
        running.settled().await;
    }
    // All of it again, under other names of the records.
    let again = MIXED.map(|(name, payload)| (format!("again {name}"), payload));
    let again: Vec<(&str, &str)> = again.iter().map(|(name, p)| (name.as_str(), *p)).collect();
    send(&rig, &again).await;
    running.settled().await;
    assert_eq!(running.numbers(COUNTS).await, [4, 4, 14]);
    assert_eq!(places(&running).await.len(), 7);
    running.stop().await;
    verified(&rig, "again").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_of_an_array_comes_back_alone() {
    let three = r#"[{"id":"e1","k":"a","v":1},{"id":"e2","k":"b","v":5000},
                    {"id":"e3","k":"c","v":6000}]"#;
    for kind in ["event_id: id", "event_id: content", "event_id: none"] {
        let contract = contract().replace("event_id: id", kind);
        let mut rig = rig(&contract).await;
        let running = rig.start();
        send(&rig, &[("r1", three)]).await;
        running.settled().await;
        let set_aside = places(&running).await;
        assert_eq!(set_aside.iter().map(|place| place.index).collect::<Vec<_>>(), [1, 2], "{kind}");
        let shown = running.quarantine.show("events", set_aside[0]).await.expect("shown");
        assert_eq!(shown.payload.as_deref(), Some(r#"{"id":"e2","k":"b","v":5000}"#));
        let identity = match kind {
            "event_id: id" => "e2".to_owned(),
            "event_id: none" => "element:1/r1".to_owned(),
            _ => shown.identity.clone(),
        };
        assert_eq!(shown.identity, identity);
        let done = replay(&running, &set_aside).await;
        assert_eq!((done.replayed, done.broken.len()), (0, 2), "{kind}");
        running.stop().await;

        rig.write("streams/events.yml", &contract.replace("v < 1000", "v < 5500"));
        rig.reopen_log().await;
        let running = rig.start();
        running.settled().await;
        let done = replay(&running, &set_aside).await;
        assert_eq!((done.replayed, done.repeats, done.broken.len()), (1, 0, 1), "{kind}");
        assert_eq!(running.numbers(COUNTS).await, [2, 2, 5_001], "{kind}");
        assert_eq!(places(&running).await, set_aside[1..], "{kind}");
        // The record that it came from, sent once more: nothing new.
        send(&rig, &[("r1", three)]).await;
        running.settled().await;
        assert_eq!(running.numbers(COUNTS).await, [2, 2, 5_001], "{kind}");
        assert_eq!(places(&running).await, set_aside[1..], "{kind}");
        let shown = running.quarantine.show("events", set_aside[0]).await.expect("shown");
        assert_eq!(shown.state, "replayed");
        let at = shown.accepted_at.expect("accepted");
        assert!(at.offset > set_aside[0].offset || at.partition != set_aside[0].partition);
        running.stop().await;
        verified(&rig, kind).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_was_set_aside_counts_where_it_stands_in_another_array() {
    let mut rig = rig(&contract()).await;
    let running = rig.start();
    send(&rig, &[("r1", r#"[{"id":"e1","k":"a","v":5000}]"#)]).await;
    send(&rig, &[("r2", r#"[{"id":"e0","k":"a","v":1},{"id":"e1","k":"a","v":2}]"#)]).await;
    running.settled().await;
    let [place] = places(&running).await[..] else { panic!("one is set aside") };
    running.stop().await;
    rig.write("streams/events.yml", &contract().replace("v < 1000", "v < 9000"));
    rig.reopen_log().await;
    let running = rig.start();
    running.settled().await;
    let done = replay(&running, &[place]).await;
    assert_eq!((done.replayed, done.repeats), (1, 1));
    let at = running.quarantine.show("events", place).await.expect("shown").accepted_at;
    assert_eq!(at.expect("it counts").index, 1);
    assert_eq!(running.numbers(COUNTS).await, [2, 2, 3]);
    running.stop().await;
    verified(&rig, "decided").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_array_that_would_repeat_too_much_is_one_malformed_record() {
    let rig = rig(&contract()).await;
    let running = rig.start();
    let event = |n: usize| format!("{{\"id\":\"e{n}\",\"k\":\"a\",\"v\":1}}");
    let array = |n: usize| format!("[{}]", (0..n).map(event).collect::<Vec<_>>().join(","));
    let with_key = |n: usize| {
        let key = Some(bytes::Bytes::from(vec![b'x'; 100_000]));
        Record { key, ..record(&n.to_string(), &array(n)) }
    };
    let records = vec![with_key(42), with_key(41), record("many", &array(10_001))];
    for record in records {
        rig.log().append("events", vec![record]).await.expect("append");
    }
    running.settled().await;
    assert_eq!(running.numbers(COUNTS).await, [41, 41, 41]);
    let messages = "SELECT message FROM quarantine.events ORDER BY 1";
    let wanted = "malformed: not a JSON array of events: it holds more than 10000 events\n\
                  malformed: not one JSON object: an array in the place of an event";
    assert_eq!(running.text(messages).await, wanted);
    running.stop().await;
    verified(&rig, "large").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_word_an_array_is_malformed() {
    let rig = rig(CONTRACT).await;
    let running = rig.start();
    send(&rig, &MIXED).await;
    running.settled().await;
    assert_eq!(running.numbers(COUNTS).await, [1, 1, 3]);
    assert_eq!(running.numbers("SELECT count(*) FROM quarantine.events").await, [6]);
    running.stop().await;
}
