//! The checker finds what a broken protocol leaves behind: each test breaks one rule of the design
//! on a lake that was green.

use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::{AsArray as _, Int64Array, RecordBatch},
    compute::concat_batches,
    datatypes::{Int64Type, Schema},
};

use crate::{
    bronze::Verdict,
    domain::{
        Place, TableName,
        identity::fingerprint,
        quarantine::{Filter, Replay},
    },
    lake::{Lake, Move, Table, TableSpec},
    process::{
        relations,
        tests::support::{CONTRACT, Rig},
    },
    verify::{Kind, Outcome, Report, Sent, check, collect, facts::StreamFacts},
};

/// Five events, of which one comes twice and two are bad.
const EVENTS: [(usize, &str, i64); 6] =
    [(1, "a", 10), (2, "b", 60), (1, "a", 10), (3, "a", 70), (4, "z", 5), (5, "b", 5_000)];

/// A project that ran twice, and stopped in order.
async fn ran() -> Rig {
    let mut rig = Rig::new().await;
    for events in [&EVENTS[..3], &EVENTS[3..]] {
        let running = rig.start();
        rig.append(events.iter().copied()).await;
        running.settled().await;
        running.stop().await;
        rig.reopen_log().await;
    }
    rig
}

async fn report(rig: &Rig, sent: &[Sent]) -> Report {
    let facts = collect(&rig.planned(), &rig.plain_lake()).await.expect("facts");
    check(sent, &facts)
}

/// The kinds of what was found, and where.
fn found(report: &Report) -> Vec<(Kind, &str)> {
    report.findings.iter().map(|finding| (finding.kind, finding.place.as_str())).collect()
}

fn sent(id: usize, outcome: Outcome) -> Sent {
    let (_, k, v) = EVENTS.into_iter().find(|(number, ..)| *number == id).unwrap_or((id, "a", 0));
    let payload = format!("{{\"id\":\"e{id}\",\"k\":\"{k}\",\"v\":{v}}}");
    Sent {
        stream: "events".to_owned(),
        event_id: format!("e{id}"),
        outcome,
        payload: Some(fingerprint(payload.as_bytes())),
        order: None,
    }
}

fn all_acked() -> Vec<Sent> {
    (1..=5).map(|id| sent(id, Outcome::Acked)).collect()
}

/// Opens a stored table, whatever built it, with its positions.
async fn table(lake: &Lake, name: &TableName) -> (Table, BTreeMap<String, i64>) {
    let positions = lake.audit(name).await.expect("audit").expect("table").positions();
    let spec = TableSpec {
        name: name.clone(),
        schema: Arc::new(Schema::empty()),
        fingerprint: String::new(),
        description: String::new(),
    };
    (lake.open(&spec, positions.keys().cloned()).await.expect("open"), positions)
}

async fn rows(table: &Table) -> Vec<RecordBatch> {
    table.all_rows().await.expect("rows")
}

/// A position of the stream in a table that has one.
fn stream_move(positions: &BTreeMap<String, i64>, is_bronze: bool, by: i64) -> Move {
    let of_stream =
        |(app_id, _): &(&String, &i64)| relations::stream_position(app_id, is_bronze).is_some();
    let (app_id, at) = positions.iter().find(of_stream).expect("position");
    Move { app_id: app_id.clone(), from: Some(*at), to: at + by }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lake_that_keeps_its_promises_is_green() {
    let rig = ran().await;
    let report = report(&rig, &all_acked()).await;
    assert!(report.green, "{report}");
    let looked = &report.looked_at;
    assert_eq!((looked.sent, looked.records), (5, 6));
    assert_eq!((looked.accepted, looked.repeats, looked.quarantined), (3, 1, 2));
    // Discards, Bronze, acceptance, quarantine, a seed, four stored models.
    assert_eq!(looked.tables, 9);
    assert_eq!(looked.rows_compared, 3 + 2 + 2 + 2 + 2, "rows, seed, big, totals, named");
    assert!(report.not_compared.is_empty(), "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lake_without_events_is_green() {
    let rig = Rig::new().await;
    let running = rig.start();
    running.settled().await;
    running.stop().await;
    let report = report(&rig, &[]).await;
    assert!(report.green && report.not_compared.is_empty(), "{report}");
    assert_eq!((report.looked_at.records, report.looked_at.tables), (0, 9));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_producers_were_told_is_compared_with_bronze() {
    let rig = ran().await;
    let mut told = all_acked();
    told[0].outcome = Outcome::Unknown;
    told.push(sent(6, Outcome::Unknown));
    told.push(sent(7, Outcome::Rejected));
    assert!(report(&rig, &told).await.green);

    told.push(sent(8, Outcome::Acked));
    told[1].outcome = Outcome::Rejected;
    told[2].payload = Some(fingerprint(b"other"));
    told.remove(4);
    let report = report(&rig, &told).await;
    let shown = report.to_string();
    for line in [
        "lost: bronze.events: 1 acked events that are not there: e8\n",
        "unexpected: bronze.events: 1 rejected events that are there: e2\n",
        "unexpected: bronze.events: 1 records that nobody sent: 0/2\n",
        "corrupted: bronze.events: 1 records with another payload: 0/1\n",
        "lost 1  duplicated 0  unexpected 2  reordered 0  corrupted 1  position 0  version 0  file 0  \
         content 0\nred",
    ] {
        assert!(shown.contains(line), "{line:?} in\n{shown}");
    }
}

/// A replay counts for a record that was set aside, with its payload.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_of_something_else_is_found() {
    let mut rig = ran().await;
    rig.write("streams/events.yml", &CONTRACT.replace("v < 1000", "v < 10000"));
    let running = rig.start();
    running.settled().await;
    let large = Filter { stream: Some("events".into()), rule: Some("small".into()) };
    let positions = running.quarantine.places(&large).await.expect("places");
    let asked = Replay { positions: positions.clone(), ..Replay::default() };
    assert_eq!(running.quarantine.replay("events", &asked).await.expect("replay").replayed, 1);
    running.settled().await;
    running.stop().await;
    rig.reopen_log().await;
    let facts = collect(&rig.planned(), &rig.plain_lake()).await.expect("facts");
    let green = check(&all_acked(), &facts);
    assert!(green.green, "{green}");
    assert_eq!((green.looked_at.accepted, green.looked_at.quarantined), (4, 2));

    let broken = |change: fn(&mut StreamFacts, Place)| {
        let mut facts = facts.clone();
        change(&mut facts.streams[0], positions[0]);
        let report = check(&[], &facts);
        let kinds = report.findings.iter().map(|f| (f.kind, f.what.clone())).collect::<Vec<_>>();
        assert_eq!(kinds.len(), 1, "{report}");
        kinds[0].clone()
    };
    let other = |stream: &mut StreamFacts, _: Place| {
        let good = stream.decisions.iter().find(|d| d.verdict == Verdict::Accepted);
        let good = good.expect("accepted").place;
        let replay = stream.decisions.iter_mut().find(|d| d.origin.is_some());
        replay.expect("replay").origin = Some(good);
    };
    let what = "replays of what was not set aside".to_owned();
    assert_eq!(broken(other), (Kind::Unexpected, what));
    let changed = |stream: &mut StreamFacts, origin: Place| {
        let record = stream.records.iter_mut().find(|record| record.place == origin);
        record.expect("record").payload = None;
        let row = stream.quarantined.iter_mut().find(|(place, _)| *place == origin);
        row.expect("row").1 = None;
    };
    let what = "replays with another payload".to_owned();
    assert_eq!(broken(changed), (Kind::Corrupted, what));
    let uncounted = |stream: &mut StreamFacts, _: Place| {
        let replay = stream.decisions.iter_mut().find(|d| d.origin.is_some());
        let replay = replay.expect("replay");
        (replay.identity, replay.verdict) = ([9; 16], Verdict::Quarantined);
        let place = replay.place;
        let record = stream.records.iter().find(|record| record.place == place);
        stream.quarantined.push((place, record.expect("record").payload));
    };
    let what = "replays whose event does not count".to_owned();
    assert_eq!(broken(uncounted), (Kind::Lost, what));
}

/// The rows of acceptance and quarantine may be changed so that they agree with each other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_were_changed_by_hand_are_found() {
    let rig = ran().await;
    let facts = collect(&rig.planned(), &rig.plain_lake()).await.expect("facts");
    let broken = |change: fn(&mut StreamFacts)| {
        let mut facts = facts.clone();
        change(&mut facts.streams[0]);
        let report = check(&all_acked(), &facts);
        report.findings.iter().map(|f| (f.kind, f.what.clone())).collect::<Vec<_>>()
    };
    let counted_again = |stream: &mut StreamFacts| {
        let repeat = stream.decisions.iter_mut().find(|d| d.verdict == Verdict::Repeat);
        let repeat = repeat.expect("repeat");
        (repeat.verdict, repeat.identity) = (Verdict::Accepted, [7; 16]);
    };
    let twice = (Kind::Duplicated, "events accepted twice".to_owned());
    let forged = (Kind::Corrupted, "accepted under another id than sent".to_owned());
    assert_eq!(broken(counted_again), [twice, forged]);
    let rewritten = |stream: &mut StreamFacts| stream.quarantined[0].1 = Some([7; 16]);
    let changed = (Kind::Corrupted, "rows with another payload than sent".to_owned());
    assert_eq!(broken(rewritten), [changed]);
}

/// A bad event, and then its correction under the same id, are both there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_may_be_sent_with_several_payloads() {
    let rig = ran().await;
    let mut facts = collect(&rig.planned(), &rig.plain_lake()).await.expect("facts");
    let stream = &mut facts.streams[0];
    let repeat = stream.decisions.iter().find(|d| d.verdict == Verdict::Repeat);
    let place = repeat.expect("repeat").place;
    let record = stream.records.iter_mut().find(|record| record.place == place).expect("record");
    let other = fingerprint(b"another payload");
    record.payload = Some(other);
    let id = record.event_id;
    let mut told = all_acked();
    assert_eq!(found(&check(&told, &facts)), [(Kind::Corrupted, "bronze.events")]);
    let first = told.iter().find(|sent| fingerprint(sent.event_id.as_bytes()) == id);
    let again = |payload| Sent { payload: Some(payload), ..first.expect("sent").clone() };
    let (sent, never_came) = (again(other), again([7; 16]));
    told.push(sent);
    let report = check(&told, &facts);
    assert!(report.green, "{report}");
    told.push(never_came);
    assert_eq!(found(&check(&told, &facts)), [(Kind::Lost, "bronze.events")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_folder_is_not_green() {
    let rig = Rig::new().await;
    let report = report(&rig, &[]).await;
    assert!(!report.green && report.count(Kind::Version) == 8, "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_gone_is_found() {
    for name in ["_acceptance/events", "quarantine/events", "silver/rows", "gold/named"] {
        let rig = ran().await;
        std::fs::remove_dir_all(rig.path(&format!("lake/{name}"))).expect("remove");
        let report = report(&rig, &[]).await;
        let place = name.replace('/', ".");
        assert!(found(&report).contains(&(Kind::Version, place.as_str())), "{report}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_in_columns_that_nobody_compares_is_found() {
    for name in ["bronze/events", "quarantine/events"] {
        let rig = ran().await;
        let file = newest(&rig.path(&format!("lake/{name}")), "parquet");
        let mut bytes = std::fs::read(&file).expect("file");
        // The first column's pages, behind the magic number.
        bytes[4..24].fill(0xff);
        std::fs::write(&file, bytes).expect("damage");
        let report = report(&rig, &[]).await;
        assert_eq!(found(&report), [(Kind::File, &*name.replace('/', "."))], "{report}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_that_turned_is_found() {
    let rig = Rig::new().await;
    let running = rig.start();
    // Of one partition, so that there is an order.
    let events: Vec<(usize, &str, i64)> = (10..40).map(|id| (id, "a", 1)).collect();
    rig.append(events).await;
    running.settled().await;
    running.stop().await;
    let order = |ids: &[usize]| -> Vec<Sent> {
        let ordered = ids.iter().map(|id| Sent {
            order: Some(fingerprint(b"one producer")),
            payload: None,
            ..sent(*id, Outcome::Acked)
        });
        ordered.collect()
    };
    let ids: Vec<usize> = (10..40).collect();
    assert!(report(&rig, &order(&ids)).await.green);
    let backwards: Vec<usize> = (10..40).rev().collect();
    let report = report(&rig, &order(&backwards)).await;
    assert_eq!(found(&report), [(Kind::Reordered, "bronze.events")]);
}

/// No look at the recorded position: what was committed is committed again, and positions fall.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_without_the_position_check_is_found() {
    let rig = ran().await;
    let name = relations::bronze_table("events");
    let (mut bronze, positions) = table(&rig.plain_lake(), &name).await;
    let again = rows(&bronze).await;
    bronze.append(&again, vec![stream_move(&positions, true, -1)]).await.expect("append");
    let report = report(&rig, &all_acked()).await;
    let found = found(&report);
    assert!(found.contains(&(Kind::Duplicated, "bronze.events")), "{report}");
    assert!(found.contains(&(Kind::Position, "bronze.events")), "{report}");
}

/// The log forgets what Bronze does not have yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_was_trimmed_too_early_is_found() {
    let rig = ran().await;
    let mut told = all_acked();
    // Acked, and gone before any commit.
    told.push(sent(6, Outcome::Acked));
    let report = report(&rig, &told).await;
    assert_eq!(found(&report), [(Kind::Lost, "bronze.events")]);
}

/// A commit that landed with an error is made again from a fresh snapshot.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blind_retry_is_found() {
    let rig = ran().await;
    let name = TableName::new("silver", "rows");
    let (mut silver, positions) = table(&rig.plain_lake(), &name).await;
    let again = rows(&silver).await;
    silver.append(&again, vec![stream_move(&positions, false, 1)]).await.expect("append");
    let report = report(&rig, &all_acked()).await;
    let twice =
        report.findings.iter().find(|f| f.place == "silver.rows" && f.kind == Kind::Content);
    assert_eq!(twice.expect("finding").count, 3, "{report}");
}

/// The log is read again into acceptance, which knows its events already.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_into_acceptance_is_found() {
    let rig = ran().await;
    let [_, name, _] = relations::stored_of("events");
    let (mut acceptance, positions) = table(&rig.plain_lake(), &name).await;
    let again = rows(&acceptance).await;
    acceptance.append(&again, vec![stream_move(&positions, false, -1)]).await.expect("append");
    let report = report(&rig, &all_acked()).await;
    let found = found(&report);
    assert!(found.contains(&(Kind::Duplicated, "acceptance of events")), "{report}");
    assert!(found.contains(&(Kind::Position, "_acceptance.events")), "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_child_that_is_published_before_its_parent_is_found() {
    let rig = ran().await;
    let lake = rig.plain_lake();
    let (parent, _) = table(&lake, &TableName::new("gold", "totals")).await;
    let (mut child, positions) = table(&lake, &TableName::new("gold", "named")).await;
    let app_id = relations::read_id(&parent.id().expect("id"));
    let at = positions[&app_id];
    let ahead = Move { app_id, from: Some(at), to: at + 1 };
    child.advance(vec![ahead]).await.expect("advance");
    let report = report(&rig, &all_acked()).await;
    assert_eq!(found(&report), [(Kind::Position, "gold.named")]);
    assert!(report.to_string().contains("inputs that do not reach so far: gold.totals at "));
}

/// Sums in memory run ahead of the mark whose positions are committed with them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_published_from_resident_state_is_found() {
    let rig = ran().await;
    let (mut totals, positions) = table(&rig.plain_lake(), &TableName::new("gold", "totals")).await;
    let now = rows(&totals).await;
    let all = concat_batches(totals.schema(), &now).expect("rows");
    let n = all.schema().index_of("n").expect("column");
    let ahead: Int64Array =
        all.column(n).as_primitive::<Int64Type>().iter().map(|n| n.map(|n| n + 1)).collect();
    let mut columns = all.columns().to_vec();
    columns[n] = Arc::new(ahead);
    let ahead = RecordBatch::try_new(all.schema(), columns).expect("rows");
    totals.replace(&[ahead], vec![]).await.expect("replace");
    assert!(!positions.is_empty());
    let report = report(&rig, &all_acked()).await;
    assert_eq!(found(&report), [(Kind::Content, "gold.totals")]);
    assert!(report.to_string().contains("-(a, 2, 80)"), "{report}");
    assert!(report.to_string().contains("+(a, 3, 80)"), "{report}");
}

/// What failed keeps its rows, and says of what they are made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_that_failed_does_not_claim_what_it_did_not_read() {
    let mut rig = Rig::new().await;
    rig.write("models/gold/odd.sql", "SELECT k, 100 / (n - 2) AS q FROM {{ ref('totals') }}");
    for id in [1, 2] {
        let running = rig.start();
        rig.append([(id, "a", 1)]).await;
        running.settled().await;
        assert_eq!(running.numbers("SELECT n FROM totals").await, [i64::try_from(id).expect("id")]);
        assert_eq!(running.numbers("SELECT q FROM odd").await, [-100]);
        running.stop().await;
        rig.reopen_log().await;
    }
    let report = report(&rig, &[]).await;
    assert!(report.green && report.not_compared.is_empty(), "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_gone_or_cut_is_found() {
    let rig = ran().await;
    let folder = rig.path("lake/silver/rows");
    let files = std::fs::read_dir(&folder).expect("folder").flatten().map(|entry| entry.path());
    let mut files: Vec<_> =
        files.filter(|p| p.extension().is_some_and(|e| e == "parquet")).collect();
    files.sort();
    assert_eq!(files.len(), 2, "a file per run");
    let facts = collect(&rig.planned(), &rig.plain_lake()).await.expect("facts");
    assert!(check(&[], &facts).green);

    // Cut and of another number of rows: as an auditor sees it, without reading the table itself.
    let text = std::fs::read(&files[0]).expect("file");
    std::fs::write(&files[0], &text[..text.len() / 2]).expect("cut");
    std::fs::remove_file(&files[1]).expect("remove");
    let lake = rig.plain_lake();
    let audited = lake.audit(&TableName::new("silver", "rows")).await.expect("audit");
    let mut facts = facts;
    let silver = facts.tables.iter_mut().find(|t| t.name.name == "rows").expect("facts");
    silver.files = audited.expect("table").files;
    silver.versions.remove(1);
    let report = check(&[], &facts);
    assert_eq!(found(&report), [(Kind::Version, "silver.rows"), (Kind::File, "silver.rows")]);
    assert_eq!(report.count(Kind::File), 2);
}

/// The newest file of a kind in a folder.
fn newest(folder: &std::path::Path, extension: &str) -> std::path::PathBuf {
    let entries = std::fs::read_dir(folder).expect("folder").flatten().map(|entry| entry.path());
    let files = entries.filter(|path| path.extension().is_some_and(|found| found == extension));
    files
        .max_by_key(|path| path.metadata().and_then(|m| m.modified()).expect("time"))
        .expect("file")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_read_is_found_and_the_rest_is_compared() {
    const TABLES: [(&str, &str, &[&str]); 3] = [
        ("bronze", "events", &["stream events", "silver.big", "silver.rows"]),
        ("gold", "totals", &["gold.named", "gold.totals"]),
        ("silver", "rows", &["gold.totals", "silver.big", "silver.rows"]),
    ];
    for (schema, name, not_compared) in TABLES {
        for part in ["parquet", "json"] {
            let rig = ran().await;
            let table = rig.path(&format!("lake/{schema}/{name}"));
            let folder = if part == "json" { table.join("_delta_log") } else { table };
            let file = newest(&folder, part);
            let text = std::fs::read(&file).expect("file");
            std::fs::write(&file, &text[..text.len() / 2]).expect("cut");
            let report = report(&rig, &all_acked()).await;
            let kind = if part == "json" { Kind::Version } else { Kind::File };
            let place = format!("{schema}.{name}");
            assert_eq!(found(&report), [(kind, place.as_str())], "{report}");
            let file = file.file_name().expect("name").to_string_lossy();
            assert!(report.findings[0].samples[0].contains(&*file), "{report}");
            for place in &report.not_compared {
                let place = place.split(": ").next().expect("place");
                assert!(not_compared.contains(&place), "{place} of {report}");
            }
            assert!(!report.not_compared.is_empty(), "{report}");
        }
    }
}

/// A table that is behind is what its SQL gives over what it was built from.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_is_compared_as_far_as_it_was_built() {
    let rig = ran().await;
    let running = rig.start();
    rig.append([(6, "a", 1), (7, "b", 60)]).await;
    running.settled().await;
    running.kill().await;
    let lake = rig.plain_lake();
    for (schema, name, behind, whole) in [("silver", "big", 2, 3), ("gold", "named", 2, 2)] {
        let log = rig.path(&format!("lake/{schema}/{name}/_delta_log"));
        let entries = std::fs::read_dir(&log).expect("folder").flatten().map(|e| e.path());
        let last = entries.filter(|p| p.extension().is_some_and(|e| e == "json")).max();
        let name = TableName::new(schema, name);
        let count = |rows: Vec<RecordBatch>| rows.iter().map(RecordBatch::num_rows).sum::<usize>();
        assert_eq!(count(rows(&table(&lake, &name).await.0).await), whole, "{name}");
        std::fs::remove_file(last.expect("entry")).expect("remove");
        assert_eq!(count(rows(&table(&lake, &name).await.0).await), behind, "{name}");
    }
    let report = report(&rig, &[]).await;
    assert!(report.green && report.not_compared.is_empty(), "{report}");
}
