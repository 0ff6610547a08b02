use bytes::Bytes;

use super::*;
use crate::{
    cli::push::{
        endpoint::endpoint,
        fake::{Fake, Fault},
    },
    domain::ErrorKind,
};

fn config(fake: &Fake) -> Config {
    Config {
        endpoint: endpoint("--url", &fake.url, "http").expect("url"),
        stream: "s".into(),
        producer_id: "p".into(),
        first_sequence: 0,
        want_positions: true,
        retry_for: Duration::from_secs(20),
    }
}

fn batch(names: &[&str]) -> proto::RecordBatch {
    let records = names.iter().map(|name| Bytes::from(format!("{{\"n\":\"{name}\"}}"))).collect();
    proto::RecordBatch { records, ..proto::RecordBatch::default() }
}

/// Sends one batch per name and collects what became of them.
async fn send_all(config: Config, names: &[&str]) -> Result<Vec<Settled>, SendError> {
    let mut sender = Sender::start(config);
    for name in names {
        sender.send(batch(&[name])).await?;
    }
    sender.close();
    let mut all = Vec::new();
    while let Some(settled) = sender.settled().await? {
        all.push(settled);
    }
    Ok(all)
}

fn sequences(settled: &[Settled]) -> Vec<(i64, u64)> {
    settled.iter().map(|settled| (settled.sequence, settled.accepted)).collect()
}

#[tokio::test]
async fn every_batch_is_settled_in_order_with_its_positions() {
    let fake = Fake::start("client", []).await;
    let settled = send_all(config(&fake), &["a", "b", "c"]).await.expect("sent");
    assert_eq!(sequences(&settled), [(0, 1), (1, 1), (2, 1)]);
    assert_eq!(settled[2].positions, [proto::OffsetRange { partition: 0, first: 2, last: 2 }]);
    assert_eq!(fake.payloads(), [r#"{"n":"a"}"#, r#"{"n":"b"}"#, r#"{"n":"c"}"#]);
}

#[tokio::test]
async fn a_lost_ack_is_made_good_under_the_same_sequence() {
    for fault in [Fault::LoseAck, Fault::Cut, Fault::Drain] {
        let fake = Fake::start("client", [(2, fault)]).await;
        let settled = send_all(config(&fake), &["a", "b", "c"]).await.expect("sent");
        assert_eq!(sequences(&settled), [(0, 1), (1, 1), (2, 1)], "{fault:?}");
        assert_eq!(fake.payloads().len(), 3, "the repeated batch is known as such");
        let seen = fake.seen();
        assert_eq!(seen.opens.len(), 2);
        assert!(seen.opens.iter().all(|open| open.producer_id == "p"));
        let times = seen.batches.iter().filter(|batch| batch.1 == 1).count();
        assert_eq!(times, if matches!(fault, Fault::Drain) { 1 } else { 2 }, "{fault:?}");
    }
}

#[tokio::test]
async fn codes_decide_what_is_tried_again() {
    for code in [tonic::Code::Unavailable, tonic::Code::Aborted] {
        for fault in [Fault::Fail(code), Fault::Result(code)] {
            let fake = Fake::start("client", [(2, fault)]).await;
            let settled = send_all(config(&fake), &["a", "b", "c"]).await.expect("sent");
            assert_eq!(sequences(&settled), [(0, 1), (1, 1), (2, 1)], "{fault:?}");
            assert_eq!(fake.payloads(), [r#"{"n":"a"}"#, r#"{"n":"b"}"#, r#"{"n":"c"}"#]);
        }
    }
    let fake = Fake::start("client", [(1, Fault::Fail(tonic::Code::PermissionDenied))]).await;
    let error = send_all(config(&fake), &["a"]).await.expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(fake.seen().batches.len(), 1, "it is not tried again");
}

#[tokio::test]
async fn a_refused_batch_does_not_hold_up_the_others() {
    let fake = Fake::start("client", [(2, Fault::Result(tonic::Code::InvalidArgument))]).await;
    let settled = send_all(config(&fake), &["a", "b", "c"]).await.expect("sent");
    assert_eq!(sequences(&settled), [(0, 1), (1, 0), (2, 1)]);
    assert_eq!(settled[1].refusal, "told to refuse");
    assert_eq!(settled[1].refused(), 1);
}

#[tokio::test]
async fn it_gives_up_after_the_time_given() {
    let fake = Fake::start("client", [(1, Fault::Die)]).await;
    let config = Config { retry_for: Duration::from_millis(300), ..config(&fake) };
    let error = send_all(config, &["a"]).await.expect_err("lost");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().starts_with(&format!("{} did not answer", fake.url)), "{error}");
}

#[tokio::test]
async fn an_unknown_stream_is_not_tried_again() {
    let fake = Fake::start("client", []).await;
    let config = Config { stream: "t".into(), ..config(&fake) };
    let error = send_all(config, &["a"]).await.expect_err("unknown");
    assert_eq!(error.kind(), ErrorKind::NotFound);
}
