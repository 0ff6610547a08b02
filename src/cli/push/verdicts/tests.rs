use std::sync::{Arc, Mutex};

use arrow::array::{ArrayRef, Int64Array, StringViewArray};
use arrow_flight::{
    FlightDescriptor, FlightEndpoint, FlightInfo, Ticket,
    encode::FlightDataEncoderBuilder,
    flight_service_server::{FlightService, FlightServiceServer},
    sql::{
        CommandStatementQuery, ProstMessageExt as _, SqlInfo, TicketStatementQuery,
        server::FlightSqlService,
    },
};
use prost::Message as _;
use tokio::{net::TcpListener, task::JoinSet};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};

use super::*;
use crate::{cli::push::endpoint::endpoint, ingest::proto::OffsetRange};

fn answer(counts: &[(&str, i64)]) -> RecordBatch {
    let names: Vec<&str> = counts.iter().map(|count| count.0).collect();
    let counts: Vec<i64> = counts.iter().map(|count| count.1).collect();
    let names: ArrayRef = Arc::new(StringViewArray::from(names));
    let counts: ArrayRef = Arc::new(Int64Array::from(counts));
    RecordBatch::try_from_iter([("verdict", names), ("events", counts)]).expect("batch")
}

/// A Flight SQL server that gives one answer to every query and keeps what it was asked.
#[derive(Clone)]
struct Lake {
    answer: RecordBatch,
    /// Query and `x-sluice-after`.
    asked: Arc<Mutex<Vec<(String, String)>>>,
}

#[tonic::async_trait]
impl FlightSqlService for Lake {
    type FlightService = Self;

    async fn get_flight_info_statement(
        &self,
        query: CommandStatementQuery,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let after = request.metadata().get("x-sluice-after").expect("header");
        let after = after.to_str().expect("text").to_owned();
        self.asked.lock().expect("lock").push((query.query, after));
        let handle = TicketStatementQuery { statement_handle: "1".into() };
        let ticket = Ticket { ticket: handle.as_any().encode_to_vec().into() };
        let endpoint = FlightEndpoint::new().with_ticket(ticket);
        Ok(Response::new(FlightInfo::new().with_endpoint(endpoint)))
    }

    async fn do_get_statement(
        &self,
        _: TicketStatementQuery,
        _: Request<Ticket>,
    ) -> Result<Response<<Self as FlightService>::DoGetStream>, Status> {
        let batches = futures::stream::iter([Ok(self.answer.clone())]);
        let encoded = FlightDataEncoderBuilder::new().build(batches).map_err(Status::from);
        Ok(Response::new(Box::pin(encoded)))
    }

    async fn register_sql_info(&self, _: i32, _: &SqlInfo) {}
}

impl Lake {
    async fn start(answer: RecordBatch) -> (Self, Endpoint, JoinSet<()>) {
        let lake = Self { answer, asked: Arc::default() };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let url = format!("grpc://{}", listener.local_addr().expect("address"));
        let service = FlightServiceServer::new(lake.clone());
        let mut task = JoinSet::new();
        task.spawn(async move {
            let server = Server::builder().add_service(service);
            server.serve_with_incoming(TcpListenerStream::new(listener)).await.expect("serve");
        });
        (lake, endpoint("--query-url", &url, "grpc").expect("url"), task)
    }
}

fn ranges(count: i64) -> Ranges {
    let mut ranges = Ranges::default();
    // With gaps, so that they stay apart.
    for n in 0..count {
        ranges.add(&OffsetRange { partition: 0, first: 10 * n, last: 10 * n + 1 });
    }
    ranges
}

#[test]
fn the_query_names_every_range() {
    assert_eq!(
        sql("it's", &[(0, 1, 2), (3, 4, 4)]),
        "SELECT verdict, count(*) AS events FROM system.acceptance WHERE stream = 'it''s' AND \
         ((\"partition\" = 0 AND \"offset\" BETWEEN 1 AND 2) OR (\"partition\" = 3 AND \
         \"offset\" BETWEEN 4 AND 4)) GROUP BY verdict"
    );
}

#[tokio::test]
async fn the_lake_is_asked_for_what_was_acked_once_it_is_visible() {
    let (lake, endpoint, _task) = Lake::start(answer(&[("repeat", 40), ("accepted", 160)])).await;
    let verdicts = ask(&endpoint, "s", &ranges(100), 200).await.expect("verdicts");
    assert_eq!(verdicts, Verdicts { accepted: 160, repeats: 40, quarantined: 0 });
    let asked = lake.asked.lock().expect("lock");
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].1, "s/0=991");
    assert!(asked[0].0.starts_with("SELECT verdict"));
}

#[tokio::test]
async fn many_ranges_are_asked_for_in_parts_and_added_up() {
    let (lake, endpoint, _task) =
        Lake::start(answer(&[("accepted", 150), ("quarantined", 150)])).await;
    let verdicts = ask(&endpoint, "s", &ranges(300), 600).await.expect("verdicts");
    assert_eq!(verdicts, Verdicts { accepted: 300, repeats: 0, quarantined: 300 });
    assert_eq!(lake.asked.lock().expect("lock").len(), 2);
}

#[tokio::test]
async fn an_incomplete_or_strange_answer_counts_as_none() {
    let (_lake, endpoint, _task) = Lake::start(answer(&[("accepted", 3)])).await;
    let error = ask(&endpoint, "s", &ranges(2), 4).await.expect_err("incomplete");
    assert_eq!(error.to_string(), "3 of 4 verdicts are known");
    let (_lake, endpoint, _task) = Lake::start(answer(&[("lost", 4)])).await;
    let error = ask(&endpoint, "s", &ranges(2), 4).await.expect_err("strange");
    assert_eq!(error.to_string(), "unknown verdict \"lost\"");
}

#[tokio::test]
async fn nothing_is_asked_where_nothing_was_acked() {
    let endpoint = endpoint("--query-url", "grpc://127.0.0.1:1", "grpc").expect("url");
    let verdicts = ask(&endpoint, "s", &Ranges::default(), 0).await.expect("verdicts");
    assert_eq!(verdicts, Verdicts::default());
    assert!(ask(&endpoint, "s", &ranges(1), 2).await.is_err(), "nobody listens there");
}
