//! What is kept by changes equals its SQL over what the input holds, after any split of the input
//! into changes.

mod by_key;
mod lookups;
mod united;

use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::{
        ArrayRef, AsArray as _, BinaryArray, BooleanArray, Date32Array, Decimal128Array,
        Float64Array, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
        UInt32Array,
    },
    compute::{concat_batches, take_record_batch},
    datatypes::SchemaRef,
};
use datafusion::{
    catalog::MemTable,
    common::tree_node::{Transformed, TreeNode as _},
    datasource::provider_as_source,
    execution::SessionStateBuilder,
    logical_expr::{LogicalPlan, LogicalPlanBuilder},
    prelude::{SessionConfig, SessionContext},
};
use futures::executor::block_on;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use crate::{
    domain::{
        TableName,
        change::{Change, Patch},
        sql_ties::with_ties_broken,
    },
    models::{
        Class, KeptProgram, KeptState, Program,
        classify::{Classified, Rows, Seen, classify},
        storable, storable_batch,
    },
};

/// Over rows that may go as well as come.
const EXACT: [&str; 17] = [
    "SELECT k, count(*) AS n FROM t GROUP BY k",
    "SELECT k, j, count(v) AS n, sum(v) AS s FROM t GROUP BY k, j",
    "SELECT count(*) AS n, sum(v) AS s, avg(d) AS mean FROM t",
    "SELECT sum(v) AS s FROM t WHERE v > 1000",
    "SELECT upper(k) AS k, avg(v) AS mean, sum(d) AS s FROM t WHERE j IS NOT NULL GROUP BY upper(k)",
    "SELECT date_trunc('minute', ts) AS minute, k, sum(d * 2) AS s, avg(d) AS mean \
     FROM t GROUP BY date_trunc('minute', ts), k",
    "SELECT date_bin(INTERVAL '15 minutes', ts) AS bin, count(DISTINCT_FREE) AS n FROM \
     (SELECT ts, v AS DISTINCT_FREE FROM t) AS x GROUP BY date_bin(INTERVAL '15 minutes', ts)",
    "SELECT DISTINCT k, j % 3 AS m FROM t",
    "SELECT k, sum(v) FILTER (WHERE b) AS of_true, count(*) FILTER (WHERE v > 0) AS positive \
     FROM t GROUP BY k",
    "SELECT b, count(*) AS n, sum(j) / count(*) AS ratio FROM t GROUP BY b",
    "SELECT day, count(*) AS n FROM t GROUP BY day",
    "SELECT n, count(*) AS of FROM (SELECT j AS n FROM t WHERE j > 2) AS x GROUP BY n",
    "SELECT coalesce(k, '-') AS k, -sum(v) AS s, 100 * count(j) / count(*) AS percent \
     FROM t GROUP BY coalesce(k, '-')",
    "SELECT count(*) AS n, d FROM t GROUP BY d",
    "SELECT sum(100 / v) FILTER (WHERE v <> 0) AS q, count(*) AS n FROM t",
    "SELECT e, count(*) AS n, sum(v) AS s FROM (SELECT v, unnest(CASE WHEN b THEN make_array(j, \
     j % 2, j % 3) WHEN k = 'a' THEN arrow_cast(make_array(), 'List(Int64)') END) AS e FROM t) AS x \
     WHERE e > 0 GROUP BY e",
    "SELECT k, unnest(string_to_array(concat_ws(',', k, b, NULL, day), ',')) AS word, count(*) AS n \
     FROM t GROUP BY k, word",
];

/// Over rows that only come.
const GROWING: [&str; 8] = [
    "SELECT k, min(v) AS least, max(v) AS most FROM t GROUP BY k",
    "SELECT k, sum(f) AS s, avg(f) AS mean, max(k) AS same FROM t GROUP BY k",
    "SELECT min(ts) AS first, max(ts) AS last, max(d) AS most, min(k) AS least FROM t",
    "SELECT j, min(b) AS every, max(b) AS any, max(day) AS newest FROM t GROUP BY j",
    "SELECT k, max(v) - min(v) AS spread, count(*) AS n FROM t WHERE v IS NOT NULL GROUP BY k",
    "SELECT date_trunc('hour', ts) AS hour, avg(f + 1) AS mean FROM t GROUP BY 1",
    "SELECT max(v) FILTER (WHERE b) AS most FROM t",
    "SELECT j, min(arrow_cast(k, 'Utf8View')) AS least, max(arrow_cast(v, 'Int16')) AS most, \
     min(arrow_cast(ts, 'Timestamp(Microsecond, None)')) AS first FROM t GROUP BY j",
];

/// The first row of each key, over rows that only come.
const FIRST: [&str; 9] = [
    // Where rows tie, their other columns decide.
    "SELECT k, j, v, d FROM (SELECT *, row_number() OVER (PARTITION BY k ORDER BY j) AS r FROM t) AS x \
     WHERE r = 1",
    "SELECT k, v FROM (SELECT k, v, row_number() OVER (PARTITION BY k) AS r FROM t WHERE v > 0) AS x \
     WHERE r = 1",
    "SELECT k, v FROM (SELECT k, v, row_number() OVER (PARTITION BY k ORDER BY b DESC) AS r FROM \
     (SELECT k, b, v % 3 AS v FROM t) AS y) AS x WHERE r = 1",
    // No place of a row, whatever its name says.
    "SELECT k, v, j FROM (SELECT k, v, j, row_number() OVER (PARTITION BY k ORDER BY b, _ts, _partition, \
     _offset, _index) AS r FROM (SELECT k, v, j, b, _ts, 0 AS _partition, 0 AS _offset, 0 AS _index \
     FROM t) AS y) AS x WHERE r = 1",
    "SELECT k, v, d FROM (SELECT *, row_number() OVER (PARTITION BY k ORDER BY v DESC, _ts DESC, \
     _partition DESC, _offset DESC, _index DESC) AS rank FROM t) AS x WHERE rank = 1",
    "SELECT j + 1 AS j, coalesce(k, '-') AS k, f, ts FROM (SELECT j, k, f, ts, row_number() OVER (\
     PARTITION BY j ORDER BY d NULLS FIRST, _ts, _partition, _offset, _index) AS rank \
     FROM t WHERE b IS NOT NULL) AS x WHERE 1 = rank",
    "SELECT k, j, v FROM (SELECT k, j, v, row_number() OVER (PARTITION BY k, j ORDER BY ts ASC, \
     _offset DESC, _partition, _index) AS r FROM (SELECT * FROM t WHERE v > 0) AS y) AS x \
     WHERE r = 1",
    "SELECT * FROM (SELECT k AS key, v, row_number() OVER (PARTITION BY upper(k) ORDER BY f DESC \
     NULLS LAST, _partition, _offset, _index) AS r FROM t) AS x WHERE r = 1",
    "SELECT day, b, r * 2 AS two FROM (SELECT day, b, row_number() OVER (PARTITION BY day, b \
     ORDER BY _offset DESC, _partition, _index) AS r FROM t) AS x WHERE r = 1",
];

const REFUSED: [(&str, &str); 15] = [
    (
        "SELECT k FROM (SELECT k, row_number() OVER (PARTITION BY k ORDER BY v) AS r FROM \
         (SELECT k, v, named_struct('a', j) AS s FROM t) AS y) AS x WHERE r = 1",
        "rows may tie for the first of their key, with columns that cannot be compared",
    ),
    (
        "SELECT k FROM (SELECT k, row_number() OVER (PARTITION BY k ORDER BY v) AS r FROM t) AS x \
         WHERE r <= 2",
        "has a window function",
    ),
    (
        "SELECT k FROM (SELECT k, rank() OVER (PARTITION BY k ORDER BY v) AS r FROM t) AS x \
         WHERE r = 1",
        "has a window function",
    ),
    (
        "SELECT unnest(make_array(j)) AS a, unnest(make_array(v)) AS b FROM t",
        "unnests several lists, lists of lists or structs at once",
    ),
    (
        "SELECT e FROM (SELECT e, row_number() OVER (PARTITION BY e ORDER BY v, _ts, _partition, \
         _offset, _index) AS r FROM (SELECT *, unnest(make_array(j)) AS e FROM t) AS y) AS x \
         WHERE r = 1",
        "takes the first of rows that unnest() makes",
    ),
    ("SELECT count(DISTINCT v) AS n FROM t", "count(DISTINCT …) looks at all rows of a group"),
    ("SELECT f, count(*) AS n FROM t GROUP BY f", "groups by a floating-point number"),
    (
        "SELECT k, j, count(*) AS n FROM t GROUP BY ROLLUP (k, j)",
        "groups by several sets (ROLLUP, CUBE, GROUPING SETS)",
    ),
    ("SELECT median(v) AS m FROM t", "median() of Float64 looks at all rows of a group"),
    ("SELECT string_agg(k, ',') AS m FROM t", "string_agg() looks at all rows of a group"),
    ("SELECT first_value(k ORDER BY v) AS m FROM t", "first_value() depends on the order of rows"),
    (
        "SELECT max(arrow_cast(j, 'UInt64')) AS m FROM t",
        "max() of UInt64 looks at all rows of a group",
    ),
    (
        "SELECT max(to_timestamp_seconds(j)) AS m FROM t",
        "max() of Timestamp(s) looks at all rows of a group",
    ),
    ("SELECT stddev(f) AS m FROM t", "stddev() of Float64 looks at all rows of a group"),
    ("SELECT max(f) AS m FROM t", "max() of Float64 looks at all rows of a group"),
];

const NOT_WHERE_ROWS_GO: [(&str, &str); 3] = [
    ("SELECT max(v) AS m FROM t", "rows may go out of max() of Int64, which is not exact"),
    ("SELECT sum(f) AS m FROM t", "rows may go out of sum() of Float64, which is not exact"),
    ("SELECT avg(f) AS m FROM t", "rows may go out of avg() of Float64, which is not exact"),
];

fn rows(random: &mut StdRng, count: usize) -> RecordBatch {
    // Told apart by chance.
    let offsets: Vec<i64> = (0..count).map(|_| random.random_range(0..i64::MAX)).collect();
    let mut some =
        |most: i64| (random.random_range(0..8) > 0).then(|| random.random_range(0..most));
    let numbers = |values: Vec<Option<i64>>| Arc::new(Int64Array::from(values)) as ArrayRef;
    let mut column = |most: i64| (0..count).map(|_| some(most)).collect::<Vec<_>>();
    let keys: StringArray = column(5).iter().map(|k| k.map(|k| format!("k{k}"))).collect();
    let decimals: Decimal128Array = column(100_000).iter().map(|d| d.map(i128::from)).collect();
    let decimals = decimals.with_precision_and_scale(12, 2).expect("decimal");
    #[allow(clippy::cast_precision_loss, reason = "small")]
    let floats: Float64Array = column(1_000).iter().map(|f| f.map(|f| f as f64 / 7.0)).collect();
    let times: TimestampMicrosecondArray =
        column(3_600).iter().map(|t| t.map(|t| t * 1_700_000)).collect();
    let days: Date32Array =
        column(4).iter().map(|d| d.and_then(|d| i32::try_from(d).ok())).collect();
    let flags: BooleanArray = column(2).iter().map(|b| b.map(|b| b == 1)).collect();
    let arrived: TimestampMicrosecondArray = column(50).into_iter().collect();
    let partitions: Int32Array = (0..count).map(|row| i32::try_from(row % 3).ok()).collect();
    let shifted = column(40).iter().map(|v| v.map(|v| v - 20)).collect();
    RecordBatch::try_from_iter_with_nullable([
        ("k", Arc::new(keys) as ArrayRef, true),
        ("j", numbers(column(6)), true),
        ("v", numbers(shifted), true),
        ("d", Arc::new(decimals), true),
        ("f", Arc::new(floats), true),
        ("ts", Arc::new(times.with_timezone("UTC")), true),
        ("day", Arc::new(days), true),
        ("b", Arc::new(flags), true),
        ("_ts", Arc::new(arrived.with_timezone("UTC")), true),
        ("_partition", Arc::new(partitions), true),
        ("_offset", Arc::new(Int64Array::from(offsets)), true),
        ("_index", Arc::new(Int32Array::from(vec![0; count])), true),
    ])
    .expect("rows")
}

/// As models are planned and computed.
fn session() -> SessionContext {
    let config = SessionConfig::new().with_target_partitions(1);
    let builder = SessionStateBuilder::new_with_default_features().with_config(config);
    SessionContext::new_with_state(with_ties_broken(builder).build())
}

fn context(all: &RecordBatch) -> SessionContext {
    let context = session();
    let table = MemTable::try_new(all.schema(), vec![vec![all.clone()]]).expect("table");
    context.register_table("t", Arc::new(table)).expect("registered");
    context
}

fn classified(sql: &str, kind: Rows) -> (Classified, SchemaRef) {
    let context = context(&rows(&mut StdRng::seed_from_u64(0), 0));
    let state = context.state();
    let plan: LogicalPlan = block_on(state.create_logical_plan(sql)).expect(sql);
    let options = state.config_options();
    let plan = state.analyzer().execute_and_check(plan, options, |_, _| {}).expect(sql);
    let visible = storable(plan.schema().as_arrow());
    let name = TableName::new("gold", "t");
    let seen = Seen { rows: kind, is_side: false, is_fed: false };
    let known = [(name, seen)].into();
    (classify(&plan, &known, &state, &visible).expect(sql), visible)
}

fn compiled(sql: &str, kind: Rows, class: Class) -> Arc<dyn KeptProgram> {
    let (classified, _) = classified(sql, kind);
    assert_eq!(classified.class, class, "{sql}: {}", classified.reason);
    match classified.program {
        Program::Kept(program) => program,
        other => panic!("{sql}: {other:?}"),
    }
}

/// Rows as sorted text; floats to nine digits.
fn text(batches: &[RecordBatch]) -> Vec<String> {
    let mut lines = Vec::new();
    for batch in batches {
        for row in 0..batch.num_rows() {
            let cells = batch.columns().iter().map(|column| {
                let text = arrow::util::display::array_value_to_string(column, row).expect("cell");
                match (column.data_type().is_floating(), text.parse::<f64>()) {
                    (true, Ok(number)) => format!("{number:.9e}"),
                    _ => text,
                }
            });
            lines.push(cells.collect::<Vec<_>>().join("|"));
        }
    }
    lines.sort();
    lines
}

fn by_sql(sql: &str, all: &RecordBatch, visible: &SchemaRef) -> Vec<String> {
    let batches = block_on(async { context(all).sql(sql).await?.collect().await }).expect(sql);
    let stored: Vec<RecordBatch> =
        batches.iter().map(|batch| storable_batch(batch, visible).expect(sql)).collect();
    text(&stored)
}

fn visible_rows(state: &dyn KeptState, program: &dyn KeptProgram) -> Vec<String> {
    let stored = state.rows().map(|rows| rows.expect("rows"));
    text(&stored.map(|rows| program.visible(&rows).expect("visible")).collect::<Vec<_>>())
}

/// A bag of rows that changes go into.
struct Bag(Vec<String>);

impl Bag {
    fn change(&mut self, change: &Change, sql: &str) {
        // Without the key.
        let [added, removed] = [&change.added, &change.removed].map(|batches| {
            let columns = |rows: &RecordBatch| (0..rows.num_columns() - 1).collect::<Vec<_>>();
            let visible = batches.iter().map(|rows| rows.project(&columns(rows)).expect(sql));
            text(&visible.collect::<Vec<_>>())
        });
        for gone in removed {
            let at = self.0.iter().position(|row| *row == gone);
            self.0.swap_remove(at.unwrap_or_else(|| panic!("{sql}: {gone} was not there")));
        }
        self.0.extend(added);
        self.0.sort();
    }
}

fn keeps_up(sql: &str, class: Class, rows_go: bool, seed: u64) {
    let kind = if rows_go { Rows::Change } else { Rows::Arrive };
    let program = compiled(sql, kind, class);
    let visible = Arc::clone(program.schema());
    let mut random = StdRng::seed_from_u64(seed);
    let mut state = Arc::clone(&program).begin().expect(sql);
    let mut bag = Bag(Vec::new());
    if let Some(begun) = state.first().expect(sql) {
        bag.change(&begun.change, sql);
    }
    let mut all = rows(&mut random, 0);
    for step in 0..12 {
        let mut change = Change::default();
        let there = u32::try_from(all.num_rows()).expect("few");
        if rows_go && there > 0 && random.random_range(0..3) > 0 {
            let goes: Vec<bool> = (0..there).map(|_| random.random_range(0..4) == 0).collect();
            let part = |wanted: bool| {
                let rows = (0..there).filter(|row| goes[*row as usize] == wanted);
                take_record_batch(&all, &UInt32Array::from_iter_values(rows)).expect("rows")
            };
            let (gone, left) = (part(true), part(false));
            change.removed.push(gone);
            all = left;
        }
        for _ in 0..random.random_range(0..3) {
            let count = random.random_range(0..20);
            let came = rows(&mut random, count);
            all = concat_batches(&all.schema(), [&all, &came]).expect("rows");
            change.added.push(came);
        }
        let applied = state.apply(&change, true).unwrap_or_else(|e| panic!("{sql}: {e}"));
        bag.change(&applied.change, sql);
        let expected = by_sql(sql, &all, &visible);
        assert_eq!(
            visible_rows(state.as_ref(), program.as_ref()),
            expected,
            "seed {seed}, step {step}: {sql}"
        );
        assert_eq!(bag.0, expected, "changes, seed {seed}, step {step}: {sql}");
        if random.random_range(0..4) == 0 {
            // As after a restart: from what the table holds.
            let stored: Vec<RecordBatch> = state.rows().map(|rows| rows.expect(sql)).collect();
            state = Arc::clone(&program).begin().expect(sql);
            stored.iter().for_each(|rows| state.load(rows).expect(sql));
        }
    }
}

#[test]
fn an_aggregate_keeps_up_with_rows_that_come_and_go() {
    for (seed, sql) in (0..).zip(EXACT) {
        keeps_up(sql, Class::Aggregate, true, seed);
        keeps_up(sql, Class::Aggregate, true, seed + 100);
        keeps_up(sql, Class::Aggregate, false, seed);
    }
}

#[test]
fn an_aggregate_keeps_up_with_rows_that_come() {
    for (seed, sql) in (0..).zip(GROWING) {
        keeps_up(sql, Class::Aggregate, false, seed);
        keeps_up(sql, Class::Aggregate, false, seed + 100);
    }
}

#[test]
fn the_first_row_of_each_key_keeps_up_with_rows_that_come() {
    for (seed, sql) in (0..).zip(FIRST) {
        keeps_up(sql, Class::Keyed, false, seed);
        keeps_up(sql, Class::Keyed, false, seed + 100);
    }
    let (classified, _) = classified(FIRST[0], Rows::Change);
    assert_eq!(classified.reason, "takes the first of rows of gold.t that may go");
}

#[test]
fn what_needs_all_rows_of_a_group_is_refused_with_the_reason() {
    let refused = |sql, kind| {
        let (Classified { class, reason, .. }, _) = classified(sql, kind);
        assert_eq!(class, Class::Recompute, "{sql}");
        reason
    };
    for (sql, reason) in REFUSED {
        assert_eq!(refused(sql, Rows::Arrive), reason, "{sql}");
    }
    for (sql, reason) in NOT_WHERE_ROWS_GO {
        compiled(sql, Rows::Grow, Class::Aggregate);
        assert_eq!(refused(sql, Rows::Change), reason, "{sql}");
    }
}

/// What cannot be computed changes nothing.
#[test]
fn a_change_that_fails_leaves_everything_as_it_was() {
    let sql = "SELECT k, 10 / sum(v) AS q, max(v) AS most, count(*) AS n FROM t GROUP BY k";
    let program = compiled(sql, Rows::Grow, Class::Aggregate);
    let mut state = Arc::clone(&program).begin().expect(sql);
    let change = |keys: &[&str], values: &[i64]| {
        let mut all = rows(&mut StdRng::seed_from_u64(0), keys.len()).columns().to_vec();
        all[0] = Arc::new(StringArray::from(keys.to_vec()));
        all[2] = Arc::new(Int64Array::from(values.to_vec()));
        let schema = rows(&mut StdRng::seed_from_u64(0), 0).schema();
        Change { added: vec![RecordBatch::try_new(schema, all).expect("rows")], removed: vec![] }
    };
    state.apply(&change(&["a", "b"], &[2, 5]), true).expect("first");
    let before = visible_rows(state.as_ref(), program.as_ref());
    assert_eq!(before, ["a|5|2|1", "b|2|5|1"]);
    let error = state.apply(&change(&["a", "c", "b"], &[-2, 1, 7]), true).expect_err("zero");
    assert!(error.reason().to_lowercase().contains("divide by zero"), "{error}");
    assert_eq!(visible_rows(state.as_ref(), program.as_ref()), before);
    assert_eq!(state.count(), 2);
    let both = change(&["a", "c", "b", "a"], &[-2, 1, 7, 1]);
    state.apply(&both, true).expect("together");
    assert_eq!(visible_rows(state.as_ref(), program.as_ref()), ["a|10|2|3", "b|0|7|2", "c|10|1|1"]);
}

/// What a filter, or an earlier part of a condition, leaves out need not be computable.
#[test]
fn only_rows_that_count_are_computed() {
    let sql = "SELECT k, count(*) AS n FROM t WHERE v <> 0 AND 100 / v > 1 GROUP BY k";
    let program = compiled(sql, Rows::Change, Class::Aggregate);
    let mut state = Arc::clone(&program).begin().expect(sql);
    let some = rows(&mut StdRng::seed_from_u64(5), 4);
    for values in [[0, 0, 0, 0], [0, 7, 8, 0], [50, 0, 60, 1]] {
        let mut all = some.columns().to_vec();
        all[0] = Arc::new(StringArray::from(vec!["a"; 4]));
        all[2] = Arc::new(Int64Array::from(values.to_vec()));
        let added = vec![RecordBatch::try_new(some.schema(), all).expect("rows")];
        let change = Change { added, removed: Vec::new() };
        state.apply(&change, true).unwrap_or_else(|e| panic!("{values:?}: {e}"));
    }
    assert_eq!(visible_rows(state.as_ref(), program.as_ref()), ["a|4"]);
}

/// What cannot be computed of nothing begins with the first row.
#[test]
fn an_aggregate_that_has_no_value_before_the_first_row_begins_with_it() {
    let sql = "SELECT 10 / count(*) AS q FROM t";
    let program = compiled(sql, Rows::Change, Class::Aggregate);
    let mut state = Arc::clone(&program).begin().expect(sql);
    state.first().expect_err("nothing");
    let rows = rows(&mut StdRng::seed_from_u64(3), 5);
    let change = Change { added: vec![rows], removed: vec![] };
    let mut bag = Bag(Vec::new());
    for expected in ["2", "1"] {
        bag.change(&state.apply(&change, true).expect(sql).change, sql);
        assert_eq!(bag.0, [expected]);
    }
}

#[test]
fn a_sum_that_leaves_its_type_is_an_error() {
    let sql = "SELECT sum(v * 1000000000000000) AS s FROM t";
    let program = compiled(sql, Rows::Grow, Class::Aggregate);
    let mut state = program.begin().expect(sql);
    let some = rows(&mut StdRng::seed_from_u64(3), 4_000);
    let mut all = some.columns().to_vec();
    all[2] = Arc::new(Int64Array::from(vec![9_000; 4_000]));
    let added = vec![RecordBatch::try_new(some.schema(), all).expect("rows")];
    let error = state.apply(&Change { added, removed: vec![] }, true).expect_err("overflow");
    assert!(error.reason().contains("overflows BIGINT: cast to DECIMAL(38, 0)"), "{error}");
}
