use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::support::{Server, view};
use crate::{
    cli::{Failure, query, wait},
    ops::Stop,
    serve::Settings,
};

async fn run(server: &Server, sql: &str, after: Option<&str>) -> Result<String, Failure> {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("rows.csv");
    let args = query::Args {
        sql: Some(sql.to_owned()),
        url: server.url.replace("http://", "grpc://"),
        format: query::Format::Csv,
        after: after.map(str::to_owned),
        output: Some(path.clone()),
        timeout: 30,
    };
    query::run(args, Stop::default()).await?;
    Ok(std::fs::read_to_string(path).expect("file"))
}

async fn settled(url: String, timeout: u64) -> Result<(), Failure> {
    wait::run(wait::Args { url, timeout }, CancellationToken::new()).await
}

async fn code(server: &Server, sql: &str, after: Option<&str>) -> u8 {
    run(server, sql, after).await.err().map_or(0, |failure| failure.exit_code())
}

#[tokio::test]
async fn the_query_command_writes_rows_and_tells_failures_apart() {
    let server = Server::start().await;
    let rows = run(&server, "SELECT film_id, title FROM films ORDER BY 1", None).await;
    assert_eq!(rows.expect("rows"), "film_id,title\n1,ACADEMY DINOSAUR\n2,ACE GOLDFINGER\n");
    assert_eq!(code(&server, "SELEC", None).await, 2);
    assert_eq!(code(&server, "SELECT * FROM nope", None).await, 2);
    assert_eq!(code(&server, "DROP TABLE films", None).await, 2);
    assert_eq!(code(&server, "SELECT 1", Some("clicks")).await, 2);
    assert_eq!(code(&server, "SELECT CAST(title AS BIGINT) FROM films", None).await, 1);
    assert_eq!(code(&server, "SELECT count(*) FROM clicks", Some("clicks/0=2")).await, 0);
}

#[tokio::test]
async fn the_wait_command_ends_when_the_lake_has_settled_or_time_is_up() {
    let server = Server::start().await;
    let url = server.url.replace("http://", "grpc://");
    let waiting = tokio::spawn(settled(url.clone(), 60));
    server.lake.settle_asked().await;
    server.lake.mark_settled(server.lake.settle_wanted());
    waiting.await.expect("joined").expect("settled");
    let failure = settled(url, 1).await.expect_err("not settled");
    assert_eq!(failure.exit_code(), 1, "{failure}");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named() {
    let url = {
        let gone =
            Server::with(Settings { drain_ms_max: 1, ..Settings::default() }, view("")).await;
        gone.stop.cancel();
        let url = gone.url.clone();
        tokio::time::timeout(Duration::from_secs(5), async {
            while tokio::net::TcpStream::connect(url.trim_start_matches("http://")).await.is_ok() {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("closed");
        url
    };
    let failure = settled(url.clone(), 1).await.expect_err("gone");
    assert_eq!(failure.exit_code(), 69);
    assert!(failure.to_string().contains(&url), "{failure}");
}
