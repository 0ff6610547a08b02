use arrow_flight::sql::{CommandStatementQuery, ProstMessageExt};
use prost::Message;
use tonic::{Code, Request};

use super::support::{Client, Server, add, clicks, query, refused, view};
use crate::{lake::RelationKind, serve::Settings};

const COUNT: &str = "SELECT count(*) FROM gold.clicks JOIN gold.films USING (film_id)";

async fn after(server: &Server, positions: &str) -> Client {
    let mut client = server.client().await;
    client.set_header("x-sluice-after", positions);
    client
}

fn impatient() -> Settings {
    Settings { after_ms_max: 50, ..Settings::default() }
}

#[tokio::test]
async fn a_query_waits_until_its_tables_reach_the_positions() {
    let server = Server::start().await;
    let mut client = after(&server, "clicks/0=9").await;
    let asked = tokio::spawn(async move { query(&mut client, COUNT).await });
    let mut other = server.client().await;
    // Answered meanwhile, so the waiting one holds nobody up.
    assert_eq!(query(&mut other, COUNT).await.expect("rows").lines(), ["2"]);
    assert!(!asked.is_finished());
    let mut next = view("clicks/0=9");
    add(&mut next, "gold", "clicks", RelationKind::Model, vec![clicks(1)], "clicks/0=9");
    server.lake.swap(next);
    assert_eq!(asked.await.expect("joined").expect("rows").lines(), ["1"]);
}

#[tokio::test]
async fn a_wait_that_takes_too_long_says_what_for() {
    let server = Server::with(impatient(), view("clicks/0=2")).await;
    let mut client = after(&server, "clicks/0=5").await;
    let status = refused(&mut client, COUNT).await;
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!(
        status.message(),
        "the tables did not reach clicks/0=5 within 50 ms; they are at \"clicks/0=2\""
    );
}

#[tokio::test]
async fn seeds_and_constants_never_wait_and_reached_positions_do_not_either() {
    let server = Server::with(impatient(), view("clicks/0=2,rentals/0=4")).await;
    let mut client = after(&server, "clicks/0=99").await;
    assert_eq!(query(&mut client, "SELECT 1").await.expect("rows").lines(), ["1"]);
    let films = query(&mut client, "SELECT count(*) FROM gold.films").await.expect("rows");
    assert_eq!(films.lines(), ["2"]);
    // A view waits for what it reads.
    let status = refused(&mut client, "SELECT * FROM gold.click_names").await;
    assert_eq!(status.code(), Code::DeadlineExceeded);
    let mut client = after(&server, "clicks/0=2").await;
    assert_eq!(query(&mut client, COUNT).await.expect("rows").lines(), ["2"]);
}

#[tokio::test]
async fn positions_that_cannot_be_reached_are_refused_at_once() {
    let server = Server::start().await;
    for (positions, message) in [
        ("clicks/1=0", "x-sluice-after: stream clicks has no partition 1, only 0 to 0"),
        (
            "clicks/0=1,rentals/99=10",
            "x-sluice-after: stream rentals has no partition 99, only 0 to 1",
        ),
        ("clickz/0=1", "x-sluice-after: there is no stream clickz; did you mean clicks?"),
        ("nope/0=10", "x-sluice-after: there is no stream nope"),
    ] {
        let mut client = after(&server, positions).await;
        let status = refused(&mut client, "SELECT 1").await;
        assert_eq!((status.code(), status.message()), (Code::InvalidArgument, message));
    }
}

#[tokio::test]
async fn a_table_that_a_stream_does_not_feed_does_not_wait_for_it() {
    let mut lake = view("clicks/0=2,rentals/0=4");
    add(&mut lake, "gold", "fresh", RelationKind::Model, vec![clicks(1)], "clicks/0=1");
    let server = Server::with(impatient(), lake).await;
    let sql = "SELECT count(*) FROM gold.fresh";
    let mut client = after(&server, "rentals/0=9").await;
    assert_eq!(query(&mut client, sql).await.expect("rows").lines(), ["1"]);
    let mut client = after(&server, "clicks/0=2").await;
    assert_eq!(refused(&mut client, sql).await.code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn all_waits_until_the_lake_has_settled() {
    let server = Server::start().await;
    let mut client = after(&server, "all").await;
    let asked = tokio::spawn(async move { query(&mut client, COUNT).await });
    server.lake.settle_asked().await;
    assert!(!asked.is_finished());
    let mut next = view("clicks/0=0");
    add(&mut next, "gold", "clicks", RelationKind::Model, vec![clicks(1)], "clicks/0=0");
    server.lake.swap(next);
    server.lake.mark_settled(server.lake.settle_wanted());
    assert_eq!(asked.await.expect("joined").expect("rows").lines(), ["1"]);
    let server = Server::with(impatient(), view("")).await;
    let mut client = after(&server, "all").await;
    let status = refused(&mut client, "SELECT 1").await;
    assert_eq!(status.code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn only_committed_rows_on_request() {
    let server = Server::start().await;
    let mut client = server.client().await;
    client.set_header("x-sluice-freshness", "committed");
    assert_eq!(query(&mut client, COUNT).await.expect("rows").lines(), ["0"]);
    client.set_header("x-sluice-after", "all");
    assert_eq!(refused(&mut client, COUNT).await.code(), Code::InvalidArgument);
    let mut client = server.client().await;
    client.set_header("_freshness", "lukewarm");
    assert_eq!(refused(&mut client, COUNT).await.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn the_answer_says_how_far_it_sees() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let command = CommandStatementQuery { query: COUNT.to_owned(), transaction_id: None };
    let descriptor = arrow_flight::FlightDescriptor::new_cmd(command.as_any().encode_to_vec());
    let info = client.inner_mut().get_flight_info(Request::new(descriptor)).await.expect("info");
    let positions = info.metadata().get("x-sluice-positions").expect("header");
    assert_eq!(positions.to_str().expect("text"), "clicks/0=2");
}
