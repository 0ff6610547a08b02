use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::{AsArray as _, Int32Array, Int64Array, RecordBatch},
    datatypes::{DataType, Field, Int64Type, Schema, SchemaRef},
};

use super::{
    faults::{Fault, FaultStore},
    *,
};
use crate::domain::{Durability, Positions, TableName};

const APP: &str = "log/stream/0";

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new(PARTITION, DataType::Int32, true),
        Field::new(OFFSET, DataType::Int64, true),
        Field::new("value", DataType::Int64, true),
    ]))
}

fn spec(fingerprint: &str) -> TableSpec {
    TableSpec {
        name: TableName::new("silver", "numbers"),
        schema: schema(),
        fingerprint: fingerprint.to_owned(),
        description: "numbers".to_owned(),
    }
}

/// Rows at offsets `offsets`, each with its offset as value.
fn rows(offsets: std::ops::Range<i64>) -> RecordBatch {
    let n = usize::try_from(offsets.end - offsets.start).expect("length");
    let partition = Int32Array::from(vec![0; n]);
    let offset: Int64Array = offsets.clone().map(Some).collect();
    let value: Int64Array = offsets.map(Some).collect();
    let columns: Vec<arrow::array::ArrayRef> =
        vec![Arc::new(partition), Arc::new(offset), Arc::new(value)];
    RecordBatch::try_new(schema(), columns).expect("batch")
}

fn values(batches: &[RecordBatch]) -> Vec<i64> {
    let mut values: Vec<i64> = batches
        .iter()
        .flat_map(|b| {
            let column = b.column_by_name("value").expect("value");
            column.as_primitive::<Int64Type>().values().to_vec()
        })
        .collect();
    values.sort_unstable();
    values
}

fn step(from: Option<i64>, to: i64) -> Vec<Move> {
    vec![Move { app_id: APP.to_owned(), from, to }]
}

struct Rig(tempfile::TempDir);

impl Rig {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("folder"))
    }

    fn lake(&self) -> Lake {
        Lake::local(self.0.path(), Durability::Fsync).expect("lake")
    }

    /// A lake in which the nth write (from 0) of a commit entry meets a fault.
    fn faulty(&self, nth: usize, fault: Fault) -> Lake {
        let mut commits = 0;
        let plan = move |path: &str| {
            if !path.ends_with(".json") {
                return None;
            }
            commits += 1;
            (commits == nth + 1).then_some(fault)
        };
        let inner = Arc::new(FsyncStore::new(Durability::Os));
        Lake::with_store(self.0.path(), Arc::new(FaultStore::new(inner, plan))).expect("lake")
    }

    async fn table(&self) -> Table {
        open(&self.lake()).await
    }
}

async fn open(lake: &Lake) -> Table {
    lake.open(&spec("f1"), [APP.to_owned()]).await.expect("table")
}

async fn all(table: &Table) -> Vec<i64> {
    values(&table.all_rows().await.expect("rows"))
}

#[tokio::test]
async fn rows_and_position_come_back_together() {
    let rig = Rig::new();
    let mut table = rig.table().await;
    assert_eq!(table.position(APP), None);
    table.append(&[rows(0..3)], step(None, 2)).await.expect("commit");
    table.append(&[rows(3..5)], step(Some(2), 4)).await.expect("commit");
    let again = rig.table().await;
    assert_eq!(again.position(APP), Some(4));
    assert_eq!(all(&again).await, [0, 1, 2, 3, 4]);
    assert_eq!(again.committed().await.expect("committed").rows, 5);
}

#[tokio::test]
async fn a_replay_through_a_fresh_snapshot_is_refused() {
    let rig = Rig::new();
    rig.table().await.append(&[rows(0..3)], step(None, 2)).await.expect("commit");
    // It sees the newest version, so Delta itself would let it through.
    let mut replaying = rig.table().await;
    let error = replaying.append(&[rows(0..2)], step(None, 1)).await.expect_err("refused");
    assert!(
        matches!(error, CommitError::Moved { expected: None, found: Some(2), .. }),
        "{error:?}"
    );
    assert_eq!(all(&rig.table().await).await, [0, 1, 2]);
}

#[tokio::test]
async fn of_two_writers_from_one_snapshot_one_wins() {
    let rig = Rig::new();
    let (mut first, mut second) = (rig.table().await, rig.table().await);
    first.append(&[rows(0..3)], step(None, 2)).await.expect("commit");
    let error = second.append(&[rows(0..2)], step(None, 1)).await.expect_err("refused");
    assert!(matches!(error, CommitError::Moved { found: Some(2), .. }), "{error:?}");
    assert_eq!(all(&rig.table().await).await, [0, 1, 2]);
}

#[tokio::test]
async fn a_commit_that_landed_unseen_counts_once() {
    let rig = Rig::new();
    // Write 0 creates the table.
    let mut table = open(&rig.faulty(1, Fault::ReplyLost)).await;
    table.append(&[rows(0..3)], step(None, 2)).await.expect("landed");
    assert_eq!(table.position(APP), Some(2));
    table.append(&[rows(3..4)], step(Some(2), 3)).await.expect("next");
    assert_eq!(all(&rig.table().await).await, [0, 1, 2, 3]);
}

#[tokio::test]
async fn a_commit_that_did_not_land_is_tried_again() {
    let rig = Rig::new();
    let mut table = open(&rig.faulty(1, Fault::Refused)).await;
    table.append(&[rows(0..3)], step(None, 2)).await.expect("second try");
    assert_eq!(all(&rig.table().await).await, [0, 1, 2]);
}

#[tokio::test]
async fn a_replacement_never_stands_beside_another() {
    let rig = Rig::new();
    let mut owner = rig.table().await;
    owner.replace(&[rows(0..3)], step(None, 1)).await.expect("first");
    let mut stale = rig.table().await;
    owner.replace(&[rows(5..7)], step(Some(1), 2)).await.expect("second");
    let error = stale.replace(&[rows(8..9)], step(Some(1), 2)).await.expect_err("refused");
    assert!(matches!(error, CommitError::Moved { .. }), "{error:?}");
    assert_eq!(all(&rig.table().await).await, [5, 6]);
}

#[tokio::test]
async fn a_replacement_does_not_retry_over_a_newer_version() {
    let rig = Rig::new();
    let mut owner = rig.table().await;
    owner.replace(&[rows(0..3)], step(None, 1)).await.expect("first");
    let other = Move { app_id: "elsewhere".to_owned(), from: None, to: 1 };
    let mut appender = rig.lake().open(&spec("f1"), ["elsewhere".to_owned()]).await.expect("table");
    appender.append(&[rows(3..4)], vec![other]).await.expect("append");
    let error = owner.replace(&[rows(8..9)], step(Some(1), 2)).await.expect_err("refused");
    assert!(matches!(error, CommitError::Outdated { .. }), "{error:?}");
    assert_eq!(all(&rig.table().await).await, [0, 1, 2, 3]);
}

#[tokio::test]
async fn a_commit_without_a_move_is_refused() {
    let mut table = Rig::new().table().await;
    let error = table.append(&[rows(0..1)], Vec::new()).await.expect_err("refused");
    assert!(matches!(error, CommitError::NoMove { .. }), "{error:?}");
}

#[tokio::test]
async fn another_definition_is_noticed_before_anything_is_written() {
    let rig = Rig::new();
    rig.table().await.append(&[rows(0..1)], step(None, 0)).await.expect("commit");
    let other = rig.lake().open(&spec("f2"), [APP.to_owned()]).await.expect("table");
    let error = other.check_fingerprint().expect_err("another fingerprint");
    assert!(error.to_string().contains("found f1") || error.to_string().contains("f1"));
    assert_eq!(all(&other).await, [0]);
}

#[tokio::test]
async fn the_change_by_offset_is_what_lies_in_the_window() {
    let rig = Rig::new();
    let mut table = rig.table().await;
    table.append(&[rows(0..4)], step(None, 3)).await.expect("commit");
    table.append(&[rows(4..9)], step(Some(3), 8)).await.expect("commit");
    let window = |after, through| BTreeMap::from([(0, OffsetWindow { after, through })]);
    let read =
        async |windows| values(&table.rows_in(PARTITION, OFFSET, &windows).await.expect("rows"));
    assert_eq!(read(window(Some(2), 5)).await, [3, 4, 5]);
    assert_eq!(read(window(None, 1)).await, [0, 1]);
    assert_eq!(read(BTreeMap::new()).await, [0; 0]);
}

#[tokio::test]
async fn the_change_by_version_is_the_net_of_added_and_removed_rows() {
    let rig = Rig::new();
    let mut table = rig.table().await;
    table.replace(&[rows(0..5)], step(None, 1)).await.expect("first");
    let first = table.version();
    table.replace(&[rows(3..8)], step(Some(1), 2)).await.expect("second");
    let change = table.change_since(Some(first)).await.expect("change");
    assert_eq!(values(&change.added), [5, 6, 7]);
    assert_eq!(values(&change.removed), [0, 1, 2]);
    let whole = table.change_since(None).await.expect("change");
    assert_eq!((values(&whole.added), whole.removed_rows()), (vec![3, 4, 5, 6, 7], 0));
    let nothing = table.change_since(Some(table.version())).await.expect("change");
    assert!(nothing.is_empty());
}

#[tokio::test]
async fn a_checkpoint_keeps_positions_and_rows() {
    let rig = Rig::new();
    let mut table = rig.table().await;
    let mut from = None;
    let mut written = false;
    for offset in 0..51 {
        table.append(&[rows(offset..offset + 1)], step(from, offset)).await.expect("commit");
        written |= table.checkpoint_if_due().await.expect("checkpoint");
        from = Some(offset);
    }
    assert!(written);
    let again = rig.table().await;
    assert_eq!(again.position(APP), Some(50));
    assert_eq!(all(&again).await.len(), 51);
}

/// A table of `commits` files with a row each.
async fn scattered(rig: &Rig, commits: i64) -> Table {
    let mut table = rig.table().await;
    let mut from = None;
    for offset in 0..commits {
        table.append(&[rows(offset..offset + 1)], step(from, offset)).await.expect("commit");
        from = Some(offset);
    }
    table
}

async fn compacted(table: &Table) -> Compacted {
    let due = table.compaction_due().await.expect("due").expect("it is due");
    due.run([PARTITION, OFFSET]).await.expect("compacted")
}

async fn files(table: &Table) -> u64 {
    table.committed().await.expect("committed").files
}

#[tokio::test]
async fn few_files_are_left_alone() {
    let rig = Rig::new();
    let table = scattered(&rig, 31).await;
    assert!(table.compaction_due().await.expect("due").is_none());
}

#[tokio::test]
async fn of_two_compactions_from_one_snapshot_one_wins() {
    let rig = Rig::new();
    let mut one = scattered(&rig, 40).await;
    let mut other = rig.table().await;
    let (first, second) = (compacted(&one).await, compacted(&other).await);
    assert_eq!(first.files(), (40, 1));
    assert!(one.compact(first).await.expect("commit"));
    assert!(!other.compact(second).await.expect("commit"));
    let again = rig.table().await;
    for table in [&one, &other, &again] {
        assert_eq!(all(table).await, (0..40).collect::<Vec<_>>());
        assert_eq!((files(table).await, table.position(APP)), (1, Some(39)));
    }
}

#[tokio::test]
async fn a_compaction_and_a_publisher_leave_every_row_once() {
    let rig = Rig::new();
    let mut compactor = scattered(&rig, 40).await;
    let mut publisher = rig.table().await;
    // The publisher is faster: the compactor gives way, and wins the next time.
    let late = compacted(&compactor).await;
    publisher.append(&[rows(40..45)], step(Some(39), 44)).await.expect("append");
    assert!(!compactor.compact(late).await.expect("commit"));
    assert_eq!(all(&compactor).await, (0..45).collect::<Vec<_>>());
    let again = compacted(&compactor).await;
    assert!(compactor.compact(again).await.expect("commit"));
    // The publisher appends on a snapshot that is not the newest any more.
    publisher.append(&[rows(45..50)], step(Some(44), 49)).await.expect("append");
    let fresh = rig.table().await;
    assert_eq!(all(&fresh).await, (0..50).collect::<Vec<_>>());
    assert_eq!((files(&fresh).await, fresh.position(APP)), (2, Some(49)));
    let window = OffsetWindow { after: Some(37), through: 46 };
    let read = fresh.rows_in(PARTITION, OFFSET, &[(0, window)].into()).await.expect("rows");
    assert_eq!(values(&read), (38..47).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_compaction_that_landed_unseen_counts() {
    let rig = Rig::new();
    scattered(&rig, 40).await;
    let mut table = open(&rig.faulty(0, Fault::ReplyLost)).await;
    let ready = compacted(&table).await;
    assert!(table.compact(ready).await.expect("commit"));
    assert_eq!(all(&rig.table().await).await, (0..40).collect::<Vec<_>>());
    assert_eq!(files(&rig.table().await).await, 1);
}

/// What opening a table of two commits and a checkpoint says after `damage` was done to its log.
async fn damaged(damage: impl FnOnce(&std::path::Path)) -> String {
    let rig = Rig::new();
    let mut table = rig.table().await;
    for offset in 0..50 {
        let from = (offset > 0).then_some(offset - 1);
        table.append(&[rows(offset..offset + 1)], step(from, offset)).await.expect("commit");
    }
    assert!(table.checkpoint_if_due().await.expect("checkpoint"));
    for offset in 50..53 {
        table
            .append(&[rows(offset..offset + 1)], step(Some(offset - 1), offset))
            .await
            .expect("row");
    }
    let log = rig.0.path().join("silver/numbers/_delta_log");
    damage(&log);
    let error = rig.lake().open(&spec("f1"), []).await.err().expect("an error");
    assert_eq!(error.kind(), crate::domain::ErrorKind::Data);
    crate::domain::chain(&error)
        .replace(&log.canonicalize().expect("log").display().to_string(), "LOG")
}

fn half(file: &std::path::Path) {
    let bytes = std::fs::read(file).expect("file");
    std::fs::write(file, &bytes[..bytes.len() / 2]).expect("half");
}

#[tokio::test]
async fn a_damaged_log_is_named_with_the_file_at_fault() {
    const LOG: &str = "table silver.numbers: its log cannot be read: LOG/00000000000000000";
    let commit = damaged(|log| half(&log.join("00000000000000000052.json"))).await;
    assert!(
        commit.starts_with(&format!("{LOG}052.json is damaged: EOF while parsing")),
        "{commit}"
    );
    assert!(!commit.contains('\n'), "{commit}");
    let hole =
        damaged(|log| std::fs::remove_file(log.join("00000000000000000052.json")).expect("rm"));
    assert_eq!(hole.await, format!("{LOG}052.json is not there, and later versions are"));
    let checkpoint = "00000000000000000050.checkpoint.parquet";
    let cut = damaged(|log| half(&log.join(checkpoint))).await;
    assert!(cut.starts_with(&format!("{LOG}050.checkpoint.parquet is damaged: Parquet")), "{cut}");
    let gone = damaged(|log| std::fs::remove_file(log.join(checkpoint)).expect("rm")).await;
    let expected = "050.checkpoint.parquet is not there, and _last_checkpoint names it";
    assert_eq!(gone, format!("{LOG}{expected}"));
    let empty = damaged(|log| std::fs::write(log.join(checkpoint), "").expect("empty")).await;
    assert_eq!(empty, format!("{LOG}050.checkpoint.parquet is empty"));
}

#[tokio::test]
async fn a_data_file_that_cannot_be_read_is_named_whole() {
    let rig = Rig::new();
    let mut table = rig.table().await;
    table.append(&[rows(0..3)], step(None, 2)).await.expect("commit");
    let folder = rig.0.path().join("silver/numbers").canonicalize().expect("folder");
    let entries = std::fs::read_dir(&folder).expect("folder").flatten().map(|entry| entry.path());
    let file = entries.into_iter().find(|path| path.is_file()).expect("file");
    half(&file);
    let error = rig.table().await.all_rows().await.expect_err("cut").to_string();
    assert!(error.starts_with("table silver.numbers: rows cannot be read: "), "{error}");
    assert!(error.contains(&format!("for file {}", file.display())), "{error}");
}

fn state(name: &str, streams: &[&str], positions: &str) -> (TableName, Arc<TableState>) {
    let name = TableName::new("gold", name);
    let state = TableState {
        info: Arc::new(RelationInfo {
            name: name.clone(),
            kind: RelationKind::Model,
            description: String::new(),
            columns: BTreeMap::new(),
        }),
        schema: schema(),
        committed: None,
        overlay: Overlay::None,
        streams: streams.iter().map(|s| (*s).to_owned()).collect(),
        positions: positions.parse().expect("positions"),
    };
    (name, Arc::new(state))
}

#[test]
fn a_query_sees_what_all_of_its_tables_reach() {
    let tables = [
        state("a", &["x"], "x/0=5,x/1=7"),
        state("b", &["x", "y"], "x/0=4,x/1=9,y/0=1"),
        state("seed", &[], ""),
        state("empty", &["x"], ""),
    ];
    let view = LakeView { tables: tables.into(), ..LakeView::default() };
    let of = |names: &[&str]| {
        let names: Vec<TableName> = names.iter().map(|n| TableName::new("gold", *n)).collect();
        view.positions_of(&names).to_string()
    };
    assert_eq!(of(&["a", "b", "seed"]), "x/0=4,x/1=7,y/0=1");
    assert_eq!(of(&["seed"]), "");
    assert_eq!(of(&["a", "empty"]), "");
    assert_eq!(view.streams_of(&[TableName::new("gold", "empty")]), ["x"]);
}

#[tokio::test]
async fn settling_is_answered_by_whoever_makes_the_views() {
    let lake = LakeHandle::new(LakeView::default());
    let waiting = tokio::spawn({
        let lake = Arc::clone(&lake);
        async move { lake.settle().await }
    });
    lake.settle_asked().await;
    assert!(!waiting.is_finished());
    lake.mark_settled(lake.settle_wanted());
    waiting.await.expect("settled");
    let mut after = Positions::default();
    after.advance("x", 0, 3);
    let (reached, wanted) = (LakeView { positions: after.clone(), ..LakeView::default() }, after);
    lake.swap(reached);
    lake.wait_until(|view| view.positions.covers(&wanted)).await;
}
