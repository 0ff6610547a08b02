//! Growing tables stay few files, and what they hold stays the same.

use std::time::Duration;

use super::support::{COUNTS, Rig, settings, start};
use crate::{
    domain::TableName,
    process::{Settings, relations},
    verify,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_of_many_seals_is_compacted() {
    let mut rig = Rig::new().await;
    let running = rig.start();
    for number in 0..40 {
        rig.append([(2 * number, "a", 1), (2 * number + 1, "b", 60), (number, "a", 1)]).await;
        running.settled().await;
    }
    let bronze = TableName::new("_bronze", "events");
    let few = |view: &crate::lake::LakeView| {
        let committed = view.tables[&bronze].committed.as_ref();
        committed.is_some_and(|committed| committed.files < 20)
    };
    // A compaction is committed at a mark, and a mark needs something to commit.
    let mut number = 1_000;
    while !few(&running.view.load()) {
        assert!(number < 1_100, "no compaction in a hundred seals");
        rig.append([(number, "c", 2)]).await;
        running.settled().await;
        number += 1;
    }
    let more = i64::try_from(number - 1_000).expect("few");
    let wanted = [80 + more, 80 + more, 40 * 61 + 2 * more];
    assert_eq!(running.numbers(COUNTS).await, wanted);
    running.stop().await;
    rig.reopen_log().await;
    let running = rig.start();
    running.settled().await;
    assert_eq!(running.numbers(COUNTS).await, wanted);
    tokio::time::timeout(Duration::from_secs(60), running.stop()).await.expect("stopped");
    let facts = verify::collect(&rig.planned(), &rig.plain_lake()).await.expect("facts");
    let report = verify::check(&[], &facts);
    assert!(report.green && report.not_compared.is_empty(), "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_system_tables_say_how_far_everything_is() {
    let mut rig = Rig::new().await;
    rig.write("models/gold/odd.sql", "SELECT k, 100 / (n - 2) AS q FROM {{ ref('totals') }}");
    let running = rig.start();
    rig.append([(1, "a", 10), (2, "b", 60), (3, "z", 5)]).await;
    running.settled().await;
    let streams = "SELECT count(*), sum(position + 1), sum(committed + 1), sum(log_end), sum(lag) \
                   FROM system.streams WHERE stream = 'events'";
    assert_eq!(running.numbers(streams).await, [2, 3, 3, 3, 0]);
    let tables = "SELECT schema || '.' || name, kind, rows, files, uncommitted_bytes FROM \
                  system.tables WHERE kind <> 'acceptance' ORDER BY 1";
    assert_eq!(
        running.text(tables).await,
        "_discarded.records discarded 0 0 0\nbronze.events bronze 3 1 0\n\
         gold.named lookup 2 1 0\ngold.odd append 2 1 0\n\
         gold.totals aggregate 2 1 0\nquarantine.events quarantine 1 1 0\nseeds.name seed 2 1 0\n\
         silver.big append 1 1 0\nsilver.rows append 2 1 0"
    );
    rig.append([(4, "a", 10)]).await;
    running.settled().await;
    let models = "SELECT name, class, state, coalesce(why, ''), computed_at IS NULL FROM \
                  system.models ORDER BY 1";
    assert_eq!(
        running.text(models).await,
        "big append follows  true\nnamed lookup follows  false\n\
         odd append failed Arrow error: Divide by zero error false\n\
         rows append follows  true\ntop view follows  true\ntotals aggregate follows  false"
    );
    running.stop().await;
    rig.reopen_log().await;
    rig.append([(5, "c", 1)]).await;
    let running = rig.start();
    running.settled().await;
    assert_eq!(running.numbers(streams).await, [2, 5, 5, 5, 0]);
    running.stop().await;
}

/// Versions of Bronze that stand in its log as entries of their own.
fn entries(rig: &Rig) -> Vec<u64> {
    let folder = rig.path("lake/bronze/events/_delta_log");
    let names = std::fs::read_dir(folder).expect("log").map(|entry| entry.expect("entry"));
    let names = names.filter_map(|entry| entry.file_name().into_string().ok());
    let mut found: Vec<u64> =
        names.filter_map(|name| name.strip_suffix(".json")?.parse().ok()).collect();
    found.sort_unstable();
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_logs_of_tables_are_cleaned_up_behind_a_checkpoint() {
    let mut rig = Rig::new().await;
    let running =
        start(Settings { log_retention_hours: 0, ..settings() }, rig.deps(rig.plain_lake()));
    let mut number = 0;
    while number < 60 || entries(&rig)[0] == 0 {
        assert!(number < 200, "nothing is cleaned up in {number} seals: {:?}", entries(&rig));
        rig.append([(number, "a", 1), (number / 2, "a", 1)]).await;
        running.settled().await;
        number += 1;
    }
    running.stop().await;
    assert!(entries(&rig)[0] >= 50, "{:?}", entries(&rig));
    rig.reopen_log().await;
    let running = rig.start();
    rig.append([(0, "a", 1), (number, "b", 9)]).await;
    running.settled().await;
    let n = i64::try_from(number).expect("few");
    assert_eq!(running.numbers(COUNTS).await, [n + 1, n + 1, n + 9]);
    running.stop().await;
    let facts = verify::collect(&rig.planned(), &rig.plain_lake()).await.expect("facts");
    let report = verify::check(&[], &facts);
    assert!(report.green && report.not_compared.is_empty(), "{report}");
    // Files that only the checkpoint names are looked at too.
    let bronze = relations::bronze_table("events");
    let audited = rig.plain_lake().audit(&bronze).await.expect("audit").expect("table");
    let first = audited.versions[0].version;
    let file = audited.files.iter().find(|file| file.version == first).expect("a file");
    std::fs::remove_file(rig.path("lake/bronze/events").join(&file.path)).expect("removed");
    let audited = rig.plain_lake().audit(&bronze).await.expect("audit").expect("table");
    assert_eq!(audited.files.iter().filter(|file| file.found.is_err()).count(), 1);
}
