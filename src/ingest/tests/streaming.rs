//! `PublishStream`: order, acks, repeats, gaps, ends.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic_types::StatusExt as _;

use super::support::{State, TestServer, batch_of, contract, event, identity, open};
use crate::{
    domain::contract::{EventId, OnError},
    ingest::{
        Settings,
        proto::{
            Batch, CloseStream, OpenStream, PublishStreamRequest,
            publish_stream_request::Message as In, publish_stream_response::Message as Out,
        },
    },
};

fn acks(messages: &[Out]) -> Vec<i64> {
    let ack = |message: &Out| match message {
        Out::Ack(ack) => Some(ack.acked_through),
        _ => None,
    };
    messages.iter().filter_map(ack).collect()
}

#[tokio::test]
async fn headers_come_before_the_first_message() {
    let server = TestServer::new(&[contract("clicks")]).await;
    let (requests, receiver) = mpsc::channel::<PublishStreamRequest>(1);
    let mut client = server.client();
    let call = client.publish_stream(ReceiverStream::new(receiver));
    let answered = tokio::time::timeout(Duration::from_secs(10), call).await;
    let mut responses = answered.expect("headers in time").expect("headers").into_inner();
    drop(requests);
    assert!(responses.message().await.expect("end").is_none());
}

#[tokio::test]
async fn a_thousand_batches_under_way_are_acked_in_order() {
    let server = TestServer::new(&[contract("clicks")]).await;
    let (mut stream, resume) = server.opened("clicks", "p").await;
    assert_eq!(resume, -1);
    for sequence in 0..1_000 {
        stream.batch(sequence, &[event(sequence), event(-sequence)]).await;
    }
    stream.close().await;
    let (messages, end) = stream.rest().await;
    assert!(end.is_ok(), "{end:?}");
    let acks = acks(&messages);
    assert_eq!(acks.len(), messages.len());
    assert!(acks.is_sorted_by(|a, b| a < b), "{acks:?}");
    assert_eq!(acks.last(), Some(&999));
    let records = server.records("clicks").await;
    let found: Vec<String> = records.iter().map(identity).collect();
    let expected: Vec<String> =
        (0..2_000).map(|i| format!("producer:p/1/{}/{}", i / 2, i % 2)).collect();
    assert_eq!(found, expected);
}

#[tokio::test]
async fn an_ack_never_comes_before_the_batch_is_durable() {
    let server = TestServer::new(&[contract("clicks")]).await;
    let (mut stream, _) = server.opened("clicks", "p").await;
    server.gate.set(State::Shut);
    stream.batch(0, &[event(1)]).await;
    stream.flush().await;
    server.gate.waiting(1).await;
    assert!(futures::poll!(Box::pin(stream.responses.message())).is_pending());
    assert!(server.payloads("clicks").await.is_empty());
    server.gate.set(State::Open);
    assert!(stream.acked(0).await.is_empty());
    assert_eq!(server.payloads("clicks").await, [event(1)]);
}

#[tokio::test]
async fn a_result_comes_before_the_ack_that_covers_it() {
    let server = TestServer::new(&[contract("clicks")]).await;
    let (mut stream, _) = server.opened("clicks", "p").await;
    for sequence in 0..50 {
        let records = if sequence % 10 == 3 { ["{}".into()] } else { [event(sequence)] };
        stream.batch(sequence, &records).await;
    }
    stream.close().await;
    let (messages, end) = stream.rest().await;
    assert!(end.is_ok());
    let mut acked = -1;
    let mut results = Vec::new();
    for message in messages {
        match message {
            Out::Ack(ack) => acked = ack.acked_through,
            Out::Result(result) => {
                assert!(acked < result.sequence, "{acked} {result:?}");
                assert_eq!((result.accepted, result.quarantined), (1, 1));
                results.push(result.sequence);
            }
            other => panic!("unexpected {other:?}"),
        }
    }
    assert_eq!(results, [3, 13, 23, 33, 43]);
    assert_eq!(acked, 49);
}

#[tokio::test]
async fn positions_are_told_when_asked_for() {
    let server = TestServer::new(&[contract("clicks")]).await;
    let open = OpenStream { want_positions: true, ..open("clicks", "p") };
    let mut stream = server.open(open).await;
    assert!(matches!(stream.next().await, Out::Opened(_)));
    stream.batch(7, &[event(1), event(2)]).await;
    let results = stream.acked(7).await;
    assert_eq!((results.len(), results[0].sequence, results[0].accepted), (1, 7, 2));
    let range = &results[0].positions[0];
    assert_eq!((range.partition, range.first, range.last), (0, 0, 1));
}

#[tokio::test]
async fn a_gap_is_answered_and_the_stream_goes_on() {
    let server = TestServer::new(&[contract("clicks")]).await;
    let (mut stream, _) = server.opened("clicks", "p").await;
    stream.batch(5, &[event(5)]).await;
    stream.batch(7, &[event(7)]).await;
    stream.batch(-1, &[event(0)]).await;
    // Below where the stream began, and never acked: nobody has it.
    stream.batch(3, &[event(3)]).await;
    stream.batch(6, &[event(6)]).await;
    stream.batch(7, &[event(7)]).await;
    let results = stream.acked(7).await;
    let gaps: Vec<_> =
        results.iter().map(|r| (r.sequence, r.code, r.expected_sequence, r.accepted)).collect();
    let out_of_range = i32::from(Code::OutOfRange);
    let expected = [7, -1, 3].map(|sequence| (sequence, out_of_range, 6, 0));
    assert_eq!(gaps, expected);
    assert_eq!(server.payloads("clicks").await, [event(5), event(6), event(7)]);
}

#[tokio::test]
async fn what_was_acked_is_a_duplicate_and_is_acked() {
    let server = TestServer::new(&[contract("clicks")]).await;
    let (mut stream, _) = server.opened("clicks", "p").await;
    stream.batch(0, &[event(0), event(1)]).await;
    stream.batch(1, &[event(2)]).await;
    stream.batch(0, &[event(0), event(1)]).await;
    stream.batch(2, &[event(3)]).await;
    let results = stream.acked(2).await;
    assert_eq!(results.len(), 1);
    assert_eq!((results[0].sequence, results[0].duplicate, results[0].accepted), (0, 2, 0));
    stream.close().await;

    let (mut again, resume) = server.opened("clicks", "p").await;
    assert_eq!(resume, 2);
    again.batch(1, &[event(2)]).await;
    let results = again.acked(1).await;
    assert_eq!((results[0].sequence, results[0].duplicate), (1, 1));
    again.batch(2, &[event(3)]).await;
    again.batch(3, &[event(4)]).await;
    assert_eq!(again.acked(3).await.len(), 1);

    // Another epoch starts anew.
    let mut anew = server.open(OpenStream { producer_epoch: 2, ..open("clicks", "p") }).await;
    let Out::Opened(opened) = anew.next().await else { panic!("not opened") };
    assert_eq!(opened.resume_after_sequence, -1);
    anew.batch(0, &[event(9)]).await;
    assert!(anew.acked(0).await.is_empty());
    let expected: Vec<String> = [0, 1, 2, 3, 4, 9].map(event).into();
    assert_eq!(server.payloads("clicks").await, expected);
}

#[tokio::test]
async fn a_refused_batch_may_be_sent_again_mended() {
    let mut strict = contract("strict");
    strict.on_error = OnError::RejectBatch;
    let server = TestServer::new(&[strict]).await;
    let (mut stream, _) = server.opened("strict", "p").await;
    stream.batch(0, &[event(0)]).await;
    stream.batch(1, &[event(1), "{}".into()]).await;
    stream.batch(2, &[event(2)]).await;
    let results = stream.acked(2).await;
    assert_eq!(results.len(), 1);
    assert_eq!((results[0].sequence, results[0].code), (1, i32::from(Code::InvalidArgument)));
    assert_eq!(results[0].accepted, 0);
    assert_eq!((results[0].errors[0].index, results[0].errors[0].field.as_str()), (1, "user_id"));
    stream.batch(1, &[event(1)]).await;
    stream.flush().await;
    stream.close().await;
    let (messages, end) = stream.rest().await;
    assert!(end.is_ok());
    assert!(messages.iter().all(|message| matches!(message, Out::Ack(_))), "{messages:?}");
    assert_eq!(server.payloads("strict").await, [event(0), event(2), event(1)]);
}

#[tokio::test]
async fn batches_that_are_wrong_as_such_do_not_end_the_stream() {
    let settings = Settings {
        max_request_bytes: 10_000,
        max_event_bytes: 1_000,
        max_batch_events: 3,
        ..Settings::default()
    };
    let server = TestServer::with(&[contract("clicks")], settings).await;
    let (mut stream, _) = server.opened("clicks", "p").await;
    stream.batch(0, &[vec![b'x'; 11_000]]).await;
    stream.batch(1, &["{}"; 4]).await;
    let mut keys = batch_of(&[event(1), event(2), event(3)]);
    keys.keys = vec!["a".into(), "b".into()];
    stream.send(In::Batch(Batch { sequence: 2, records: Some(keys) })).await;
    stream.batch(3, &[vec![b'x'; 1_001], event(3).into_bytes()]).await;
    stream.send(In::Batch(Batch { sequence: 4, records: None })).await;
    let results = stream.acked(4).await;
    let found: Vec<_> = results.iter().map(|r| (r.sequence, r.code, r.accepted)).collect();
    let (exhausted, invalid) =
        (i32::from(Code::ResourceExhausted), i32::from(Code::InvalidArgument));
    assert_eq!(found, [(0, exhausted, 0), (1, exhausted, 0), (2, invalid, 0), (3, 0, 1)]);
    assert!(results[2].message.starts_with("keys: 2 entries for 3 records"), "{results:?}");
    assert_eq!(server.payloads("clicks").await, [event(3)]);
}

#[tokio::test]
async fn a_message_over_the_codecs_limit_ends_the_stream_without_retry() {
    let settings = Settings { max_request_bytes: 10_000, ..Settings::default() };
    let server = TestServer::with(&[contract("clicks")], settings).await;
    let (mut stream, _) = server.opened("clicks", "p").await;
    stream.batch(0, &[event(0)]).await;
    stream.batch(1, &[vec![b'x'; 200_000]]).await;
    let (messages, end) = stream.rest().await;
    assert_eq!(acks(&messages), [0]);
    let status = end.expect_err("oversize");
    assert_eq!(status.code(), Code::ResourceExhausted);
    let details = status.get_error_details();
    assert!(details.retry_info().is_none() && details.quota_failure().is_some());
}

#[tokio::test]
async fn after_an_unknown_outcome_the_stream_ends() {
    let server = TestServer::new(&[contract("clicks")]).await;
    let (mut stream, _) = server.opened("clicks", "p").await;
    stream.batch(0, &[event(0)]).await;
    assert!(stream.acked(0).await.is_empty());
    server.gate.set(State::Failing);
    stream.batch(1, &[event(1)]).await;
    stream.batch(2, &[event(2)]).await;
    let (messages, end) = stream.rest().await;
    assert_eq!(messages, []);
    let status = end.expect_err("aborted");
    assert_eq!(status.code(), Code::Aborted);
    assert!(status.message().contains("everything from sequence 1 on"), "{status:?}");
    assert!(status.get_error_details().retry_info().is_some());

    server.gate.set(State::Open);
    let (mut again, resume) = server.opened("clicks", "p").await;
    assert_eq!(resume, 0);
    again.batch(1, &[event(1)]).await;
    assert!(again.acked(1).await.is_empty());
    assert_eq!(server.payloads("clicks").await, [event(0), event(1)]);
}

#[tokio::test]
async fn flush_and_empty_batches_are_acked() {
    let server = TestServer::new(&[contract("clicks")]).await;
    let (mut stream, _) = server.opened("clicks", "p").await;
    stream.batch::<&str>(0, &[]).await;
    stream.flush().await;
    assert!(stream.acked(0).await.is_empty());
    stream.batch(1, &[event(1)]).await;
    stream.flush().await;
    assert!(stream.acked(1).await.is_empty());
    stream.close().await;
    assert!(stream.rest().await.1.is_ok());
}

#[tokio::test]
async fn messages_out_of_turn_end_the_stream() {
    let server = TestServer::new(&[contract("clicks")]).await;
    let (requests, receiver) = mpsc::channel(4);
    let call = server.client().publish_stream(ReceiverStream::new(receiver)).await;
    let mut responses = call.expect("headers").into_inner();
    let close = PublishStreamRequest { message: Some(In::Close(CloseStream {})) };
    requests.send(close).await.expect("send");
    let status = responses.message().await.expect_err("protocol");
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(status.message(), "the first message of a stream must be `open`");

    let (mut stream, _) = server.opened("clicks", "p").await;
    stream.send(In::Open(open("clicks", "p"))).await;
    let status = stream.rest().await.1.expect_err("protocol");
    assert_eq!(status.message(), "the stream is open already");

    let mut stream = server.open(open("nope", "p")).await;
    let status = stream.rest().await.1.expect_err("unknown");
    assert_eq!(status.code(), Code::NotFound);
    let mut stream = server.open(open("clicks", &"p".repeat(300))).await;
    assert_eq!(stream.rest().await.1.expect_err("long").code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_producer_without_a_name_gets_one() {
    let server = TestServer::new(&[contract("clicks")]).await;
    let mut stream = server.open(open("clicks", "")).await;
    let Out::Opened(opened) = stream.next().await else { panic!("not opened") };
    assert_eq!(opened.producer_id.len(), 36);
    assert_eq!(opened.contract_version, "v1");
    stream.batch(0, &[event(0)]).await;
    assert!(stream.acked(0).await.is_empty());
    let expected = format!("producer:{}/1/0/0", opened.producer_id);
    assert_eq!(identity(&server.records("clicks").await[0]), expected);
}

#[tokio::test]
async fn a_stream_stays_within_its_budget_of_bytes() {
    let settings = Settings { stream_inflight_bytes_max: 100, ..Settings::default() };
    let server = TestServer::with(&[contract("clicks")], settings).await;
    let (mut stream, _) = server.opened("clicks", "p").await;
    server.gate.set(State::Shut);
    for sequence in 0..20 {
        stream.batch(sequence, &[event(sequence)]).await;
    }
    server.gate.waiting(2).await;
    server.gate.set(State::Open);
    assert!(stream.acked(19).await.is_empty());
    assert_eq!(server.payloads("clicks").await, (0..20).map(event).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_a_client_left_behind_is_seen_through() {
    let mut by_content = contract("clicks");
    by_content.event_id = EventId::Content;
    let server = TestServer::new(&[by_content]).await;
    let (mut stream, _) = server.opened("clicks", "p").await;
    server.gate.set(State::Shut);
    stream.batch(0, &[event(0)]).await;
    server.gate.waiting(1).await;
    drop(stream);
    server.gate.set(State::Open);
    let mut reader = std::sync::Arc::clone(&server.log)
        .reader(&["clicks".into()], &crate::domain::Positions::default())
        .await
        .expect("reader");
    let chunks = reader.poll(1_000, Duration::from_secs(60)).await.expect("poll");
    assert_eq!(chunks[0].records.len(), 1);
}
