//! UNION ALL: equal to its SQL whatever comes and goes in any of its inputs.

use super::{
    lookups::{Table, classified_among, d, e, seen, sides},
    *,
};
use crate::models::{Applied, with_key};

/// Rows of `t` and `u`, one by one.
const UNITED: [&str; 9] = [
    "SELECT k, v FROM t UNION ALL SELECT k, j AS v FROM u WHERE b",
    // One input twice, and three branches.
    "SELECT k, v FROM t WHERE v > 0 UNION ALL SELECT k, v FROM t WHERE b",
    "(SELECT k FROM t UNION ALL SELECT k FROM u) UNION ALL SELECT upper(k) FROM t WHERE v > 3",
    // Of other types and names.
    "SELECT 't' AS what, k, d FROM t UNION ALL SELECT 'other', k, v FROM u",
    "SELECT v, CAST(NULL AS VARCHAR) AS k FROM t UNION ALL SELECT d, k FROM u",
    "SELECT upper(x.k) AS k, x.s * 2 AS s FROM (SELECT k, v AS s FROM t UNION ALL SELECT k, j FROM u) AS x \
     WHERE x.s > 3",
    "SELECT v, e FROM (SELECT v, unnest(make_array(j, v)) AS e FROM (SELECT v, j FROM t UNION ALL \
     SELECT j, v FROM u) AS x) AS y WHERE e > 2",
    // A row that is always there.
    "SELECT k, v FROM t UNION ALL SELECT 'none', -1 UNION ALL SELECT k, j FROM u",
    "SELECT k, 10 / v AS q FROM t WHERE v <> 0 UNION ALL SELECT x.k, x.q FROM (SELECT 'none' AS k, 2 AS q) AS x",
];

/// Joined to the sides `d` and `e`.
const JOINED: [&str; 4] = [
    "SELECT x.k, x.v, d.a FROM (SELECT k, v FROM t UNION ALL SELECT k, j FROM u) AS x \
     LEFT JOIN d ON d.k = x.k",
    "SELECT t.k, d.a FROM t JOIN d ON d.k = t.k UNION ALL SELECT u.k, e.a FROM u LEFT JOIN e ON e.a = u.j",
    "SELECT t.k, d.a FROM t JOIN d ON d.k = t.k UNION ALL SELECT k, j FROM u WHERE b \
     UNION ALL SELECT k, v FROM t",
    "SELECT y.k, y.a, e.b FROM (SELECT t.k, d.a FROM t LEFT JOIN d ON d.k = t.k UNION ALL \
     SELECT k, v FROM u) AS y JOIN e ON e.a = y.a",
];

/// Summed up.
const GROUPED: [&str; 5] = [
    "SELECT k FROM t UNION SELECT k FROM u",
    "SELECT k, count(*) AS n, sum(v) AS s FROM (SELECT k, v FROM t UNION ALL SELECT k, j AS v FROM u) AS x \
     GROUP BY k",
    "SELECT count(*) AS n, avg(w) AS mean FROM (SELECT v + 1 AS w FROM (SELECT v FROM t WHERE b UNION ALL \
     SELECT v FROM t UNION ALL SELECT j FROM u) AS x WHERE v > 2) AS y",
    "SELECT d.a, count(*) AS n, sum(x.v) AS s FROM (SELECT k, v FROM t UNION ALL SELECT k, j FROM u) AS x \
     LEFT JOIN d ON d.k = x.k GROUP BY d.a",
    "SELECT DISTINCT what, k FROM (SELECT 't' AS what, k FROM t UNION ALL SELECT 'u', k FROM u) AS x",
];

/// Summed up, of rows that only come.
const GROWING: [&str; 2] = [
    "SELECT k, max(v) AS most, sum(f) AS s FROM (SELECT k, v, f FROM t UNION ALL SELECT k, j, f FROM u) AS x \
     GROUP BY k",
    "SELECT min(ts) AS first, max(d) AS most FROM (SELECT ts, d FROM t UNION ALL SELECT ts, d FROM u \
     WHERE b) AS x",
];

const REFUSED: [(&str, &str); 8] = [
    (
        "SELECT k, v FROM t UNION ALL SELECT k, a FROM e",
        "unites what reads gold.e, whose rows are replaced as a whole",
    ),
    (
        "SELECT k, v FROM t UNION ALL SELECT k, a FROM d",
        "unites gold.t, whose rows only come, with gold.d, whose rows may go",
    ),
    (
        "SELECT k, count(*) AS n FROM t GROUP BY k UNION ALL SELECT k, v FROM u",
        "unites what aggregates rows (GROUP BY)",
    ),
    (
        "SELECT t.k FROM t FULL JOIN d ON d.k = t.k UNION ALL SELECT k FROM u",
        "unites what joins relations by FULL JOIN",
    ),
    ("SELECT v FROM t UNION ALL SELECT 1 / 0", "unites a row that cannot be computed"),
    ("SELECT f FROM t UNION ALL SELECT random()", "unites what random() is not deterministic"),
    (
        "SELECT k, count(*) AS n FROM (SELECT k FROM t UNION ALL SELECT 'none') AS x GROUP BY k",
        "aggregates what unites rows with some that are always there",
    ),
    (
        "SELECT t.k, d.a FROM t JOIN d ON d.k = t.k UNION ALL SELECT 'none', 0",
        "unites joined rows with some that are always there",
    ),
];

/// Rows with keys that are theirs for good.
struct Input {
    all: RecordBatch,
    keys: u64,
}

impl Input {
    fn new(random: &mut StdRng) -> Self {
        let mut input = Self { all: rows(random, 0), keys: 0 };
        input.all = input.keyed(&input.all.clone());
        input
    }

    fn keyed(&mut self, rows: &RecordBatch) -> RecordBatch {
        let from = self.keys;
        self.keys += rows.num_rows() as u64;
        let keys = (from..self.keys).map(u64::to_be_bytes);
        with_key(rows, Arc::new(BinaryArray::from_iter_values(keys))).expect("rows")
    }

    /// Takes some rows away where they may go, and adds some.
    fn change(&mut self, rows_go: bool, random: &mut StdRng) -> Change {
        let mut change = Change::default();
        if rows_go {
            let there = u32::try_from(self.all.num_rows()).expect("few");
            let goes: Vec<bool> = (0..there).map(|_| random.random_range(0..5) == 0).collect();
            let part = |wanted: bool| {
                let rows = (0..there).filter(|row| goes[*row as usize] == wanted);
                take_record_batch(&self.all, &UInt32Array::from_iter_values(rows)).expect("rows")
            };
            change.removed.push(part(true));
            self.all = part(false);
        }
        let count = random.random_range(0..8);
        let came = self.keyed(&rows(random, count));
        self.all = concat_batches(&self.all.schema(), [&self.all, &came]).expect("rows");
        change.added.push(came);
        change
    }

    fn visible(&self) -> RecordBatch {
        self.all.project(&(0..self.all.num_columns() - 1).collect::<Vec<_>>()).expect("rows")
    }
}

fn context(relations: [(&str, RecordBatch); 4]) -> SessionContext {
    let context = session();
    for (name, rows) in relations {
        let table = MemTable::try_new(rows.schema(), vec![vec![rows]]).expect("table");
        context.register_table(name, Arc::new(table)).expect("registered");
    }
    context
}

fn classified(sql: &str, driving: Rows) -> (Classified, SchemaRef) {
    let mut known = seen(driving);
    known.insert(TableName::new("gold", "u"), Seen { rows: driving, is_side: false, is_fed: true });
    classified_among(sql, &known)
}

fn keeps_up(sql: &str, wanted: Class, rows_go: bool, seed: u64) {
    // Operators of the engine start tasks.
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    let _guard = runtime.enter();
    let driving = if rows_go { Rows::Change } else { Rows::Arrive };
    let (Classified { class, program, reason, driving }, visible) = classified(sql, driving);
    let Program::Kept(program) = program else { panic!("{sql}: {class}, {reason}") };
    assert_eq!(class, wanted, "{sql}: {reason}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut inputs: BTreeMap<String, Input> = BTreeMap::new();
    for name in ["t", "u"] {
        inputs.insert(name.to_owned(), Input::new(&mut random));
    }
    let (mut ds, mut es) = (d(&mut random, 5), e(&mut random, 5));
    let mut state = Arc::clone(&program).begin().expect(sql);
    let (mut table, mut bag) = (Table::default(), Bag(Vec::new()));
    let mut take = |applied: Applied| {
        table.patch(&applied.patch, program.as_ref(), sql);
        bag.change(&applied.change, sql);
        (table.rows(), bag.0.clone())
    };
    if let Some(begun) = state.first().expect(sql) {
        take(begun);
    }
    let is_joined = !program.sides().is_empty();
    for step in 0..14 {
        let changes = driving.iter().map(|name| match random.random_range(0..4) {
            0 => Change::default(),
            _ => inputs.get_mut(&name.name).expect("input").change(rows_go, &mut random),
        });
        let changes: Vec<Change> = changes.collect();
        let mut is = take(state.apply_all(&changes, true).unwrap_or_else(|e| panic!("{sql}: {e}")));
        match random.random_range(0..4) {
            0 => ds = d(&mut random, 7),
            1 => es = e(&mut random, 7),
            _ => {}
        }
        let [t, u] = ["t", "u"].map(|name| inputs[name].visible());
        let now = context([("t", t), ("u", u), ("d", ds.clone()), ("e", es.clone())]);
        if is_joined {
            state.look(&sides(program.as_ref(), &now)).expect(sql);
            let mut parts = Vec::new();
            for (number, name) in driving.iter().enumerate() {
                let all = &inputs[&name.name].all;
                parts.extend(state.redrive(number, all, true).expect(sql));
            }
            for applied in state.redriven(parts, true).expect(sql) {
                is = take(applied);
            }
            state.looked();
        }
        let batches = block_on(async { now.sql(sql).await?.collect().await }).expect(sql);
        let expected = batches.iter().map(|batch| storable_batch(batch, &visible).expect(sql));
        let expected = text(&expected.collect::<Vec<_>>());
        assert_eq!(is.0, expected, "seed {seed}, step {step}: {sql}");
        assert_eq!(is.1, expected, "changes, seed {seed}, step {step}: {sql}");
        if random.random_range(0..4) == 0 {
            // As after a restart.
            let stored: Vec<RecordBatch> = state.rows().map(|rows| rows.expect(sql)).collect();
            state = Arc::clone(&program).begin().expect(sql);
            stored.iter().for_each(|rows| state.load(rows).expect(sql));
            if is_joined {
                state.look(&sides(program.as_ref(), &now)).expect(sql);
                state.looked();
            }
        }
    }
}

#[test]
fn a_union_keeps_up_with_all_of_its_inputs() {
    for (seed, sql) in (0..).zip(UNITED) {
        for more in [0, 100] {
            keeps_up(sql, Class::Project, true, seed + more);
            keeps_up(sql, Class::Project, false, seed + more);
        }
    }
}

#[test]
fn a_union_of_joined_rows_keeps_up_with_the_sides() {
    for (seed, sql) in (0..).zip(JOINED) {
        for more in [0, 100, 200] {
            keeps_up(sql, Class::Lookup, true, seed + more);
            keeps_up(sql, Class::Lookup, false, seed + more);
        }
    }
}

#[test]
fn an_aggregate_of_united_rows_keeps_up() {
    for (seed, sql) in (0..).zip(GROUPED) {
        for more in [0, 100] {
            keeps_up(sql, Class::Aggregate, true, seed + more);
            keeps_up(sql, Class::Aggregate, false, seed + more);
        }
    }
    for (seed, sql) in (0..).zip(GROWING) {
        keeps_up(sql, Class::Aggregate, false, seed);
    }
}

/// All of a table that is made anew is driven again, also by branches that are joined to nothing.
#[test]
fn a_union_that_begins_with_an_empty_table_takes_in_all_at_its_first_look() {
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    let _guard = runtime.enter();
    let (sql, mut random) = (JOINED[2], StdRng::seed_from_u64(7));
    let (Classified { program, driving, .. }, visible) = classified(sql, Rows::Arrive);
    let Program::Kept(program) = program else { panic!("not kept") };
    let mut inputs = [Input::new(&mut random), Input::new(&mut random)];
    inputs.iter_mut().for_each(|input| drop(input.change(false, &mut random)));
    assert_eq!(driving.iter().map(|name| name.name.as_str()).collect::<Vec<_>>(), ["t", "u"]);
    let (ds, es) = (d(&mut random, 9), e(&mut random, 9));
    let [t, u] = inputs.each_ref().map(Input::visible);
    let now = context([("t", t), ("u", u), ("d", ds), ("e", es)]);
    let mut state = Arc::clone(&program).begin().expect(sql);
    state.empty();
    assert!(state.look(&sides(program.as_ref(), &now)).expect(sql));
    let mut table = Table::default();
    for (number, input) in inputs.iter().enumerate() {
        let applied = state.redrive(number, &input.all, true).expect(sql).expect("rows");
        table.patch(&applied.patch, program.as_ref(), sql);
    }
    let batches = block_on(async { now.sql(sql).await?.collect().await }).expect(sql);
    let expected = batches.iter().map(|batch| storable_batch(batch, &visible).expect(sql));
    assert_eq!(table.rows(), text(&expected.collect::<Vec<_>>()));
    assert!(!table.rows().is_empty());
}

#[test]
fn what_cannot_be_united_says_why() {
    for (sql, expected) in REFUSED {
        let (Classified { class, reason, .. }, _) = classified(sql, Rows::Arrive);
        assert!(matches!(class, Class::ByKey | Class::Recompute), "{sql}: {class}");
        assert!(reason.starts_with(expected), "{sql}: {reason}");
    }
}
