//! The promises of `src/log/contract_tests.rs`, kept by Kafka. `SLUICE_TEST_KAFKA` names a broker;
//! `tests/run` starts one.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use sluice::{
    domain::{self, ErrorKind, Positions, contract::Topic, identity::Identity},
    log::{
        Log, Record, StreamSpec,
        kafka::{KafkaLog, Settings},
    },
};

/// The suite, as the embedded log compiles it.
#[path = "../../src/log/contract_tests.rs"]
mod contract_tests;

/// Where the suite looks for the log and for itself.
mod log {
    pub(crate) use crate::contract_tests;
    pub(crate) use sluice::log::*;
}

/// Topics of one test.
struct Topics(String);

#[allow(clippy::disallowed_methods)] // where the broker is, only the test run knows
fn brokers() -> String {
    std::env::var("SLUICE_TEST_KAFKA")
        .expect("SLUICE_TEST_KAFKA=HOST:PORT of a Kafka broker; tests/kafka/broker starts one")
}

impl Topics {
    fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::SeqCst);
        Self(format!("contract-{}-{count}-", std::process::id()))
    }

    fn settings(&self) -> Settings {
        let topic_prefix = self.0.clone();
        Settings { topic_prefix, delete_committed: true, ..Settings::default() }
    }

    async fn connect(&self) -> Arc<KafkaLog> {
        KafkaLog::open(&brokers(), self.settings()).await.expect("a broker")
    }
}

#[async_trait::async_trait]
impl contract_tests::Harness for Topics {
    async fn open(&self) -> Arc<dyn Log> {
        self.connect().await
    }
}

log::contract_tests::log_contract!(Topics::new());

fn event(id: usize) -> Record {
    Record {
        key: None,
        identity: Identity::Given(id.to_string()),
        headers: Vec::new(),
        payload: "x".into(),
    }
}

#[tokio::test]
async fn nobody_at_the_address_is_unreachable() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("port");
    let address = free.local_addr().expect("address").to_string();
    drop(free);
    let settings = Settings { request_timeout_ms: 1_000, ..Settings::default() };
    let error = KafkaLog::open(&address, settings).await.err().expect("nobody");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let text = error.to_string();
    assert!(text.contains(&address) && text.contains("Connection refused"), "{text}");
}

#[tokio::test]
async fn an_external_topic_is_never_made() {
    let log = Topics::new().connect().await;
    let topic = Topic { is_external: true, ..Topic::default() };
    let spec = StreamSpec { topic, ..StreamSpec::new("orders", 2) };
    let error = log.ensure(&[spec]).await.expect_err("no such topic");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("no topic"), "{error}");
}

#[tokio::test]
async fn one_topic_holds_one_stream() {
    let topics = Topics::new();
    let log = topics.connect().await;
    let topic = Topic { name: Some(format!("{}shared", topics.0)), ..Topic::default() };
    let spec = |name: &str| StreamSpec { topic: topic.clone(), ..StreamSpec::new(name, 1) };
    let error = log.ensure(&[spec("a"), spec("b")]).await.expect_err("both");
    assert!(error.to_string().contains("both use topic"), "{error}");
}

#[tokio::test]
async fn a_name_of_its_own_is_used() {
    let topics = Topics::new();
    let log = topics.connect().await;
    let name = format!("{}own.name", topics.0);
    let topic = Topic {
        name: Some(name.clone()),
        retention_ms: Some(86_400_000),
        replication: Some(1),
        ..Topic::default()
    };
    let spec = StreamSpec { topic, ..StreamSpec::new("orders", 1) };
    log.ensure(&[spec]).await.expect("created");
    assert_eq!(log.topic("orders"), name);
    assert!(log.id("orders").ends_with(&format!(".{name}")), "{}", log.id("orders"));
    let ranges = log.append("orders", vec![event(1)]).await.expect("append");
    assert_eq!((ranges[0].first, ranges[0].last), (0, 0));
    let mut reader = log.reader(&["orders".into()], &Positions::default()).await.expect("reader");
    let chunks = reader.poll(1_000, Duration::from_secs(60)).await.expect("poll");
    assert_eq!(chunks[0].records[0].payload.as_deref(), Some(&b"x"[..]));
}

#[tokio::test]
async fn settings_that_librdkafka_refuses_are_named() {
    let settings = Settings { compression: "brotli".into(), ..Settings::default() };
    let error = KafkaLog::open(&brokers(), settings).await.err().expect("refused");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("compression"), "{error}");
}
