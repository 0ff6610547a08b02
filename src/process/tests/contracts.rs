//! Contracts that change between two runs.

use super::support::{CONTRACT, COUNTS, Rig};
use crate::{
    domain::{identity::Identity, record::Record},
    log::Log as _,
    process::{compare, open::bronze_spec, record},
    verify,
};

/// An event with a member that the first contract does not know.
pub(super) fn rich(id: usize, k: &str, v: i64, note: &str) -> Record {
    let payload = format!("{{\"id\":\"e{id}\",\"k\":\"{k}\",\"v\":{v},\"note\":{note}}}");
    let identity = Identity::Given(format!("e{id}"));
    Record { key: None, identity, headers: Vec::new(), payload: payload.into() }
}

pub(super) const NOTED: &str =
    "  - {name: v, type: int, required: true}\n  - {name: note, type: int}\n";

/// The lake keeps its promises, and every table could be compared.
pub(super) async fn is_green(rig: &Rig) {
    let facts = verify::collect(&rig.planned(), &rig.plain_lake()).await.expect("facts");
    let report = verify::check(&[], &facts);
    assert!(report.green && report.not_compared.is_empty(), "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_optional_field_shows_in_old_records_and_tables_go_on() {
    let mut rig = Rig::new().await;
    let running = rig.start();
    let records = vec![rich(1, "a", 10, "7"), rich(2, "b", 60, "8")];
    rig.log().append("events", records).await.expect("append");
    rig.append([(3, "a", 70)]).await;
    running.settled().await;
    let rescued = "SELECT id, _rescued FROM bronze.events ORDER BY id";
    assert_eq!(running.text(rescued).await, "e1 {\"note\":7}\ne2 {\"note\":8}\ne3 ");
    running.stop().await;
    // A new optional field, another rule, another range of values.
    let contract = CONTRACT.replace("  - {name: v, type: int, required: true}\n", NOTED);
    let contract = contract.replace("v < 1000", "v < 65").replace("[a, b, c]", "[a, b]");
    rig.write("streams/events.yml", &contract);
    rig.reopen_log().await;
    let running = rig.start();
    rig.log().append("events", vec![rich(4, "a", 5, "9")]).await.expect("append");
    rig.append([(5, "a", 66), (6, "c", 1)]).await;
    running.settled().await;
    assert!(running.view.load().lagging.is_empty(), "{:?}", running.view.load().lagging);
    let notes = "SELECT id, note, _rescued FROM bronze.events ORDER BY id";
    let shown = running.text(notes).await;
    assert_eq!(shown, "e1 7 \ne2 8 \ne3  \ne4 9 \ne5  \ne6  ");
    // What counted goes on counting; the new rule applies to what is new.
    assert_eq!(running.numbers(COUNTS).await, [4, 4, 145]);
    assert_eq!(running.text("SELECT k, n, s FROM totals ORDER BY k").await, "a 3 85\nb 1 60");
    let quarantined = "SELECT array_to_string(rules, '+') FROM quarantine.events ORDER BY 1";
    assert_eq!(running.text(quarantined).await, "accepted_values:k\nsmall");
    running.stop().await;
    is_green(&rig).await;
}

/// What is told of the contract `now` over a lake that `before` filled: level, line, message, hint.
async fn told(rig: &Rig, before: &str, now: &str) -> Vec<String> {
    rig.write("streams/events.yml", before);
    record(&rig.planned(), &rig.plain_lake()).await.expect("recorded");
    rig.write("streams/events.yml", now);
    let compared = compare(&rig.planned(), &rig.plain_lake()).await.expect("compared");
    let all = compared.refused.iter().chain(&compared.told);
    all.map(|told| {
        let line = told.line.map_or_else(|| "-".to_owned(), |line| line.to_string());
        let hint = told.hint.as_deref().unwrap_or_default();
        format!("{:?} {line}: {} ({hint})", told.level, told.message)
    })
    .collect()
}

#[tokio::test]
async fn every_change_of_a_contract_is_refused_or_told() {
    let with = |old: &str, new: &str| {
        assert!(CONTRACT.contains(old), "{old}");
        CONTRACT.replace(old, new)
    };
    let last = "  - {name: v, type: int, required: true}\n";
    let required_note = NOTED.replace("note, type: int", "note, type: int, required: true");
    let from_now = "what is decided stays decided; it applies to new records and to replays";
    let two_partitions = "events of one key would stand in two partitions";
    let cases = [
        (CONTRACT.to_owned(), with("name: events", "name: events\ndescription: of all"), vec![]),
        (
            CONTRACT.to_owned(),
            with("partitions: 2", "partitions: 3"),
            vec![format!(
                "Error 4: partitions was 2 and is now 3: {two_partitions} (keep 2, or make a new \
                 stream)"
            )],
        ),
        (
            CONTRACT.to_owned(),
            format!("{CONTRACT}records: arrays\n"),
            vec![
                "Error 11: records was events and is now arrays: records that are there already \
                 would hold other events (keep events, or make a new stream)"
                    .to_owned(),
            ],
        ),
        (
            CONTRACT.to_owned(),
            with("event_id: id", "event_id: content\nkey: k"),
            vec![
                format!(
                    "Error 4: key was none and is now k: {two_partitions} (keep none, or make a \
                     new stream)"
                ),
                "Error 3: event_id was column:id and is now content: events that count already \
                 would not be known again (keep column:id, or make a new stream)"
                    .to_owned(),
            ],
        ),
        (
            CONTRACT.to_owned(),
            with("v, type: int", "v, source: V, type: int"),
            vec![
                "Error 8: field `v` was read from `v` and is now from `V` (records that count \
                 already have `v`: keep it, or add a field)"
                    .to_owned(),
            ],
        ),
        (
            with(last, &format!("{last}  - {{name: at, type: date, format: '%d.%m.%y'}}\n")),
            with(last, &format!("{last}  - {{name: at, type: date}}\n")),
            vec![
                "Error 9: field `at`: its times were written as %d.%m.%y and are now ISO 8601 \
                 (records that count already are written as %d.%m.%y: keep it)"
                    .to_owned(),
            ],
        ),
        (
            CONTRACT.to_owned(),
            with("v, type: int", "v, type: float"),
            vec![
                "Error 8: field `v`: float does not hold every int (fine would be int, \
                 decimal(19,0) or wider, text)"
                    .to_owned(),
            ],
        ),
        (
            with("v, type: int", "v, type: \"decimal(9,2)\""),
            with("v, type: int", "v, type: \"decimal(9,4)\""),
            vec![
                "Error 8: field `v`: decimal(9,4) does not hold every decimal(9,2) (fine would be \
                 decimal(9,2), a decimal with at least 7 digits before the point and at least 2 \
                 behind, text)"
                    .to_owned(),
            ],
        ),
        (
            CONTRACT.to_owned(),
            with("v, type: int", "v, type: \"decimal(20,1)\""),
            vec![
                "Note 8: field `v`: int became the wider decimal(20,1) (tables that read it have \
                 to be rebuilt)"
                    .to_owned(),
            ],
        ),
        (
            with("id, type: text", "id, type: int"),
            CONTRACT.to_owned(),
            vec![
                "Error 6: field `id`: text does not hold every int (fine would be int, \
                 decimal(19,0) or wider; its text names events or their partition)"
                    .to_owned(),
            ],
        ),
        (
            CONTRACT.to_owned(),
            with(last, NOTED),
            vec![
                "Note 9: new optional field `note` (older records show what stood in `_rescued`)"
                    .to_owned(),
            ],
        ),
        (
            CONTRACT.to_owned(),
            with(last, &required_note),
            vec![
                "Error 9: new field `note` is required (records that count already do not have \
                 it: leave out `required`)"
                    .to_owned(),
            ],
        ),
        (
            with(last, NOTED),
            with(last, &required_note),
            vec![
                "Error 9: field `note` became required (records that count already may lack it: \
                 leave out `required`, or give a rule)"
                    .to_owned(),
            ],
        ),
        (
            with(last, NOTED),
            CONTRACT.to_owned(),
            vec![
                "Note 5: field `note` was removed (its values stand in `_rescued` from now on)"
                    .to_owned(),
            ],
        ),
        (
            CONTRACT.to_owned(),
            with("v, type: int, required: true", "v, type: int, range: {max: 9}"),
            vec![
                format!("Note 8: field `v` became optional ({from_now})"),
                format!("Note 8: field `v`: changed range ({from_now})"),
            ],
        ),
        (
            CONTRACT.to_owned(),
            with("[a, b, c]", "[a]").replace("small: v < 1000", "large: v > 1000"),
            vec![
                format!("Note 7: field `k`: changed accepted values ({from_now})"),
                format!("Note 9: changed rules: large, small ({from_now})"),
            ],
        ),
    ];
    let rig = Rig::new().await;
    for (before, now, wanted) in cases {
        let found = told(&rig, &before, &now).await;
        let mut wanted = wanted;
        wanted.sort();
        let mut sorted = found.clone();
        sorted.sort();
        assert_eq!(sorted, wanted, "{now}");
    }
}

#[tokio::test]
async fn what_is_refused_is_shown_like_a_compiler_error() {
    let rig = Rig::new().await;
    let lake = rig.plain_lake();
    record(&rig.planned(), &lake).await.expect("recorded");
    rig.write("streams/events.yml", &CONTRACT.replace("v, type: int", "v, type: float"));
    let refused = compare(&rig.planned(), &lake).await.expect("compared").refused;
    assert_eq!(
        refused.to_string(),
        "error: field `v`: float does not hold every int\n  --> streams/events.yml:8:12\n  |\n8 |   \
         - {name: v, type: float, required: true}\n  |            ^\n  = hint: fine would be int, \
         decimal(19,0) or wider, text\n\n1 error"
    );
    // Another format can only have been recorded by another Sluice.
    let text = lake.document("_contracts", "events.json").await.expect("read").expect("recorded");
    let text = String::from_utf8(text.to_vec()).expect("text").replace("\"json\"", "\"avro\"");
    lake.put_document("_contracts", "events.json", text.into()).await.expect("put");
    let refused = compare(&rig.planned(), &lake).await.expect("compared").refused.to_string();
    assert!(refused.contains("format was avro and is now json"), "{refused}");
}

#[tokio::test]
async fn a_stream_that_vanished_is_warned_of_where_it_has_tables() {
    let rig = Rig::new().await;
    let (lake, planned) = (rig.plain_lake(), rig.planned());
    record(&planned, &lake).await.expect("recorded");
    let spec = bronze_spec(planned.judges[0].contract());
    for (name, _) in super::support::MODELS {
        std::fs::remove_file(rig.path("project/models").join(name)).expect("removed");
    }
    std::fs::remove_file(rig.path("project/streams/events.yml")).expect("removed");
    let told = async || compare(&rig.planned(), &lake).await.expect("compared").told;
    assert_eq!(told().await, []);
    lake.open(&spec, []).await.expect("table");
    let told = told().await;
    assert_eq!(told.len(), 1);
    let text = told[0].to_string();
    assert!(text.starts_with("warning: stream `events` has tables in the lake"), "{text}");
}
