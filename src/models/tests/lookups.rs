//! Lookups: equal to their SQL whatever comes, goes, and changes on the other sides.

use super::*;
use crate::models::{Applied, with_key};

/// Joins of `t` to the sides `d` and `e`.
const JOINED: [&str; 17] = [
    // Where rows of a side tie, their other columns decide.
    "SELECT t.k, x.a, x.until FROM t CROSS JOIN (SELECT a, until FROM d ORDER BY a LIMIT 3) AS x",
    "SELECT t.k, x.since FROM t JOIN (SELECT k, since, row_number() OVER (PARTITION BY k ORDER BY a) AS r \
     FROM d) AS x ON x.k = t.k AND x.r = 1",
    "SELECT t.j, x.all FROM t JOIN (SELECT a, string_agg(b, ',') AS all FROM e GROUP BY a) AS x ON x.a = t.j",
    "SELECT t.k, x.until FROM t LEFT JOIN (SELECT DISTINCT ON (k) k, until FROM d ORDER BY k, a) AS x \
     ON x.k = t.k",
    "SELECT t.k, t.v, d.a FROM t LEFT JOIN d ON d.k = t.k",
    "SELECT t.k, t.v, d.a FROM t JOIN d ON d.k = t.k",
    "SELECT t.j, coalesce(d.a, -1) AS a, e.b FROM t LEFT JOIN d ON d.k = t.k \
     LEFT JOIN e ON e.a = d.a",
    "SELECT t.ts, d.a, e.b FROM (SELECT * FROM t WHERE v > 0) AS t LEFT JOIN d ON d.k = upper(t.k) \
     JOIN e ON e.a = t.j + 1 WHERE e.b <> 'b1'",
    // Versions of a key: from one time to another.
    "SELECT t.k, d.a, d.until FROM t LEFT JOIN d ON d.k = t.k AND (d.since IS NULL OR d.since <= t.v) \
     AND (d.until IS NULL OR d.until > t.v)",
    "SELECT x.two, x.a FROM (SELECT t.v * 2 AS two, d.a FROM t JOIN d ON t.k = d.k AND t.j = d.a) AS x \
     WHERE x.two > 4",
    "SELECT t.v, n.n FROM t CROSS JOIN (SELECT count(*) AS n FROM d) AS n",
    "SELECT t.k, s.a, s.n FROM t LEFT JOIN (SELECT k, max(a) AS a, count(*) AS n FROM d GROUP BY k) \
     AS s ON s.k = t.k AND s.n > 1",
    "SELECT t.v, d.a FROM t LEFT JOIN d ON d.a > t.v",
    "SELECT t.v, a, e.b FROM t JOIN d USING (k) JOIN e USING (a)",
    "SELECT t.d, one.a AS one, two.a AS two FROM t LEFT JOIN d AS one ON one.k = t.k \
     LEFT JOIN d AS two ON two.a = one.a + 1 AND two.k <> one.k",
    "SELECT x.e, x.v, d.k FROM (SELECT v, unnest(make_array(j, j % 2, NULL)) AS e FROM t WHERE b) AS x \
     LEFT JOIN d ON d.a = x.e",
    "SELECT k, unnest(array_distinct(make_array(a, a % 3))) AS e FROM (SELECT t.k, d.a FROM t \
     JOIN d ON d.k = t.k) AS x",
];

/// The same, summed up.
const GROUPED: [&str; 6] = [
    "SELECT d.a, count(*) AS n, sum(t.v) AS s FROM t LEFT JOIN d ON d.k = t.k GROUP BY d.a",
    "SELECT k, a, count(*) AS n FROM (SELECT t.k, coalesce(d.a, -1) AS a FROM t JOIN d ON d.k = t.k \
     WHERE t.v + d.a > 0) AS x GROUP BY k, a",
    "SELECT count(*) AS n, avg(e.a) AS m FROM t LEFT JOIN d ON d.k = t.k LEFT JOIN e ON e.a = d.a",
    "SELECT date_trunc('minute', t.ts) AS minute, e.b, count(t.v) FILTER (WHERE d.a > 1) AS n \
     FROM t JOIN d ON d.k = t.k CROSS JOIN e GROUP BY date_trunc('minute', t.ts), e.b",
    "SELECT DISTINCT d.a, t.j FROM t LEFT JOIN d ON d.k = t.k",
    "SELECT a, -s AS s FROM (SELECT s.a, sum(t.d) AS s FROM t LEFT JOIN (SELECT k, max(a) AS a FROM d \
     GROUP BY k) AS s ON s.k = t.k GROUP BY s.a) AS x",
];

/// Rows of `t` alone, which may go.
const PROJECTED: [&str; 5] = [
    "SELECT k, v * 2 AS w FROM t WHERE v > 0",
    "SELECT upper(x.k) AS k, coalesce(x.j, -1) AS j FROM (SELECT * FROM t WHERE b) AS x",
    "SELECT day, f, ts FROM t",
    "SELECT v, word FROM (SELECT v, unnest(string_to_array(concat_ws(' ', k, j), ' ')) AS word FROM t) \
     AS x WHERE word <> 'a'",
    "SELECT make_array(k, 'x') AS list, j FROM t",
];

const REFUSED: [(&str, &str); 9] = [
    ("SELECT t.k FROM t FULL JOIN d ON d.k = t.k", "joins relations by FULL JOIN"),
    ("SELECT t.k FROM t RIGHT JOIN d ON d.k = t.k", "joins relations by RIGHT JOIN"),
    ("SELECT t.k FROM t JOIN t AS u ON u.k = t.k", "joins gold.t, which grows with a stream"),
    (
        "SELECT t.k FROM (SELECT k, count(*) AS n FROM t GROUP BY k) AS t JOIN d ON d.k = t.k",
        "joins what aggregates rows (GROUP BY)",
    ),
    (
        "SELECT max(t.v) AS m FROM t JOIN d ON d.k = t.k",
        "rows may go out of max() of Int64, which is not exact",
    ),
    (
        "SELECT d.k, count(*) AS n FROM t RIGHT JOIN d ON d.k = t.k GROUP BY d.k",
        "aggregates what joins relations by RIGHT JOIN",
    ),
    ("SELECT t.k FROM t JOIN d ON d.k = t.k AND random() < 0.5", "random() is not deterministic"),
    (
        "SELECT t.k FROM t JOIN (SELECT * FROM d WHERE k < (SELECT max(k) FROM e)) AS x ON x.k = t.k",
        "joins what contains a subquery",
    ),
    (
        "SELECT t.k, x.a FROM t JOIN (SELECT k, approx_median(a) AS a FROM e GROUP BY k) AS x \
         ON x.k = t.k",
        "joins what has approx_median(), which may depend on the order of rows",
    ),
];

pub(super) fn seen(driving: Rows) -> BTreeMap<TableName, Seen> {
    let known = [("t", driving, false), ("d", Rows::Change, true), ("e", Rows::Replaced, true)];
    let seen = known.map(|(name, rows, is_side)| {
        let name = TableName::new("gold", name);
        (name, Seen { rows, is_side, is_fed: false })
    });
    seen.into()
}

/// The relations of these rows.
fn context(t: &RecordBatch, d: &RecordBatch, e: &RecordBatch) -> SessionContext {
    let context = session();
    for (name, rows) in [("t", t), ("d", d), ("e", e)] {
        let table = MemTable::try_new(rows.schema(), vec![vec![rows.clone()]]).expect("table");
        context.register_table(name, Arc::new(table)).expect("registered");
    }
    context
}

fn classified(sql: &str, driving: Rows) -> (Classified, SchemaRef) {
    classified_among(sql, &seen(driving))
}

pub(super) fn classified_among(
    sql: &str,
    known: &BTreeMap<TableName, Seen>,
) -> (Classified, SchemaRef) {
    let mut random = StdRng::seed_from_u64(0);
    let t = rows(&mut random, 0);
    let context = context(&t, &d(&mut random, 0), &e(&mut random, 0));
    let u = MemTable::try_new(t.schema(), vec![vec![t]]).expect("table");
    context.register_table("u", Arc::new(u)).expect("registered");
    let state = context.state();
    let plan: LogicalPlan = block_on(state.create_logical_plan(sql)).expect(sql);
    let options = state.config_options();
    let plan = state.analyzer().execute_and_check(plan, options, |_, _| {}).expect(sql);
    let visible = storable(plan.schema().as_arrow());
    (classify(&plan, known, &state, &visible).expect(sql), visible)
}

fn numbers(random: &mut StdRng, count: usize, most: i64) -> ArrayRef {
    let some = |_| (random.random_range(0..6) > 0).then(|| random.random_range(0..most));
    Arc::new((0..count).map(some).collect::<Int64Array>())
}

fn texts(random: &mut StdRng, count: usize, of: &str, most: i64) -> ArrayRef {
    let some = |_| (random.random_range(0..6) > 0).then(|| random.random_range(0..most));
    let texts = (0..count).map(some).map(|n| n.map(|n| format!("{of}{n}")));
    Arc::new(texts.collect::<StringArray>())
}

pub(super) fn d(random: &mut StdRng, count: usize) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable([
        ("k", texts(random, count, "k", 6), true),
        ("a", numbers(random, count, 5), true),
        ("since", numbers(random, count, 10), true),
        ("until", numbers(random, count, 20), true),
    ])
    .expect("rows")
}

pub(super) fn e(random: &mut StdRng, count: usize) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable([
        ("a", numbers(random, count, 6), true),
        ("b", texts(random, count, "b", 3), true),
        ("k", texts(random, count, "k", 3), true),
    ])
    .expect("rows")
}

/// What the sides of a program hold.
pub(super) fn sides(program: &dyn KeptProgram, context: &SessionContext) -> Vec<Vec<RecordBatch>> {
    let rows = program.sides().iter().map(|side| {
        let plan = bound(&side.plan, context);
        block_on(async { context.execute_logical_plan(plan).await?.collect().await })
    });
    rows.collect::<Result<_, _>>().expect("sides")
}

/// A plan over the relations of a context.
pub(super) fn bound(plan: &LogicalPlan, context: &SessionContext) -> LogicalPlan {
    let bound = plan.clone().transform_up(|node| {
        let LogicalPlan::TableScan(scan) = &node else { return Ok(Transformed::no(node)) };
        let provider = block_on(context.table_provider(scan.table_name.clone()))?;
        let (name, source) = (scan.table_name.clone(), provider_as_source(provider));
        let scan = LogicalPlanBuilder::scan(name, source, scan.projection.clone())?;
        Ok(Transformed::yes(scan.build()?))
    });
    bound.expect("bound").data
}

/// A table by key, into which patches go.
#[derive(Default)]
pub(super) struct Table(BTreeMap<Vec<u8>, String>);

impl Table {
    pub(super) fn patch(&mut self, patch: &Patch, program: &dyn KeptProgram, sql: &str) {
        patch.keys.iter().flatten().for_each(|key| {
            self.0.remove(key);
        });
        let keys = patch.rows.column(0).as_binary::<i32>();
        for row in 0..patch.rows.num_rows() {
            let visible = program.visible(&patch.rows.slice(row, 1)).expect(sql);
            let was = self.0.insert(keys.value(row).to_vec(), text(&[visible]).swap_remove(0));
            assert_eq!(was, None, "{sql}: a key stands twice");
        }
    }

    pub(super) fn rows(&self) -> Vec<String> {
        let mut rows: Vec<String> = self.0.values().cloned().collect();
        rows.sort();
        rows
    }
}

fn keeps_up(sql: &str, wanted: Class, rows_go: bool, seed: u64) {
    let driving = if rows_go { Rows::Change } else { Rows::Arrive };
    let (Classified { class, program, reason, .. }, visible) = classified(sql, driving);
    let Program::Kept(program) = program else { panic!("{sql}: {class}, {reason}") };
    assert_eq!(class, wanted, "{sql}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut state = Arc::clone(&program).begin().expect(sql);
    let (mut table, mut bag, mut nth) = (Table::default(), Bag(Vec::new()), 0_u64);
    if let Some(begun) = state.first().expect(sql) {
        table.patch(&begun.patch, program.as_ref(), sql);
        bag.change(&begun.change, sql);
    }
    let mut keyed = |rows: &RecordBatch| {
        let keys = (0..rows.num_rows()).map(|_| {
            nth += 1;
            nth.to_be_bytes()
        });
        with_key(rows, Arc::new(BinaryArray::from_iter_values(keys))).expect(sql)
    };
    let mut all = keyed(&rows(&mut random, 0));
    let (mut ds, mut es) = (d(&mut random, 0), e(&mut random, 0));
    for step in 0..14 {
        let mut change = Change::default();
        let there = u32::try_from(all.num_rows()).expect("few");
        if rows_go && random.random_range(0..3) > 0 {
            let goes: Vec<bool> = (0..there).map(|_| random.random_range(0..4) == 0).collect();
            let part = |wanted: bool| {
                let rows = (0..there).filter(|row| goes[*row as usize] == wanted);
                take_record_batch(&all, &UInt32Array::from_iter_values(rows)).expect("rows")
            };
            let (gone, left) = (part(true), part(false));
            change.removed.push(gone.clone());
            // Some of them come again under their key: as they were, or with others' values.
            let again = gone.slice(0, gone.num_rows() / 2);
            change.added.push(again.clone());
            all = concat_batches(&all.schema(), [&left, &again]).expect("rows");
        }
        for _ in 0..random.random_range(0..3) {
            let count = random.random_range(0..20);
            let came = keyed(&rows(&mut random, count));
            all = concat_batches(&all.schema(), [&all, &came]).expect("rows");
            change.added.push(came);
        }
        let applied = state.apply(&change, true).unwrap_or_else(|e| panic!("{sql}: {e}"));
        table.patch(&applied.patch, program.as_ref(), sql);
        bag.change(&applied.change, sql);
        // A side changes now and then.
        let count = random.random_range(0..12);
        match random.random_range(0..4) {
            0 => ds = d(&mut random, count),
            1 => es = e(&mut random, count),
            2 => {
                let more = d(&mut random, 2);
                ds = concat_batches(&ds.schema(), [&ds, &more]).expect("rows");
            }
            _ => {}
        }
        let columns: Vec<usize> = (0..all.num_columns() - 1).collect();
        let now = context(&all.project(&columns).expect(sql), &ds, &es);
        let differs = state.look(&sides(program.as_ref(), &now)).expect(sql);
        let half = all.num_rows() / 2;
        let halves = [all.slice(0, half), all.slice(half, all.num_rows() - half)];
        let parts = halves.iter().filter_map(|rows| state.redrive(0, rows, true).expect(sql));
        let parts: Vec<Applied> = parts.collect();
        assert!(differs || parts.is_empty(), "{sql}");
        for applied in state.redriven(parts, true).expect(sql) {
            table.patch(&applied.patch, program.as_ref(), sql);
            bag.change(&applied.change, sql);
        }
        state.looked();
        let batches = block_on(async { now.sql(sql).await?.collect().await }).expect(sql);
        let expected: Vec<RecordBatch> =
            batches.iter().map(|batch| storable_batch(batch, &visible).expect(sql)).collect();
        let expected = text(&expected);
        assert_eq!(table.rows(), expected, "seed {seed}, step {step}: {sql}");
        assert_eq!(bag.0, expected, "changes, seed {seed}, step {step}: {sql}");
        if random.random_range(0..4) == 0 {
            // As after a restart: with what the table was made with.
            let stored: Vec<RecordBatch> = state.rows().map(|rows| rows.expect(sql)).collect();
            state = Arc::clone(&program).begin().expect(sql);
            stored.iter().for_each(|rows| state.load(rows).expect(sql));
            state.look(&sides(program.as_ref(), &now)).expect(sql);
            state.looked();
        }
    }
}

#[test]
fn a_lookup_keeps_up_with_rows_and_with_its_sides() {
    for (seed, sql) in (0..).zip(JOINED) {
        for more in [0, 100, 200] {
            keeps_up(sql, Class::Lookup, true, seed + more);
            keeps_up(sql, Class::Lookup, false, seed + more);
        }
    }
}

#[test]
fn an_aggregate_of_joined_rows_keeps_up_with_both() {
    for (seed, sql) in (0..).zip(GROUPED) {
        for more in [0, 100, 200] {
            keeps_up(sql, Class::Aggregate, true, seed + more);
            keeps_up(sql, Class::Aggregate, false, seed + more);
        }
    }
}

#[test]
fn a_projection_keeps_up_with_rows_that_go() {
    for (seed, sql) in (0..).zip(PROJECTED) {
        keeps_up(sql, Class::Project, true, seed);
        keeps_up(sql, Class::Project, true, seed + 100);
    }
}

#[test]
fn what_cannot_be_looked_up_is_refused_with_the_reason() {
    for (sql, expected) in REFUSED {
        let (Classified { class, reason, .. }, _) = classified(sql, Rows::Arrive);
        assert_eq!((class, reason.as_str()), (Class::Recompute, expected), "{sql}");
    }
    let (Classified { reason, .. }, _) = classified(JOINED[0], Rows::Replaced);
    assert_eq!(reason, "joins gold.t, whose rows are replaced as a whole");
}
