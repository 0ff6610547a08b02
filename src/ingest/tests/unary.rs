//! `Publish`, the statuses and their details, and `StreamService`.

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::support::{State, TestServer, batch_of, contract, event, identity, request};
use crate::{
    domain::contract::{EventId, OnError},
    ingest::{
        Settings,
        proto::{
            GetStreamRequest, ListStreamsRequest, OffsetRange, event_error::Reason,
            stream_service_client::StreamServiceClient,
        },
    },
};

/// Checks what every status has; returns the reason and whether it says when to retry.
fn reason(status: &Status) -> (String, bool) {
    let details = status.get_error_details();
    let info = details.error_info().expect("error info");
    assert_eq!(info.domain, "ingest.sluice");
    (info.reason.clone(), details.retry_info().is_some())
}

#[tokio::test]
async fn what_is_accepted_is_in_the_log() {
    let server = TestServer::new(&[contract("clicks")]).await;
    let mut request = request("clicks", batch_of(&[event(1), event(2), event(3)]));
    request.want_positions = true;
    let answer = server.client().publish(request).await.expect("publish").into_inner();
    let result = answer.result.expect("result");
    assert_eq!((result.accepted, result.quarantined, result.code), (3, 0, 0));
    assert_eq!(result.positions, [OffsetRange { partition: 0, first: 0, last: 2 }]);
    let records = server.records("clicks").await;
    let identities: Vec<String> = records.iter().map(identity).collect();
    assert_eq!(identities, ["request:key/0", "request:key/1", "request:key/2"]);
    assert_eq!(server.payloads("clicks").await, [event(1), event(2), event(3)]);
}

#[tokio::test]
async fn reject_batch_names_the_fields_and_writes_nothing() {
    let mut strict = contract("strict");
    strict.on_error = OnError::RejectBatch;
    let server = TestServer::new(&[strict]).await;
    let batch = batch_of(&[event(1), r#"{"user_id":"x"}"#.into()]);
    let status = server.client().publish(request("strict", batch)).await.expect_err("refused");
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(reason(&status), ("BATCH_REFUSED".into(), false));
    assert_eq!(
        status.message(),
        "the batch is refused, nothing of it was written: records[1].user_id: \"x\" is not of \
         type int"
    );
    let details = status.get_error_details();
    let violations = &details.bad_request().expect("bad request").field_violations;
    assert_eq!(violations.len(), 1);
    assert_eq!(violations[0].field, "records[1].user_id");
    assert_eq!(violations[0].description, "\"x\" is not of type int");
    assert!(server.payloads("strict").await.is_empty());
}

#[tokio::test]
async fn a_long_list_of_violations_is_cut_and_says_so() {
    let mut strict = contract("strict");
    strict.on_error = OnError::RejectBatch;
    let server = TestServer::new(&[strict]).await;
    let bad = format!(r#"{{"user_id":1,"device":"{}"}}"#, "f".repeat(250));
    for (payload, shown) in [("{}".to_owned(), 76), (bad, 21)] {
        let batch = batch_of(&vec![payload; 300]);
        let status = server.client().publish(request("strict", batch)).await.expect_err("refused");
        let details = status.get_error_details();
        let found = details.bad_request().expect("bad request").field_violations.len();
        assert_eq!(found, shown);
        let left = format!("({} errors not listed)", 300 - found);
        assert!(status.message().ends_with(&left), "{}", status.message());
        assert!(status.details().len() * 4 / 3 < 8_000, "{}", status.details().len());
    }
}

#[tokio::test]
async fn the_other_policies_keep_the_good_events() {
    let mut by_event = contract("by_event");
    by_event.on_error = OnError::RejectEvent;
    let server = TestServer::new(&[by_event, contract("quarantined")]).await;
    let batch = batch_of(&[event(1), "no json".into(), event(3)]);

    let answer = server.client().publish(request("by_event", batch.clone())).await;
    let result = answer.expect("publish").into_inner().result.expect("result");
    assert_eq!((result.accepted, result.quarantined, result.errors.len()), (2, 0, 1));
    assert_eq!((result.errors[0].index, result.errors[0].quarantined), (1, false));
    assert_eq!(result.errors[0].reason(), Reason::Malformed);
    assert_eq!(server.payloads("by_event").await, [event(1), event(3)]);
    assert_eq!(identity(&server.records("by_event").await[1]), "request:key/2");

    let answer = server.client().publish(request("quarantined", batch)).await;
    let result = answer.expect("publish").into_inner().result.expect("result");
    assert_eq!((result.accepted, result.quarantined, result.errors.len()), (3, 1, 1));
    assert!(result.errors[0].quarantined);
    assert_eq!(result.errors[0].rule, "malformed");
    assert_eq!(server.payloads("quarantined").await, [event(1), "no json".into(), event(3)]);
}

#[tokio::test]
async fn an_unknown_stream_is_not_found() {
    let server = TestServer::new(&[]).await;
    let call = server.client().publish(request("nope", batch_of(&[event(1)]))).await;
    let status = call.expect_err("not found");
    assert_eq!(status.code(), Code::NotFound);
    assert_eq!(reason(&status), ("UNKNOWN_STREAM".into(), false));
    let details = status.get_error_details();
    let resource = details.resource_info().expect("resource");
    assert_eq!(
        (resource.resource_type.as_str(), resource.resource_name.as_str()),
        ("stream", "nope")
    );
}

#[tokio::test]
async fn a_wrong_request_names_the_field() {
    let server = TestServer::new(&[contract("clicks")]).await;
    let mut no_batch = request("clicks", batch_of(&[event(1)]));
    no_batch.batch = None;
    let mut no_identity = request("clicks", batch_of(&[event(1)]));
    no_identity.idempotency_key = String::new();
    let mut long_key = request("clicks", batch_of(&[event(1)]));
    long_key.idempotency_key = "k".repeat(257);
    let mut long_id = request("clicks", batch_of(&[event(1)]));
    if let Some(batch) = &mut long_id.batch {
        batch.event_ids = vec!["i".repeat(257).into()];
    }
    let mut keys = request("clicks", batch_of(&[event(1), event(2), event(3)]));
    keys.batch.as_mut().expect("batch").keys = vec!["a".into(), "b".into()];
    for (wrong, field) in [
        (no_batch, "batch"),
        (no_identity, "idempotency_key"),
        (keys, "keys"),
        (long_key, "idempotency_key"),
        (long_id, "event_ids"),
    ] {
        let status = server.client().publish(wrong).await.expect_err("wrong");
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(reason(&status), ("INVALID_REQUEST".into(), false));
        let details = status.get_error_details();
        assert_eq!(details.bad_request().expect("bad request").field_violations[0].field, field);
    }
}

#[tokio::test]
async fn an_oversize_request_is_to_be_split_not_retried() {
    let settings = Settings { max_request_bytes: 10_000, ..Settings::default() };
    let server = TestServer::with(&[contract("clicks")], settings).await;
    // Over our limit; over the codec's.
    for bytes in [11_000, 200_000] {
        let call = server.client().publish(request("clicks", batch_of(&[vec![b'x'; bytes]]))).await;
        let status = call.expect_err("oversize");
        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
        assert_eq!(reason(&status), ("REQUEST_TOO_LARGE".into(), false));
        let details = status.get_error_details();
        let violation = &details.quota_failure().expect("quota").violations[0];
        assert_eq!(violation.subject, "max_request_bytes");
        assert!(status.message().contains("over max_request_bytes (10000)"), "{status:?}");
    }
    assert!(server.payloads("clicks").await.is_empty());
}

#[tokio::test]
async fn too_many_events_are_to_be_split() {
    let settings = Settings { max_batch_events: 2, ..Settings::default() };
    let server = TestServer::with(&[contract("clicks")], settings).await;
    let call = server.client().publish(request("clicks", batch_of(&["{}", "{}", "{}"]))).await;
    let status = call.expect_err("oversize");
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(status.message(), "3 is over max_batch_events (2): split the batch");
}

#[tokio::test]
async fn overload_says_when_to_come_back() {
    let settings = Settings { inflight_bytes_max: 100, ..Settings::default() };
    let server = TestServer::with(&[contract("clicks")], settings).await;
    server.gate.set(State::Shut);
    let mut client = server.client();
    let first = tokio::spawn(async move {
        client.publish(request("clicks", batch_of(&[vec![b' '; 90]]))).await
    });
    server.gate.waiting(1).await;
    let refused = server.client().publish(request("clicks", batch_of(&[event(2)]))).await;
    let status = refused.expect_err("overload");
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(reason(&status), ("OVERLOAD".into(), true));
    server.gate.set(State::Open);
    assert!(first.await.expect("join").is_ok());
    let again = server.client().publish(request("clicks", batch_of(&[event(2)]))).await;
    assert!(again.is_ok(), "{again:?}");
}

#[tokio::test]
async fn an_unknown_outcome_is_aborted_with_retry() {
    let server = TestServer::new(&[contract("clicks")]).await;
    server.gate.set(State::Failing);
    let call = server.client().publish(request("clicks", batch_of(&[event(1)]))).await;
    let status = call.expect_err("aborted");
    assert_eq!(status.code(), Code::Aborted);
    assert_eq!(reason(&status), ("OUTCOME_UNKNOWN".into(), true));
}

#[tokio::test]
async fn streams_are_described() {
    let mut keyed = contract("keyed");
    keyed.key = vec!["user_id".into()];
    keyed.event_id = EventId::Columns(vec!["id".into()]);
    keyed.partitions = 3;
    let server = TestServer::new(&[contract("clicks"), keyed]).await;
    let mut client = StreamServiceClient::new(server.channel.clone());
    let all = client.list_streams(ListStreamsRequest {}).await.expect("list").into_inner();
    let names: Vec<&str> = all.streams.iter().map(|info| info.stream.as_str()).collect();
    assert_eq!(names, ["clicks", "keyed"]);
    let info = client.get_stream(GetStreamRequest { stream: "keyed".into() }).await;
    let info = info.expect("get").into_inner();
    assert_eq!(info, all.streams[1]);
    assert_eq!((info.partitions, info.key.as_str()), (3, "user_id"));
    assert_eq!((info.event_id.as_str(), info.contract_version.as_str()), ("column:id", "v1"));
    assert_eq!((&info.log_id, info.log_id.is_empty()), (&server.log.id("keyed"), false));
    let limits = info.limits.expect("limits");
    assert_eq!((limits.max_request_bytes, limits.max_event_bytes), (16_777_216, 1_048_576));
    assert_eq!((info.fields[3].r#type.as_str(), info.fields[1].required), ("decimal(18,2)", true));
    let missing = client.get_stream(GetStreamRequest { stream: "nope".into() }).await;
    assert_eq!(reason(&missing.expect_err("missing")), ("UNKNOWN_STREAM".into(), false));
}
