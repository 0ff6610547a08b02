//! Health, reflection, and how the server stops.

use std::time::{Duration, Instant};

use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_types::StatusExt as _;

use super::support::{State, TestServer, batch_of, contract, event, request};
use crate::ingest::{Settings, proto::publish_stream_response::Message as Out};

async fn health(server: &TestServer, service: &str) -> Result<i32, Code> {
    let request = HealthCheckRequest { service: service.into() };
    let answer = HealthClient::new(server.channel.clone()).check(request).await;
    answer.map(|answer| answer.into_inner().status).map_err(|status| status.code())
}

#[tokio::test]
async fn health_answers_per_service() {
    let server = TestServer::new(&[]).await;
    for service in ["", "sluice.ingest.v1.IngestService", "sluice.ingest.v1.StreamService"] {
        assert_eq!(health(&server, service).await, Ok(1), "{service}");
    }
    assert_eq!(health(&server, "nope").await, Err(Code::NotFound));
}

#[tokio::test]
async fn reflection_names_the_services() {
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let server = TestServer::new(&[]).await;
    let ask =
        |message| ServerReflectionRequest { host: String::new(), message_request: Some(message) };
    let requests = futures::stream::iter([
        ask(MessageRequest::ListServices(String::new())),
        ask(MessageRequest::FileContainingSymbol("sluice.ingest.v1.BatchResult".into())),
    ]);
    let mut client = ServerReflectionClient::new(server.channel.clone());
    let mut answers =
        client.server_reflection_info(requests).await.expect("reflection").into_inner();
    let first = answers.message().await.expect("answer").expect("answer").message_response;
    let Some(MessageResponse::ListServicesResponse(services)) = first else { panic!("{first:?}") };
    let names: Vec<&str> = services.service.iter().map(|s| s.name.as_str()).collect();
    for name in ["sluice.ingest.v1.IngestService", "sluice.ingest.v1.StreamService"] {
        assert!(names.contains(&name), "{names:?}");
    }
    let second = answers.message().await.expect("answer").expect("answer").message_response;
    assert!(matches!(second, Some(MessageResponse::FileDescriptorResponse(_))), "{second:?}");
}

#[tokio::test]
async fn a_stop_tells_the_streams_and_waits_for_what_is_under_way() {
    let settings =
        Settings { drain_grace_ms: 30_000, drain_timeout_ms: 60_000, ..Settings::default() };
    let server = TestServer::with(&[contract("clicks")], settings).await;
    let (mut stream, _) = server.opened("clicks", "p").await;
    server.gate.set(State::Shut);
    stream.batch(0, &[event(0)]).await;
    server.gate.waiting(1).await;

    // The notice comes through the acker, so it is asked for before the batch under way is known.
    server.stop.cancel();
    let mut client = server.client();
    let refused = loop {
        let call = client.publish(request("clicks", batch_of::<&str>(&[]))).await;
        if let Err(status) = call {
            break status;
        }
    };
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(refused.get_error_details().retry_info().is_some());
    assert_eq!(health(&server, "").await, Ok(2));
    assert_eq!(health(&server, "sluice.ingest.v1.IngestService").await, Ok(2));

    server.gate.set(State::Open);
    let mut kinds = Vec::new();
    while kinds.len() < 2 {
        match stream.next().await {
            Out::Ack(ack) => kinds.push(format!("ack {}", ack.acked_through)),
            Out::Drain(notice) => {
                assert!(notice.closes_at.is_some());
                kinds.push("drain".into());
            }
            other => panic!("unexpected {other:?}"),
        }
    }
    kinds.sort();
    assert_eq!(kinds, ["ack 0", "drain"]);
    // Until the grace is over, the stream goes on.
    stream.batch(1, &[event(1)]).await;
    assert!(stream.acked(1).await.is_empty());
    stream.close().await;
    let (_, end) = stream.rest().await;
    assert!(end.is_ok(), "{end:?}");
    drop((stream, client));
    let TestServer { running, channel, log, .. } = server;
    drop(channel);
    running.await.expect("join").expect("run");
    assert_eq!(log.extents("clicks").await.expect("extents")[0].end, 2);
}

#[tokio::test]
async fn a_stream_that_does_not_end_is_ended() {
    let settings = Settings { drain_grace_ms: 50, drain_timeout_ms: 60_000, ..Settings::default() };
    let server = TestServer::with(&[contract("clicks")], settings).await;
    let (mut stream, _) = server.opened("clicks", "p").await;
    server.stop.cancel();
    let (messages, end) = stream.rest().await;
    assert!(matches!(messages[..], [Out::Drain(_)]), "{messages:?}");
    let status = end.expect_err("unavailable");
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.get_error_details().retry_info().is_some());
    server.running.await.expect("join").expect("run");
}

#[tokio::test]
async fn a_stop_does_not_wait_for_ever() {
    let settings = Settings { drain_grace_ms: 50, drain_timeout_ms: 200, ..Settings::default() };
    let server = TestServer::with(&[contract("clicks")], settings).await;
    let (mut stream, _) = server.opened("clicks", "p").await;
    server.gate.set(State::Shut);
    stream.batch(0, &[event(0)]).await;
    server.gate.waiting(1).await;
    let started = Instant::now();
    server.stop.cancel();
    server.running.await.expect("join").expect("run");
    assert!(started.elapsed() < Duration::from_secs(30));
}
