//! Contracts that change between two runs.

use super::support::{CONTRACT, COUNTS, Rig};
use crate::{
    domain::{identity::Identity, record::Record},
    log::Log as _,
    verify,
};

/// An event with a member that the first contract does not know.
fn rich(id: usize, k: &str, v: i64, note: &str) -> Record {
    let payload = format!("{{\"id\":\"e{id}\",\"k\":\"{k}\",\"v\":{v},\"note\":{note}}}");
    let identity = Identity::Given(format!("e{id}"));
    Record { key: None, identity, headers: Vec::new(), payload: payload.into() }
}

const NOTED: &str = "  - {name: v, type: int, required: true}\n  - {name: note, type: int}\n";

/// The lake keeps its promises, and every table could be compared.
async fn is_green(rig: &Rig) {
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
