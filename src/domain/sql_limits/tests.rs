use arrow::{
    array::{AsArray as _, RecordBatch},
    datatypes::Int64Type,
    util::pretty::pretty_format_batches,
};
use datafusion::{
    execution::{memory_pool::GreedyMemoryPool, runtime_env::RuntimeEnvBuilder},
    prelude::SessionContext,
};

use super::*;

/// Fails before the machine's memory does.
fn context() -> SessionContext {
    let pool = Arc::new(GreedyMemoryPool::new(64 << 20));
    let runtime = RuntimeEnvBuilder::new().with_memory_pool(pool).build_arc().expect("runtime");
    let builder = SessionStateBuilder::new().with_runtime_env(runtime);
    SessionContext::new_with_state(build(builder))
}

async fn rows(sql: &str) -> Result<Vec<RecordBatch>> {
    context().sql(sql).await?.collect().await
}

/// The cells of the one row of an answer, joined by `|`.
async fn row(sql: &str) -> String {
    let batches = rows(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    let table = pretty_format_batches(&batches).expect("format").to_string();
    let line = table.lines().nth(3).expect("a row").trim_matches('|');
    line.split('|').map(str::trim).collect::<Vec<_>>().join("|")
}

async fn refusal(sql: &str) -> String {
    match rows(sql).await {
        Ok(batches) => panic!("{sql} made {} batches", batches.len()),
        Err(error) => error.strip_backtrace(),
    }
}

#[tokio::test]
async fn functions_say_the_same_with_bounds() {
    for (sql, answer) in [
        ("SELECT repeat('ab', 3), lpad('a', 3, 'xy'), rpad('a', 3)", "ababab|xya|a"),
        ("SELECT range(3), generate_series(1, 7, 3)", "[0, 1, 2]|[1, 4, 7]"),
        ("SELECT range(5, 1, -2), range(1, 5, -2), range(4, 4)", "[5, 3]|[]|[]"),
        (
            "SELECT generate_series(DATE '2020-01-31', DATE '2020-03-31', INTERVAL '1 month')",
            "[2020-01-31, 2020-02-29, 2020-03-29]",
        ),
        ("SELECT array_repeat(1, 2), array_resize([1], 2, 9)", "[1, 1]|[1, 9]"),
        ("SELECT replace('aXbX', 'X', '--'), replace('a', '', 'b')", "a--b--|a"),
        ("SELECT regexp_replace('a1b2', '([0-9])', '<\\1>', 'g')", "a<1>b<2>"),
        ("SELECT array_to_string([1, NULL, 3], ',', '-')", "1,-,3"),
        ("SELECT array_replace_all([1, 2, 1], 1, 7)", "[7, 2, 7]"),
        ("SELECT concat('a', NULL, 1), concat_ws('-', 'a', 'b'), 'a' || 1 || 'b'", "a1|a-b|a1b"),
        ("SELECT [1, 2] || [3], array_append([1], 2), [1, 2][2]", "[1, 2, 3]|[1, 2]|2"),
        ("SELECT overlay('abcd' PLACING 'X' FROM 2 FOR 2), struct(1, 'a')", "aXd|{c0: 1, c1: a}"),
        ("SELECT named_struct('a', 1), MAP {'k': 1}, 'a' || NULL IS NULL", "{a: 1}|{k: 1}|true"),
        ("SELECT array_union([1], [2]), arrays_zip([1], [2])", "[1, 2]|[{1: 1, 2: 2}]"),
        ("SELECT repeat('a', -1), repeat('a', NULL) IS NULL, range(NULL)", "|true|"),
        ("SELECT count(*), sum(value) FROM generate_series(1, 1000000)", "1000000|500000500000"),
        ("SELECT length(concat(repeat('x', 500000), repeat('y', 500000)))", "1000000"),
        (
            "SELECT max(length(regexp_replace(repeat('a', value), 'a', 'bbbbbbbb', 'g'))), count(*)
             FROM generate_series(1, 4000)",
            "32000|4000",
        ),
    ] {
        assert_eq!(row(sql).await, answer, "{sql}");
    }
}

#[tokio::test]
async fn the_name_of_a_column_does_not_tell_of_bounds() {
    let frame = context().sql("SELECT repeat('a', 2), 'a' || 'b', [1], count(*)").await;
    let plan = frame.expect("planned").into_optimized_plan().expect("optimised");
    let names: Vec<&str> = plan.schema().fields().iter().map(|f| f.name().as_str()).collect();
    let wanted = [
        "repeat(Utf8(\"a\"),Int64(2))",
        "Utf8(\"a\") || Utf8(\"b\")",
        "make_array(Int64(1))",
        "count(*)",
    ];
    assert_eq!(names, wanted);
}

#[tokio::test]
async fn what_would_make_too_much_is_refused_before_it_is_made() {
    let too_many = "at most 1048576 are allowed";
    for (sql, function) in [
        (
            "SELECT array_length(generate_series(TIMESTAMP '1970-01-01', TIMESTAMP '2200-01-01', \
             INTERVAL '1 nanosecond'))",
            "generate_series()",
        ),
        ("SELECT array_length(range(1, 2000000000))", "range()"),
        ("SELECT array_length(range(-9223372036854775808, 9223372036854775807))", "range()"),
        ("SELECT length(repeat(repeat('x', 1000000), 1000))", "repeat()"),
        ("SELECT lpad('x', 2000000000)", "lpad()"),
        ("SELECT rpad('x', 2000000000, 'yz')", "rpad()"),
        ("SELECT array_repeat(1, 2000000000)", "array_repeat()"),
        ("SELECT array_repeat(repeat('x', 1000000), 100)", "array_repeat()"),
        ("SELECT array_resize([1], 2000000000, 1)", "array_resize()"),
        ("SELECT replace(repeat('x', 1000000), 'x', repeat('y', 1000000))", "replace()"),
        (
            "SELECT regexp_replace(repeat('x', 1000000), 'x', repeat('y', 999), 'g')",
            "regexp_replace()",
        ),
        ("SELECT array_to_string(range(0, 100000), repeat('y', 1000000))", "array_to_string()"),
        (
            "SELECT array_replace_all(array_repeat('a', 50000), 'a', repeat('y', 900000))",
            "array_replace_all()",
        ),
    ] {
        let said = refusal(sql).await;
        let start = format!("Execution error: {function} would make a value of up to ");
        assert!(said.starts_with(&start) && said.ends_with(too_many), "{sql}: {said}");
    }
    assert_eq!(
        refusal("SELECT repeat('x', 2000000)").await,
        "Execution error: repeat made a value of 2000004 bytes; at most 1048576 are allowed"
    );
}

#[tokio::test]
async fn what_grows_step_by_step_is_refused_on_the_way() {
    let made = |sql| async move { refusal(sql).await.split(" made ").next().map(str::to_owned) };
    let chain = "WITH a AS (SELECT repeat('x', value) x FROM generate_series(1000, 1000)), \
                 b AS (SELECT x||x||x||x||x||x||x||x||x||x||x||x||x||x||x||x||x||x||x||x AS x FROM a), \
                 c AS (SELECT x||x||x||x||x||x||x||x||x||x||x||x||x||x||x||x||x||x||x||x AS x FROM b), \
                 d AS (SELECT x||x||x||x||x||x||x||x||x||x||x||x||x||x||x||x||x||x||x||x AS x FROM c) \
                 SELECT length(x) FROM d";
    assert_eq!(made(chain).await.as_deref(), Some("Execution error: ||"));
    let lists = "WITH a AS (SELECT range(0, value) x FROM generate_series(100000, 100000)), \
                 b AS (SELECT [x, x, x, x, x] AS x FROM a) SELECT cardinality(x) FROM b";
    assert_eq!(made(lists).await.as_deref(), Some("Execution error: make_array"));
    let batch = "SELECT max(length(lpad('x', 20000 + value))) FROM generate_series(1, 8000)";
    assert_eq!(made(batch).await.as_deref(), Some("Execution error: lpad"));
}

#[tokio::test]
async fn a_large_constant_is_not_repeated_for_each_row() {
    let sql = "SELECT repeat('x', 100000) AS x FROM generate_series(1, 10)";
    let said = refusal(sql).await;
    assert!(said.contains("would be repeated for each of many rows; at most 65536"), "{said}");
    let said =
        refusal(&format!("SELECT '{}' FROM generate_series(1, 10)", "x".repeat(100_000))).await;
    assert!(said.contains("constants of 100"), "{said}");
    assert_eq!(
        row("SELECT length(repeat('x', 100000)) FROM generate_series(1, 1)").await,
        "100000"
    );
    let list: Vec<String> = (0..20_000).map(|i| i.to_string()).collect();
    let sql =
        format!("SELECT count(*) FROM generate_series(1, 9) WHERE value IN ({})", list.join(","));
    assert_eq!(row(&sql).await, "9");
}

#[tokio::test]
async fn a_series_that_never_arrives_or_is_too_long_a_table_is_refused() {
    let mixed = "the step has parts of both signs";
    for sql in [
        "SELECT range(DATE '2020-04-01', DATE '2021-01-01', INTERVAL '1 month -30 days')",
        "SELECT * FROM range(DATE '2020-04-01', DATE '2021-01-01', INTERVAL '1 month -30 days')",
    ] {
        let said = refusal(sql).await;
        assert!(said.contains(mixed), "{said}");
    }
    assert_eq!(
        refusal("SELECT * FROM generate_series(1, 1000000000000)").await,
        "Execution error: generate_series would give 1000000000000 rows; at most 100000000 are \
         allowed"
    );
    // The arguments of a table function are folded on a path of their own.
    let said = refusal("SELECT * FROM range(array_length(range(1, 2000000000)))").await;
    assert!(said.ends_with("Arguments must be literals"), "{said}");
}

#[tokio::test]
async fn unnesting_does_not_repeat_large_columns_out_of_hand() {
    let sql = "SELECT sum(array_length(b)), max(a) FROM (SELECT unnest(range(0, 100000 + value)) AS a, \
               range(0, 1000 + value) AS b FROM generate_series(1, 60))";
    let said = refusal(sql).await;
    assert!(said.starts_with("Execution error: unnest would make 4955"), "{said}");
    let sql = "SELECT count(*), sum(a), max(b) FROM (SELECT unnest(range(0, value)) AS a, \
               repeat('x', value) AS b FROM generate_series(1, 4)) WHERE b LIKE 'xxx%'";
    assert_eq!(row(sql).await, "7|9|xxxx");
    let sql =
        "SELECT count(*), sum(value) FROM (SELECT unnest([[1, 2], [3]]) AS a, value FROM range(3))";
    assert_eq!(row(sql).await, "6|6");
    let sql = "SELECT count(*) FROM (SELECT unnest(range(0, 100000 + value)) FROM generate_series(1, 20))";
    assert_eq!(row(sql).await, "2000210");
}

#[tokio::test]
async fn a_type_that_is_too_wide_is_refused() {
    let wide = "bytes; at most 1048576 are allowed: leave out the size";
    for sql in [
        "SELECT CAST(NULL AS BIGINT[2000000000])",
        "SELECT array_length(TRY_CAST(NULL AS BIGINT[1000][1000]))",
        "SELECT arrow_cast(NULL, 'FixedSizeList(2000000000, Int64)')",
        "SELECT count(*) FROM range(array_length(arrow_cast(NULL, 'FixedSizeBinary(2000000000)')))",
    ] {
        let said = refusal(sql).await;
        assert!(said.starts_with("Error during planning: a value of type"), "{sql}: {said}");
        assert!(said.contains(wide), "{sql}: {said}");
    }
    assert_eq!(row("SELECT CAST([1, 2] AS BIGINT[2]), CAST([1] AS BIGINT[])").await, "[1, 2]|[1]");
    assert_eq!(
        row("SELECT arrow_cast('1', 'Int64') + 1, arrow_typeof(arrow_cast(1, 'Int8'))").await,
        "2|Int8"
    );
}

#[tokio::test]
async fn structs_are_counted_by_what_they_hold() {
    let sql = "SELECT count(*), count(DISTINCT value), count(DISTINCT (a, b)), \
               count(DISTINCT CASE WHEN value > 40000 THEN [value] END) \
               FROM (SELECT value, value % 7 AS a, value % 11 AS b FROM generate_series(1, 50000))";
    assert_eq!(row(sql).await, "50000|50000|77|10000");
    let sql = "SELECT count(DISTINCT struct(NULL, value % 2)) AS n FROM generate_series(1, 9)";
    let batches = rows(sql).await.expect("rows");
    assert_eq!(batches[0].column(0).as_primitive::<Int64Type>().value(0), 2);
}
