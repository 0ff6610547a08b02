//! Rules that only warn, and models over what was set aside.

use super::support::*;
use crate::{
    domain::{
        quarantine::{Filter, Replay},
        record::Record,
    },
    log::Log as _,
};

const SMALL: &str = "v < 1000";
const ODD: &str = "{sql: v % 2 = 1, severity: warn}";
const LARGE: &str = "{sql: v > 5, severity: warn}";

fn contract(small: &str, odd: &str) -> String {
    CONTRACT.replace(
        &format!("small: {SMALL}"),
        &format!("small: {small}\n  odd: {odd}\n  large: {LARGE}"),
    )
}

const WARNED: &str = "SELECT id, array_to_string(_warnings, '+') AS rules, v \
                      FROM {{ source('bronze', 'events') }} WHERE _warnings IS NOT NULL";
const ANOMALIES: &str = "{{ config(materialized='view') }}\n\
     SELECT id, rules, 'kept' AS disposition FROM {{ ref('warned') }} UNION ALL \
     SELECT decoded['id'], array_to_string(rules, '+'), 'quarantined' \
     FROM {{ source('quarantine', 'events') }}";
const ALL: &str = "SELECT id, rules, disposition FROM anomalies ORDER BY 1, 2";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_that_warns_keeps_the_event_and_names_itself() {
    let mut rig = Rig::new().await;
    rig.write("streams/events.yml", &contract(SMALL, ODD));
    rig.write("models/silver/warned.sql", WARNED);
    rig.write("models/gold/anomalies.sql", ANOMALIES);
    let running = rig.start();
    let events = [(1, "a", 7), (2, "a", 8), (3, "b", 2), (4, "b", 2_000), (5, "z", 3), (6, "b", 5)];
    rig.append(events).await;
    running.settled().await;
    let seen = [
        "e2 odd kept",
        "e3 large+odd kept",
        "e4 odd+small quarantined",
        "e5 accepted_values:k+large quarantined",
        "e6 large kept",
    ];
    assert_eq!(running.text(ALL).await, seen.join("\n"));
    // The verdict is about what sets aside.
    let verdicts = "SELECT id, _verdict, array_length(_warnings) FROM bronze.events ORDER BY id";
    let told = "e1 ok \ne2 ok 1\ne3 ok 2\ne4 small 1\ne5 accepted_values:k 1\ne6 ok 1";
    assert_eq!(running.text(verdicts).await, told);
    assert_eq!(running.numbers(COUNTS).await, [4, 4, 22]);
    // What only warns is no reason to stay there.
    let filter = Filter { stream: Some("events".into()), rule: None };
    let positions = running.quarantine.places(&filter).await.expect("places");
    let asked = Replay { positions, dry_run: true, ..Replay::default() };
    let done = running.quarantine.replay("events", &asked).await.expect("tried");
    let mut rules: Vec<_> = done.broken.iter().map(|broken| broken.rules.join("+")).collect();
    rules.sort();
    assert_eq!(rules, ["accepted_values:k", "small"]);
    // What is mended leaves quarantine, and with it the view; its warning stays.
    running.stop().await;
    verified(&rig, "before").await;
    rig.write("streams/events.yml", &contract("v < 3000", ODD));
    rig.reopen_log().await;
    let running = rig.start();
    running.settled().await;
    let filter = Filter { stream: Some("events".into()), rule: Some("small".into()) };
    let positions = running.quarantine.places(&filter).await.expect("places");
    let asked = Replay { positions, ..Replay::default() };
    let done = running.quarantine.replay("events", &asked).await.expect("replayed");
    assert_eq!((done.replayed, done.broken.len()), (1, 0));
    running.settled().await;
    let seen = running.text(ALL).await;
    assert!(seen.contains("e4 odd kept") && !seen.contains("e4 odd+small"), "{seen}");
    assert_eq!(running.numbers(COUNTS).await, [5, 5, 2_022]);
    running.stop().await;
    verified(&rig, "after").await;
}

/// Names and fingerprints of the models.
fn planned(rig: &Rig) -> Vec<(String, String)> {
    let plans = rig.planned().plans.into_iter();
    plans.map(|plan| (plan.model.name.name, plan.fingerprint)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_warnings_outdate_what_reads_them_alone() {
    let rig = Rig::new().await;
    rig.write("models/silver/warned.sql", WARNED);
    let fingerprints = |odd: &str, small: &str| {
        rig.write("streams/events.yml", &contract(small, odd));
        planned(&rig)
    };
    let before = fingerprints(ODD, SMALL);
    let changed = |after: Vec<(String, String)>| {
        let changed = before.iter().zip(after).filter(|(one, other)| *one != other);
        changed.map(|(_, (name, _))| name).collect::<Vec<_>>()
    };
    assert_eq!(changed(fingerprints("{sql: v % 3 = 1, severity: warn}", SMALL)), ["warned"]);
    assert_eq!(changed(fingerprints(ODD, "v < 2000")), [""; 0]);
    let extra = contract(SMALL, ODD).replace("rules:", "  - {name: extra, type: int}\nrules:");
    rig.write("streams/events.yml", &extra);
    assert_eq!(changed(planned(&rig)), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_views_read_quarantine() {
    let rig = Rig::new().await;
    let sql = "SELECT message\nFROM {{ source('quarantine', 'events') }}";
    rig.write("models/gold/bad.sql", sql);
    let planned = crate::project::load(&rig.path("project")).and_then(crate::process::plan);
    let errors = planned.map(|_| ()).expect_err("errors").to_string();
    for expected in [
        "models/gold/bad.sql:2",
        "only views read quarantine.events: what is replayed or discarded leaves it",
        "config(materialized='view')",
    ] {
        assert!(errors.contains(expected), "{expected} in\n{errors}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_that_several_fields_break_is_listed_once() {
    let rig = Rig::new().await;
    rig.write("streams/events.yml", &format!("field_rule: R1{CONTRACT}"));
    let running = rig.start();
    let payload = r#"{"id":"e1","k":"","v":"many"}"#.into();
    let record = Record { payload, ..event(1, "a", 1) };
    rig.log().append("events", vec![record]).await.expect("append");
    running.settled().await;
    assert_eq!(running.text("SELECT _verdict FROM bronze.events").await, "R1");
    let told = running.text("SELECT rules, message, decoded['id'] FROM quarantine.events").await;
    let message = "R1: k: required, but missing, null or empty; R1: v: \"many\" is not of type int";
    assert_eq!(told, format!("[R1] {message} e1"));
    running.stop().await;
}
