//! By key: equal to their SQL whatever comes and goes, though only touched keys are computed.

use super::{
    lookups::{Table, classified_among, d, e, seen, sides},
    *,
};
use crate::{lake::Patches, models::with_key};

/// Over `t`, and joined to the sides `d` and `e`.
const SHAPES: [&str; 38] = [
    "SELECT k, count(DISTINCT v) AS n, max(v) AS most FROM t GROUP BY k",
    "SELECT t.k, max(x.a) AS m FROM t CROSS JOIN (SELECT a FROM d ORDER BY a DESC LIMIT 2) AS x GROUP BY t.k",
    "SELECT k, approx_distinct(v) AS about, count(DISTINCT v) AS n FROM t GROUP BY k",
    // Where rows tie, their other columns decide.
    "SELECT k, v, j, row_number() OVER (PARTITION BY k ORDER BY j) AS r, ntile(3) OVER (PARTITION BY k) AS n \
     FROM t",
    "SELECT k, j, lag(v) OVER (PARTITION BY k ORDER BY j DESC) AS before, last_value(v) OVER (PARTITION BY k \
     ORDER BY j) AS last FROM t",
    "SELECT k, v, first_value(d) OVER (PARTITION BY k ORDER BY j ROWS BETWEEN 2 PRECEDING AND 1 FOLLOWING) AS d, \
     sum(v) OVER (PARTITION BY k ORDER BY j ROWS UNBOUNDED PRECEDING) AS s FROM (SELECT k, v, j, d FROM t) AS x",
    // These are of all that tie.
    "SELECT k, v, j, rank() OVER (PARTITION BY k ORDER BY j) AS r, sum(v) OVER (PARTITION BY k ORDER BY j) AS s, \
     count(*) OVER (PARTITION BY k ORDER BY j GROUPS 1 PRECEDING) AS n, max(v) OVER (PARTITION BY k ORDER BY v \
     RANGE BETWEEN 3 PRECEDING AND 3 FOLLOWING) AS most FROM t",
    "SELECT k, array_agg(v ORDER BY j) AS list, first_value(d ORDER BY j DESC) AS first, last_value(v) AS last \
     FROM t GROUP BY k",
    "SELECT j, string_agg(k, ',') AS all, string_agg(DISTINCT k, ',' ORDER BY k) AS each FROM t GROUP BY j",
    "SELECT DISTINCT ON (k) k, j, v FROM t ORDER BY k, j DESC",
    "SELECT DISTINCT ON (j, k) v, k, j FROM t",
    "SELECT k, array_agg(v) OVER (PARTITION BY k ORDER BY j) AS list FROM t",
    "SELECT k, j, sum(v) AS s FROM t GROUP BY k, j HAVING count(*) > 1",
    "SELECT date_trunc('minute', ts) AS minute, count(DISTINCT k) AS n FROM t GROUP BY 1",
    "SELECT k, v, sum(v) OVER (PARTITION BY k ORDER BY v, _offset) AS running FROM t",
    // Sessions: rows of a key without a gap of more than 5 between them.
    "SELECT k, session, count(*) AS n, min(v) AS first, max(v) AS last FROM (SELECT k, v, sum(new) OVER \
     (PARTITION BY k ORDER BY v, _offset) AS session FROM (SELECT k, v, _offset, CASE WHEN v - lag(v) OVER \
     (PARTITION BY k ORDER BY v, _offset) > 5 THEN 1 ELSE 0 END AS new FROM t) AS x) AS y \
     GROUP BY k, session",
    // Versions of a key: each until the next begins.
    "SELECT k, j, v AS since, lead(v) OVER (PARTITION BY k ORDER BY v, _offset) AS until FROM t",
    "SELECT a.k, count(*) AS pairs FROM t AS a JOIN t AS b ON a.k = b.k AND a.v < b.v GROUP BY a.k",
    "SELECT k, max(n) AS most FROM (SELECT k, j, count(*) AS n FROM t GROUP BY k, j) AS x GROUP BY k",
    "SELECT k, count(DISTINCT v) AS n FROM (SELECT k, v FROM t WHERE v > 0 UNION ALL SELECT k, j AS v FROM t \
     WHERE b) AS x GROUP BY k",
    "SELECT t.k, count(DISTINCT d.a) AS n FROM t LEFT JOIN d ON d.k = t.k GROUP BY t.k",
    "SELECT a.k, max(a.v) AS most FROM t AS a LEFT SEMI JOIN d ON d.k = a.k GROUP BY a.k",
    "SELECT k, v FROM (SELECT k, v, _offset, row_number() OVER (PARTITION BY k ORDER BY v DESC, _offset) \
     AS r FROM t) AS x WHERE r <= 2",
    "SELECT DISTINCT k, first_value(j) OVER (PARTITION BY k ORDER BY _offset) AS j FROM t",
    "SELECT j, string_agg(k, ',' ORDER BY k, _offset) AS all FROM t GROUP BY j",
    "SELECT t.k, t.v, s.n FROM t JOIN (SELECT k, count(*) AS n FROM t GROUP BY k) AS s ON s.k = t.k",
    "SELECT upper(k) AS k, count(DISTINCT j) AS n FROM t GROUP BY upper(k)",
    // Of what its rows are grouped by it shows a part.
    "SELECT j, day, median(v) AS m FROM t GROUP BY j, day, k",
    "SELECT k FROM t WHERE v > 0 EXCEPT SELECT k FROM t WHERE b",
    "SELECT e.b, x.k, x.n FROM e RIGHT JOIN (SELECT k, count(DISTINCT j) AS n FROM t GROUP BY k) AS x \
     ON x.n = e.a",
    "SELECT k, min(f) AS least, sum(f) AS s FROM t GROUP BY k",
    // Keys that are computed, for every row there may be.
    "SELECT v % 7 AS d, CAST(ts AS DATE) AS day, count(DISTINCT k) AS n FROM t GROUP BY v % 7, CAST(ts AS DATE)",
    "SELECT CASE WHEN v > 3 THEN 'big' ELSE k || '-' END AS size, median(v) AS m FROM t WHERE v <> 0 \
     GROUP BY CASE WHEN v > 3 THEN 'big' ELSE k || '-' END",
    "SELECT a.k, b.k AS other, count(DISTINCT b.v) AS n FROM t AS a JOIN t AS b ON a.k = b.k AND a.j = b.j \
     GROUP BY a.k, b.k",
    "SELECT k, v, rank() OVER (PARTITION BY k, day ORDER BY v) AS rank, avg(v) OVER (PARTITION BY k) AS \
     mean FROM t",
    // Lists: elements counted per key, taken from a group, and two at once.
    "SELECT k, count(DISTINCT e) AS n FROM (SELECT k, unnest(make_array(j, v % 3)) AS e FROM t) AS x \
     GROUP BY k",
    "SELECT k, unnest(list) AS v FROM (SELECT k, array_agg(v ORDER BY v, _offset) AS list FROM t \
     GROUP BY k) AS x",
    "SELECT k, max(e + f) AS most FROM (SELECT k, unnest(make_array(j, v)) AS e, \
     unnest(make_array(1, j)) AS f FROM t) AS x GROUP BY k",
];

/// Over the streams `t` and `u`, and joined to `d`, which changes with one, and to `e`.
const OF_SEVERAL: [&str; 33] = [
    "SELECT t.k, t.v, u.j FROM t JOIN u ON u.k = t.k",
    "SELECT t.k, count(*) AS n, sum(u.v) AS s FROM t JOIN u ON u.k = t.k AND u.v > t.v GROUP BY t.k",
    "SELECT t.k, t.v, u.v AS w FROM t LEFT JOIN u ON u.k = t.k AND u.j = t.j",
    "SELECT u.k, count(t.v) AS n FROM t RIGHT JOIN u ON u.k = t.k GROUP BY u.k",
    "SELECT coalesce(t.k, u.k) AS k, t.v, u.v AS w FROM t FULL JOIN u ON u.k = t.k",
    "SELECT coalesce(b.k, a.k) AS k, a.n, b.n AS m FROM (SELECT k, count(*) AS n FROM t GROUP BY k) AS a \
     FULL JOIN (SELECT k, max(v) AS n FROM u GROUP BY k) AS b ON a.k = b.k",
    "SELECT coalesce(t.k, u.k) AS k, count(*) AS n FROM t FULL JOIN u ON u.k = t.k \
     GROUP BY coalesce(t.k, u.k)",
    "SELECT coalesce(a.k, b.k) AS k, a.v, b.v AS w FROM t AS a FULL JOIN t AS b ON a.k = b.k AND a.v < b.v",
    // Each of its rows comes of one row.
    "SELECT k, v FROM t UNION ALL SELECT u.k, u.j AS v FROM u LEFT SEMI JOIN t ON t.k = u.k WHERE u.b",
    "SELECT k FROM t UNION SELECT u.k FROM u LEFT SEMI JOIN t ON t.j = u.j AND t.k = u.k",
    "SELECT k, max(v) AS most FROM (SELECT k, v FROM t UNION ALL SELECT k, v FROM u WHERE b) AS x GROUP BY k",
    "SELECT k, what, count(DISTINCT v) AS n FROM (SELECT k, 't' AS what, v FROM t UNION ALL \
     SELECT k, 'u' AS what, v FROM u) AS x GROUP BY k, what",
    "SELECT k, v, sum(v) OVER (PARTITION BY k ORDER BY v, _offset) AS running FROM \
     (SELECT k, v, _offset FROM t UNION ALL SELECT k, v, _offset FROM u) AS x",
    "SELECT k FROM t EXCEPT SELECT k FROM u",
    "SELECT k, j FROM t INTERSECT SELECT k, j FROM u",
    "SELECT t.k, max(t.v) AS most FROM t LEFT SEMI JOIN u ON u.k = t.k GROUP BY t.k",
    "SELECT u.k, u.v FROM t RIGHT ANTI JOIN u ON u.k = t.k",
    // Of the versions in `u` the one that held then.
    "SELECT t.k, t.v, x.j FROM t LEFT JOIN (SELECT k, j, v AS since, lead(v) OVER (PARTITION BY k \
     ORDER BY v, _offset) AS until FROM u) AS x ON x.k = t.k AND t.v >= x.since \
     AND (t.v < x.until OR x.until IS NULL)",
    // A funnel.
    "SELECT a.k, a.first, b.first AS then FROM (SELECT k, min(v) AS first FROM t GROUP BY k) AS a \
     LEFT JOIN (SELECT k, min(v) AS first FROM u GROUP BY k) AS b ON b.k = a.k AND b.first >= a.first",
    "SELECT x.day, x.n, y.most FROM (SELECT day, count(*) AS n FROM t GROUP BY day) AS x \
     JOIN (SELECT CAST(ts AS DATE) AS day, max(v) AS most FROM u GROUP BY 1) AS y ON y.day = x.day",
    "SELECT a.k, count(*) AS n FROM t AS a JOIN t AS b ON b.k = a.k AND b.v > a.v JOIN u ON u.k = b.k \
     GROUP BY a.k",
    "SELECT t.k, u.j, count(*) AS n FROM t JOIN u ON u.k = t.k AND u.j = t.j GROUP BY t.k, u.j",
    "SELECT t.k, count(DISTINCT d.a) AS n, max(u.v) AS most FROM t JOIN u ON u.k = t.k \
     LEFT JOIN d ON d.k = t.k GROUP BY t.k",
    // `d` has not the key: it is what others are joined to.
    "SELECT t.k, d.a, count(DISTINCT t.v) AS n FROM t LEFT JOIN d ON d.a = t.j GROUP BY t.k, d.a",
    "SELECT t.k, count(DISTINCT u.v) AS n, max(e.b) AS b FROM t JOIN u ON u.k = t.k \
     LEFT JOIN e ON e.a = u.j GROUP BY t.k",
    "SELECT d.k, d.a, count(t.v) AS n FROM d LEFT JOIN t ON t.k = d.k GROUP BY d.k, d.a",
    "SELECT coalesce(x.k, d.k) AS k, x.k AS left_k, d.k AS right_k FROM (SELECT k, u.j FROM u \
     WHERE v > 0) AS x FULL JOIN d ON d.k = x.k",
    // Subqueries that are joins.
    "SELECT k, v FROM t WHERE k IN (SELECT k FROM u WHERE v > 0)",
    "SELECT k, v FROM t WHERE NOT EXISTS (SELECT 1 FROM u WHERE u.k = t.k AND u.v > t.v)",
    "SELECT k, v, (SELECT max(u.v) FROM u WHERE u.k = t.k) AS most FROM t",
    "SELECT k, count(*) AS n FROM t WHERE EXISTS (SELECT 1 FROM u WHERE u.k = t.k) GROUP BY k",
    "SELECT k, v FROM t WHERE v >= (SELECT avg(x.v) FROM t AS x WHERE x.k = t.k)",
    // What others are joined to may hold a null.
    "SELECT k, v, j FROM t WHERE j NOT IN (SELECT a FROM e)",
];

/// What is said of the same.
const REFUSED_OF_SEVERAL: [(&str, &str); 6] = [
    ("SELECT t.k, u.v FROM t JOIN u ON u.v > t.v", "shows no column that its rows are grouped by"),
    (
        "SELECT k, v FROM t WHERE k NOT IN (SELECT k FROM u)",
        "has NOT IN, where one null decides about every row (see NOT EXISTS)",
    ),
    ("SELECT k, v FROM t WHERE v > (SELECT avg(v) FROM u)", "contains a subquery"),
    (
        "SELECT t.k, u.v FROM t FULL JOIN u ON u.k = t.k",
        "shows no column that its rows are grouped by",
    ),
    (
        "SELECT coalesce(t.k, u.k, '-') AS k, u.v FROM t FULL JOIN u ON u.k = t.k",
        "shows no column that its rows are grouped by",
    ),
    (
        "SELECT coalesce(t.k, u.k) AS k, u.v FROM t FULL JOIN u ON u.k = t.k || u.k",
        "shows no column that its rows are grouped by",
    ),
];

/// The reason behind `by key: `, or the whole.
const REFUSED: [(&str, &str); 15] = [
    // Of a pair of rows the one has another sum of the two than the pair.
    (
        "SELECT a.j + b.v AS s, count(*) AS n FROM t AS a JOIN t AS b ON a.j + a.v = b.j + b.v \
         GROUP BY a.j + b.v",
        "shows no column that its rows are grouped by",
    ),
    (
        "SELECT CAST(k AS BIGINT) AS n, count(DISTINCT v) AS c FROM t WHERE k ~ '^[0-9]+$' \
         GROUP BY CAST(k AS BIGINT)",
        "groups by what may fail for rows that it leaves out",
    ),
    (
        "SELECT 100 / v AS q, count(DISTINCT k) AS c FROM t WHERE v <> 0 GROUP BY 100 / v",
        "groups by what may fail for rows that it leaves out",
    ),
    (
        "SELECT t.k, count(DISTINCT l.a) AS n FROM t CROSS JOIN LATERAL (SELECT d.a FROM d \
         WHERE d.k = t.k) AS l GROUP BY t.k",
        "joins what contains a subquery",
    ),
    ("SELECT count(DISTINCT v) AS n FROM t", "shows no column that its rows are grouped by"),
    (
        "SELECT count(DISTINCT v) AS n FROM t GROUP BY k",
        "shows no column that its rows are grouped by",
    ),
    (
        "SELECT f, count(DISTINCT v) AS n FROM t GROUP BY f",
        "shows no column that its rows are grouped by",
    ),
    ("SELECT k, sum(v) OVER (ORDER BY _offset) AS s FROM t", "has sum() without PARTITION BY"),
    (
        "SELECT s, row_number() OVER (PARTITION BY s) AS n FROM (SELECT named_struct('a', j) AS s FROM t) \
         AS x",
        "has row_number() without ORDER BY",
    ),
    (
        "SELECT k, approx_median(v) AS m FROM t GROUP BY k",
        "has approx_median(), which may depend on the order of rows",
    ),
    ("SELECT k, max(j) AS m FROM t GROUP BY k ORDER BY m LIMIT 3", "limits rows"),
    (
        "SELECT k, j, count(DISTINCT v) AS n FROM t GROUP BY ROLLUP (k, j)",
        "groups in several ways at once",
    ),
    (
        "SELECT a.k, b.j FROM t AS a FULL JOIN t AS b ON a.k = b.k",
        "shows no column that its rows are grouped by",
    ),
    (
        "SELECT d.k, max(t.v) AS m FROM t RIGHT JOIN d ON d.k = t.k GROUP BY d.k",
        "joins relations by RIGHT JOIN",
    ),
    (
        "SELECT k, max(n) AS m FROM (SELECT k, v AS n FROM t UNION ALL SELECT k, a AS n FROM d) AS x GROUP BY k",
        "unites rows with those of a relation that does not tell its changes",
    ),
];

/// Over `t`, and over `u` and `d` too, if `several` change with streams.
fn classified(sql: &str, driving: Rows, several: bool) -> (Classified, SchemaRef) {
    let mut known = seen(driving);
    let of_stream = Seen { rows: driving, is_side: false, is_fed: true };
    known.insert(TableName::new("gold", "u"), of_stream);
    known.iter_mut().for_each(|(of, seen)| {
        seen.is_fed = of.name == "t" || (several && (of.name == "u" || of.name == "d"));
    });
    classified_among(sql, &known)
}

fn compiled(sql: &str, several: bool) -> (Arc<dyn KeptProgram>, Vec<String>, SchemaRef) {
    let (classified, visible) = classified(sql, Rows::Change, several);
    let Classified { class, program, reason, driving } = classified;
    assert_eq!(class, Class::ByKey, "{sql}: {reason}");
    let Program::Kept(program) = program else { panic!("{sql}: {reason}") };
    (program, driving.into_iter().map(|name| name.name).collect(), visible)
}

/// The rows of the model's SQL in a context.
fn run(plan: &LogicalPlan, context: &SessionContext) -> Vec<RecordBatch> {
    let bound = lookups::bound(plan, context);
    block_on(async { context.execute_logical_plan(bound).await?.collect().await }).expect("rows")
}

/// Relations by their names.
type Relations = BTreeMap<String, RecordBatch>;

fn context(relations: &Relations) -> SessionContext {
    let context = session();
    for (name, rows) in relations {
        let table = MemTable::try_new(rows.schema(), vec![vec![rows.clone()]]).expect("table");
        context.register_table(name.as_str(), Arc::new(table)).expect("registered");
    }
    context
}

fn some(of: &str, random: &mut StdRng, count: usize) -> RecordBatch {
    match of {
        "d" => d(random, count),
        "e" => e(random, count),
        _ => rows(random, count),
    }
}

/// Takes some rows away and adds some.
fn change(of: &str, all: &mut RecordBatch, random: &mut StdRng) -> Change {
    let there = u32::try_from(all.num_rows()).expect("few");
    let goes: Vec<bool> = (0..there).map(|_| random.random_range(0..9) == 0).collect();
    let part = |wanted: bool| {
        let rows = (0..there).filter(|row| goes[*row as usize] == wanted);
        take_record_batch(all, &UInt32Array::from_iter_values(rows)).expect("rows")
    };
    let (gone, left) = (part(true), part(false));
    let count = random.random_range(0..4);
    let came = some(of, random, count);
    *all = concat_batches(&all.schema(), [&left, &came]).expect("rows");
    // As from a table: with a key that is not the model's.
    let keyed = |rows: &RecordBatch| {
        let keys = std::iter::repeat_n(b"key", rows.num_rows());
        with_key(rows, Arc::new(BinaryArray::from_iter_values(keys))).expect("rows")
    };
    Change { added: vec![keyed(&came)], removed: vec![keyed(&gone)] }
}

/// The rows of every input that are under touched keys, read where they are not held; and how many
/// of how many these are.
fn touched(
    state: &mut dyn KeptState,
    driving: &[String],
    all: &Relations,
    is_read: bool,
) -> (Relations, [usize; 2]) {
    let (mut found, mut count) = (all.clone(), [0, 0]);
    for (input, name) in driving.iter().enumerate() {
        let rows = &all[name];
        let hit = state.touches(input, rows).expect("keys");
        let touched = arrow::compute::filter_record_batch(rows, &hit).expect("rows");
        count = [count[0] + touched.num_rows(), count[1] + rows.num_rows()];
        let held = state.touched_rows(input).expect("rows");
        assert_eq!(held.is_some(), is_read, "{name}");
        if held.is_none() {
            state.begin_reading(input);
            state.read(input, rows).expect("rows");
            state.all_read(input);
        }
        found.insert(name.clone(), held.unwrap_or(touched));
    }
    (found, count)
}

fn keeps_up(sql: &str, several: bool, seed: u64) {
    // Operators of the engine start tasks.
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    let _guard = runtime.enter();
    let (program, driving, visible) = compiled(sql, several);
    let plan = program.by_key().expect(sql);
    let mut random = StdRng::seed_from_u64(seed);
    let mut state = Arc::clone(&program).begin().expect(sql);
    let (mut table, mut bag, mut patches) = (Table::default(), Bag(Vec::new()), Vec::new());
    let others = ["t", "u", "d", "e"].map(str::to_owned);
    let is_driving = |name: &String| driving.contains(name);
    let mut all: Relations = Relations::new();
    for name in &others {
        let count = if is_driving(name) { 0 } else { 9 };
        all.insert(name.clone(), some(name, &mut random, count));
    }
    let (mut computed, mut of, mut is_read) = (0, 0, false);
    for step in 0..14 {
        // Several changes between two looks.
        for _ in 0..random.random_range(1..3) {
            let changes = driving.iter().map(|name| match random.random_range(0..4) {
                0 => Change::default(),
                _ => change(name, all.get_mut(name).expect("input"), &mut random),
            });
            let changes: Vec<Change> = changes.collect();
            let applied = state.apply_all(&changes, true).unwrap_or_else(|e| panic!("{sql}: {e}"));
            assert!(applied.patch.is_empty() && applied.change.is_empty(), "{sql}");
        }
        if let Some(name) = others.get(random.random_range(0..16)).filter(|name| !is_driving(name))
        {
            all.insert(name.clone(), some(name, &mut random, 9));
        }
        let now = context(&all);
        state.look(&sides(program.as_ref(), &now)).expect(sql);
        if state.is_touched() {
            let (touched, count) = touched(state.as_mut(), &driving, &all, is_read);
            (computed, of, is_read) = (computed + count[0], of + count[1], true);
            let rows = run(plan, &context(&touched));
            let applied = state.rerun(&rows, true).unwrap_or_else(|e| panic!("{sql}: {e}"));
            table.patch(&applied.patch, program.as_ref(), sql);
            bag.change(&applied.change, sql);
            patches.push(Arc::new(applied.patch));
        }
        state.looked();
        assert!(!state.is_touched(), "{sql}");
        let batches = block_on(async { now.sql(sql).await?.collect().await }).expect(sql);
        let expected: Vec<RecordBatch> =
            batches.iter().map(|batch| storable_batch(batch, &visible).expect(sql)).collect();
        let expected = text(&expected);
        assert_eq!(table.rows(), expected, "seed {seed}, step {step}: {sql}");
        assert_eq!(bag.0, expected, "changes, seed {seed}, step {step}: {sql}");
        // As long as nothing is committed: what the patches say together.
        let pending = Patches::new(patches.clone());
        let shown = pending.rows().expect(sql).iter();
        let shown = shown.map(|rows| program.visible(rows).expect(sql)).collect::<Vec<_>>();
        assert_eq!(text(&shown), expected, "patches, seed {seed}, step {step}: {sql}");
        assert_eq!(visible_rows(state.as_ref(), program.as_ref()), expected, "{sql}");
        if random.random_range(0..4) == 0 {
            let stored: Vec<RecordBatch> = state.rows().map(|rows| rows.expect(sql)).collect();
            (state, is_read) = (Arc::clone(&program).begin().expect(sql), false);
            stored.iter().for_each(|rows| state.load(rows).expect(sql));
            state.look(&sides(program.as_ref(), &now)).expect(sql);
            state.looked();
        }
    }
    assert!(computed < of, "{sql}: {computed} rows of {of}");
}

#[test]
fn a_model_by_key_keeps_up_with_rows_and_with_its_sides() {
    for (seed, sql) in (0..).zip(SHAPES) {
        for more in [0, 100, 200] {
            keeps_up(sql, false, seed + more);
        }
    }
}

#[test]
fn a_model_by_key_keeps_up_with_several_inputs() {
    for (seed, sql) in (0..).zip(OF_SEVERAL) {
        for more in [0, 100, 200] {
            keeps_up(sql, true, seed + more);
        }
    }
}

#[test]
fn an_input_without_the_key_is_what_others_are_joined_to() {
    let driving = |sql: &str| compiled(sql, true).1;
    assert_eq!(driving(OF_SEVERAL[22]), ["d", "t", "u"]);
    assert_eq!(driving(OF_SEVERAL[23]), ["t"]);
    assert_eq!(driving(OF_SEVERAL[25]), ["d", "t"]);
}

#[test]
fn what_has_no_key_is_computed_whole_and_says_why() {
    let one = REFUSED.iter().map(|refused| (refused, false));
    for ((sql, expected), several) in one.chain(REFUSED_OF_SEVERAL.iter().map(|all| (all, true))) {
        let (Classified { class, reason, .. }, _) = classified(sql, Rows::Arrive, several);
        let why = reason.rsplit("by key: ").next();
        assert_eq!((class, why), (Class::Recompute, Some(*expected)), "{sql}: {reason}");
    }
    let (Classified { class, .. }, _) = classified(SHAPES[0], Rows::Replaced, false);
    assert_eq!(class, Class::Recompute);
}

#[test]
fn rows_under_other_keys_are_refused() {
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    let _guard = runtime.enter();
    let (program, ..) = compiled(SHAPES[0], false);
    let mut state = Arc::clone(&program).begin().expect("state");
    let all = rows(&mut StdRng::seed_from_u64(1), 40);
    let rows = run(program.by_key().expect("plan"), &super::context(&all));
    let error = state.rerun(&rows, false).expect_err("nothing was touched");
    assert!(error.to_string().contains("a key that was not touched"), "{error}");
}
