use std::time::Duration;

use arrow::datatypes::{DataType, TimeUnit};
use arrow_flight::{
    FlightDescriptor,
    sql::{Any, CommandStatementQuery, ProstMessageExt},
};
use prost::Message;
use tonic::Code;

use super::support::{Server, fetch, query, refused, rows, status, view};
use crate::serve::Settings;

#[tokio::test]
async fn a_statement_is_answered_without_hidden_columns_and_in_plain_types() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let found = query(&mut client, "SELECT * FROM clicks ORDER BY film_id").await.expect("rows");
    assert_eq!(found.columns(), ["film_id", "user", "at"]);
    let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let types: Vec<&DataType> = found.schema.fields().iter().map(|f| f.data_type()).collect();
    assert_eq!(types, [&DataType::Int64, &DataType::Utf8, &utc]);
    assert_eq!(found.lines()[2], "3|user-with-a-long-name-3|1970-01-01T00:00:02Z");
    let all = query(&mut client, "SELECT count(*) FROM silver.clicks").await.expect("rows");
    assert_eq!(all.lines(), ["3"]);
    let view = query(&mut client, "SELECT max(who) FROM click_names").await.expect("rows");
    assert_eq!(view.lines(), ["user-with-a-long-name-3"]);
}

#[tokio::test]
async fn an_empty_answer_has_its_schema() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let found = query(&mut client, "SELECT * FROM gold.nothing").await.expect("rows");
    assert_eq!((found.count(), found.columns()), (0, vec!["film_id", "user", "at"]));
}

#[tokio::test]
async fn a_large_answer_comes_in_small_messages() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let sql = "SELECT value, 'some text to fill the row with bytes' || value AS text \
               FROM generate_series(1, 200000)";
    let found = query(&mut client, sql).await.expect("rows");
    assert_eq!(found.count(), 200_000);
    assert!(found.batches.len() > 3);
    // The client of tonic refuses messages over 4 MB, so arriving is proof.
    assert!(found.batches.iter().all(|batch| batch.num_rows() <= 40_960));
}

#[tokio::test]
async fn a_prepared_statement_knows_its_schema_and_sees_later_rows() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let sql = "SELECT count(*) AS n FROM gold.clicks".to_owned();
    let mut prepared = client.prepare(sql, None).await.expect("prepare");
    assert_eq!(prepared.dataset_schema().expect("schema").field(0).name(), "n");
    assert!(prepared.parameter_schema().expect("schema").fields().is_empty());
    let info = prepared.execute().await.expect("info");
    assert_eq!(fetch(&mut client, info).await.expect("rows").lines(), ["3"]);
    let mut next = view("clicks/0=3");
    let kind = crate::lake::RelationKind::Model;
    super::support::add(&mut next, "gold", "clicks", kind, vec![super::support::clicks(4)], "");
    server.lake.swap(next);
    let info = prepared.execute().await.expect("info");
    assert_eq!(fetch(&mut client, info).await.expect("rows").lines(), ["4"]);
    prepared.close().await.expect("close");
    let failed = client.prepare("SELECT nope FROM gold.clicks".to_owned(), None).await;
    assert!(failed.expect_err("refused").to_string().contains("no column nope"));
}

#[tokio::test]
async fn a_ticket_is_good_more_than_once() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let info = client.execute("SELECT 7 AS x".to_owned(), None).await.expect("info");
    let ticket = info.endpoint[0].ticket.clone().expect("ticket");
    for _ in 0..2 {
        assert_eq!(rows(&mut client, ticket.clone()).await.expect("rows").lines(), ["7"]);
    }
}

#[tokio::test]
async fn the_schema_call_answers_for_statements() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let command = CommandStatementQuery { query: "SELECT 1 AS a".to_owned(), transaction_id: None };
    let any: Any = command.as_any();
    let descriptor = FlightDescriptor::new_cmd(any.encode_to_vec());
    let result = client.inner_mut().get_schema(descriptor).await.expect("schema").into_inner();
    let schema = arrow::datatypes::Schema::try_from(&result).expect("decode");
    assert_eq!(schema.field(0).name(), "a");
}

#[tokio::test]
async fn what_writes_is_refused_everywhere() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for sql in [
        "INSERT INTO gold.films VALUES (3, 'x')",
        "COPY (SELECT 1) TO '/tmp/sluice-must-not-exist.csv'",
        "CREATE TABLE t AS SELECT 1",
        "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/etc/passwd'",
        "SET datafusion.execution.batch_size = 1",
        "DROP TABLE gold.films",
        "DELETE FROM gold.films",
        "EXPLAIN ANALYZE INSERT INTO gold.films VALUES (3, 'x')",
        "EXPLAIN COPY (SELECT 1) TO 'x.csv'",
        "(INSERT INTO gold.films VALUES (3, 'x'))",
        "WITH x AS (INSERT INTO gold.films VALUES (3, 'x')) SELECT 1",
        "SELECT 1 AS a INTO gold.mine",
        "UNLOAD (SELECT 1) TO 's3://x'",
    ] {
        let status = refused(&mut client, sql).await;
        assert_eq!(status.code(), Code::PermissionDenied, "{sql}: {}", status.message());
        assert!(status.message().contains("read-only"), "{}", status.message());
        let prepared = client.prepare(sql.to_owned(), None).await;
        assert!(prepared.expect_err("refused").to_string().contains("read-only"), "{sql}");
    }
    let update = client.execute_update("INSERT INTO gold.films VALUES (3, 'x')".to_owned(), None);
    assert_eq!(status(update.await.expect_err("refused")).code(), Code::PermissionDenied);
    let update = client.execute_update("SELECT 1".to_owned(), None).await;
    assert_eq!(status(update.expect_err("refused")).code(), Code::InvalidArgument);
}

#[tokio::test]
async fn errors_name_what_is_wrong() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for (sql, code, part) in [
        ("SELECT", Code::InvalidArgument, "does not parse"),
        ("SELEC 1", Code::InvalidArgument, "does not parse"),
        ("SELECT 1; SELECT 2", Code::InvalidArgument, "one at a time"),
        ("SELECT flm_id FROM films", Code::InvalidArgument, "did you mean film_id?"),
        ("SELECT nope(1)", Code::InvalidArgument, "nope"),
        ("SELECT $1", Code::InvalidArgument, "parameter ($1)"),
        (
            "SELECT * FROM film",
            Code::NotFound,
            "gold.film does not exist; did you mean gold.films?",
        ),
        ("SELECT * FROM silver.films", Code::NotFound, "did you mean gold.films?"),
        ("SELECT * FROM '/etc/passwd'", Code::NotFound, "does not exist"),
        ("SELECT __offset FROM clicks", Code::InvalidArgument, "no column __offset"),
        (
            "SELECT * FROM information_schema.df_settings",
            Code::InvalidArgument,
            "information_schema.df_settings is not shown",
        ),
        ("SHOW ALL", Code::InvalidArgument, "settings are not shown"),
        ("SELECT CAST(title AS BIGINT) FROM films", Code::InvalidArgument, "ACADEMY DINOSAUR"),
    ] {
        let status = refused(&mut client, sql).await;
        assert_eq!(status.code(), code, "{sql}: {}", status.message());
        assert!(status.message().contains(part), "{sql}: {}", status.message());
        assert!(!status.message().contains("DataFusion"), "{}", status.message());
    }
}

#[tokio::test]
async fn bombs_are_refused_and_the_server_lives_on() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let cte = |n: usize| {
        let steps: Vec<String> =
            (1..n).map(|i| format!("c{i} AS (SELECT a.x FROM c{0} a, c{0} b)", i - 1)).collect();
        format!("WITH c0 AS (SELECT 1 AS x), {} SELECT x FROM c{}", steps.join(", "), n - 1)
    };
    for sql in [
        format!("SELECT 1{}", "+1".repeat(50_000)),
        format!("SELECT 1 WHERE 1=0{}", " OR 1=0".repeat(20_000)),
        format!("SELECT 1{}", " UNION ALL SELECT 1".repeat(5_000)),
        format!("SELECT {}1{}", "(".repeat(5_000), ")".repeat(5_000)),
        format!("SELECT '{}'", "x".repeat(300_000)),
        cte(16),
    ] {
        let start: String = sql.chars().take(60).collect();
        let status = refused(&mut client, &sql).await;
        assert_eq!(status.code(), Code::InvalidArgument, "{start}: {}", status.message());
    }
    assert_eq!(query(&mut client, "SELECT 1").await.expect("rows").lines(), ["1"]);
}

#[tokio::test]
async fn the_longest_statements_that_pass_the_guard_are_answered() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let ands = vec!["film_id > 0 AND film_id < 100"; 200].join(" AND ");
    for (sql, answer) in [
        (format!("SELECT 1{}", "+1".repeat(499)), "500"),
        (format!("SELECT count(*) FROM films WHERE {ands}"), "2"),
        (
            format!("SELECT count(*) FROM films WHERE film_id = 0{}", " OR film_id=2".repeat(499)),
            "1",
        ),
        (format!("SELECT sum(1) FROM (SELECT 1{})", " UNION ALL SELECT 1".repeat(197)), "198"),
    ] {
        assert_eq!(query(&mut client, &sql).await.expect("rows").lines(), [answer]);
    }
}

#[tokio::test]
async fn a_query_that_takes_too_long_is_stopped() {
    let settings = Settings { query_ms_max: 300, ..Settings::default() };
    let server = Server::with(settings, view("")).await;
    let mut client = server.client().await;
    let sql = "SELECT count(*) FROM generate_series(1, 1000000) a, generate_series(1, 1000000) b";
    let status = refused(&mut client, sql).await;
    assert_eq!(status.code(), Code::DeadlineExceeded, "{}", status.message());
    assert_eq!(status.message(), "the query took longer than 300 ms and was stopped");
}

#[tokio::test]
async fn more_queries_than_may_run_and_wait_are_refused_and_a_dropped_one_makes_room() {
    let settings =
        Settings { queries_max: 1, queued_max: 0, query_ms_max: 60_000, ..Settings::default() };
    let server = Server::with(settings, view("")).await;
    let mut client = server.client().await;
    let long = "SELECT a.value FROM generate_series(1, 1000000) a, generate_series(1, 1000000) b";
    let info = client.execute(long.to_owned(), None).await.expect("info");
    let running = client.do_get(info.endpoint[0].ticket.clone().expect("ticket")).await;
    let running = running.expect("running");
    let status = refused(&mut client, "SELECT 1").await;
    assert_eq!(status.code(), Code::Unavailable, "{}", status.message());
    drop(running);
    let answered = async {
        while query(&mut client, "SELECT 1").await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), answered).await.expect("room in time");
}

#[tokio::test]
async fn memory_is_limited_per_server() {
    let settings =
        Settings { memory_bytes_max: 1 << 20, spill_bytes_max: 1 << 20, ..Settings::default() };
    let server = Server::with(settings, view("")).await;
    let mut client = server.client().await;
    let sql = "SELECT count(*) FROM (SELECT DISTINCT value, value::text AS t \
               FROM generate_series(1, 2000000))";
    let status = refused(&mut client, sql).await;
    assert_eq!(status.code(), Code::ResourceExhausted, "{}", status.message());
    assert_eq!(query(&mut client, "SELECT 1").await.expect("rows").lines(), ["1"]);
}

#[tokio::test]
async fn a_small_statement_cannot_make_a_large_value() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for (sql, function) in [
        (
            "SELECT array_length(generate_series(TIMESTAMP '1970-01-01', TIMESTAMP '2200-01-01', \
             INTERVAL '1 nanosecond'))",
            "generate_series()",
        ),
        ("SELECT repeat(repeat('x', 1000000), 1000)", "repeat()"),
        ("SELECT 1 FROM films WHERE film_id = array_length(range(1, 2000000000))", "range()"),
    ] {
        let status = refused(&mut client, sql).await;
        assert_eq!(status.code(), Code::InvalidArgument, "{sql}: {}", status.message());
        let start = format!("{function} would make a value of up to ");
        assert!(status.message().starts_with(&start), "{sql}: {}", status.message());
    }
    assert_eq!(query(&mut client, "SELECT 1").await.expect("rows").lines(), ["1"]);
}

#[tokio::test]
async fn a_row_that_no_message_holds_is_refused() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let sql = "SELECT string_agg(repeat('x', 1000000 + value), '') FROM generate_series(1, 16)";
    let status = refused(&mut client, sql).await;
    assert_eq!(status.code(), Code::ResourceExhausted, "{}", status.message());
    assert_eq!(
        status.message(),
        "a row of the answer is 16000140 bytes large; at most 15728640 are sent: select fewer or \
         shorter columns"
    );
}

#[tokio::test]
async fn lists_are_cut_into_messages_like_any_rows() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let sql = "SELECT range(0, 100000 + value) AS x FROM generate_series(1, 24)";
    let found = query(&mut client, sql).await.expect("rows");
    assert_eq!((found.count(), found.batches.len()), (24, 16));
}

#[tokio::test]
async fn comparisons_with_all_and_any_are_answered() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let sql = "SELECT count(*) FROM clicks WHERE film_id >= ALL (SELECT film_id FROM films)";
    assert_eq!(query(&mut client, sql).await.expect("rows").lines(), ["2"]);
}

#[tokio::test]
async fn a_stop_lets_go_of_the_port_while_a_query_runs() {
    let settings = Settings { drain_ms_max: 100, ..Settings::default() };
    let mut server = Server::with(settings, view("")).await;
    let mut client = server.client().await;
    let long = "SELECT a.value FROM generate_series(1, 1000000) a, generate_series(1, 1000000) b";
    let info = client.execute(long.to_owned(), None).await.expect("info");
    let _running = client.do_get(info.endpoint[0].ticket.clone().expect("ticket")).await;
    server.stop.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(10), &mut server.task).await;
    ended.expect("in time").expect("no panic").expect("no error");
}

#[tokio::test]
async fn explain_describe_and_the_information_schema_work() {
    let server = Server::start().await;
    let mut client = server.client().await;
    assert_eq!(query(&mut client, "DESCRIBE films").await.expect("rows").count(), 2);
    assert_eq!(query(&mut client, "EXPLAIN SELECT 1").await.expect("rows").count(), 2);
    let sql = "SELECT column_name FROM information_schema.columns WHERE table_name = 'clicks' \
               AND table_schema = 'gold' ORDER BY 1";
    let found = query(&mut client, sql).await.expect("rows");
    assert_eq!(found.lines(), ["at", "film_id", "user"]);
    assert!(query(&mut client, "SHOW TABLES").await.expect("rows").count() >= 4);
}
