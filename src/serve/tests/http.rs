use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::CancellationToken;

use super::support::view;
use crate::{
    lake::LakeHandle,
    serve::http::{HttpState, StatusSource, run},
};

struct Lag;

impl StatusSource for Lag {
    fn status(&self) -> Value {
        json!({ "events": 3 })
    }
}

struct Server {
    lake: Arc<LakeHandle>,
    ready: Arc<AtomicBool>,
    stop: CancellationToken,
    address: std::net::SocketAddr,
    task: tokio::task::JoinHandle<Result<(), crate::serve::Error>>,
}

async fn start() -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    let lake = LakeHandle::new(view("clicks/0=2"));
    let ready = Arc::new(AtomicBool::new(false));
    let stop = CancellationToken::new();
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let state = HttpState {
        lake: Arc::clone(&lake),
        metrics: Some(recorder.handle()),
        outage: Arc::new(|| None),
        ready: Arc::clone(&ready),
        sources: vec![("lag".to_owned(), Arc::new(Lag))],
        admin: None,
    };
    let task = tokio::spawn(run(listener, state, stop.clone()));
    Server { lake, ready, stop, address, task }
}

/// Status line and body of one request.
async fn call(server: &Server, method: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(server.address).await.expect("connect");
    let request = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("send");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("read");
    let code = answer.split(' ').nth(1).expect("code").parse().expect("number");
    let body = answer.split_once("\r\n\r\n").expect("body").1;
    (code, body.to_owned())
}

#[tokio::test]
async fn health_follows_readiness_and_life_does_not() {
    let server = start().await;
    assert_eq!(call(&server, "GET", "/livez").await.0, 200);
    assert_eq!(call(&server, "GET", "/health").await.0, 503);
    server.ready.store(true, Ordering::Relaxed);
    assert_eq!(call(&server, "GET", "/health").await.0, 200);
    assert_eq!(call(&server, "GET", "/readyz").await, (200, "ok\n".to_owned()));
    assert_eq!(call(&server, "GET", "/metrics").await.0, 200);
    assert_eq!(call(&server, "GET", "/nope").await.0, 404);
}

#[tokio::test]
async fn the_status_tells_each_relation_and_the_other_sections() {
    let server = start().await;
    let (code, body) = call(&server, "GET", "/status").await;
    let status: Value = serde_json::from_str(&body).expect("json");
    assert_eq!(code, 200);
    assert_eq!(status["positions"], json!({ "clicks/0": 2 }));
    assert_eq!(status["lag"], json!({ "events": 3 }));
    let relations = status["relations"].as_array().expect("relations");
    let find = |name: &str| relations.iter().find(|r| r["name"] == name).expect("relation");
    let clicks = find("silver.clicks");
    assert_eq!((&clicks["kind"], &clicks["committed"]), (&json!("model"), &Value::Null));
    assert_eq!(
        (&clicks["overlay"]["rows"], &clicks["overlay"]["kind"]),
        (&json!(3), &json!("append"))
    );
    assert!(clicks["overlay"]["bytes"].as_u64().expect("bytes") > 0);
    assert_eq!(find("gold.click_names")["reads"], json!(["gold.clicks"]));
}

#[tokio::test]
async fn waiting_returns_when_the_lake_has_settled() {
    let server = start().await;
    let process = async {
        server.lake.settle_asked().await;
        server.lake.mark_settled(server.lake.settle_wanted());
    };
    let ((code, body), ()) = tokio::join!(call(&server, "POST", "/api/v1/wait"), process);
    let answer: Value = serde_json::from_str(&body).expect("json");
    assert_eq!((code, &answer["settled"]), (200, &json!(true)));
    assert_eq!(call(&server, "POST", "/api/v1/wait?timeout_s=0").await.0, 504);
    assert_eq!(call(&server, "POST", "/api/v1/wait?timeout_s=soon").await.0, 400);
}

#[tokio::test]
async fn quarantine_is_decided_on_only_where_it_can_be() {
    let server = start().await;
    let error = |body: &str| {
        let answer: Value = serde_json::from_str(body).expect("json");
        answer["error"].as_str().expect("error").to_owned()
    };
    let (code, body) = call(&server, "GET", "/api/v1/quarantine").await;
    assert_eq!((code, error(&body).as_str()), (503, "the server is not ready yet; ask again"));
    server.ready.store(true, Ordering::Relaxed);
    let (code, body) = call(&server, "GET", "/api/v1/quarantine").await;
    let wanted = "this server does not process; ask one that does";
    assert_eq!((code, error(&body).as_str()), (503, wanted));
    for (query, wanted) in [
        ("limit=0", "limit is \"0\": give 1 to 10000"),
        ("limit=10001", "limit is \"10001\": give 1 to 10000"),
        ("order=1", "unknown parameter \"order\": stream, rule and limit are known"),
    ] {
        let (code, body) = call(&server, "GET", &format!("/api/v1/quarantine?{query}")).await;
        assert_eq!((code, error(&body).as_str()), (400, wanted));
    }
    let (code, body) = call(&server, "GET", "/api/v1/quarantine/clicks/records/0/x").await;
    assert_eq!(code, 400);
    assert!(error(&body).contains("PARTITION/OFFSET"), "{body}");
    // A form of a web page has another content type.
    for action in ["replay", "discard"] {
        let path = format!("/api/v1/quarantine/clicks/{action}");
        assert_eq!(call(&server, "POST", &path).await.0, 415);
    }
}

#[tokio::test]
async fn a_stop_ends_the_server() {
    let server = start().await;
    server.stop.cancel();
    server.task.await.expect("no panic").expect("no error");
}
