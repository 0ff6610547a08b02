//! HTTP: health, readiness, status, metrics, waiting for the lake to settle, and the admin API.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::{Value, json};
use tokio::{net::TcpListener, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    domain::Positions,
    lake::{LakeHandle, LakeView, Overlay, RelationInfo, RelationKind, TableState},
    serve::{
        Error,
        admin::{self, AdminSource},
    },
};

/// How long running requests may go on after a stop was asked for.
const DRAIN: Duration = Duration::from_secs(1);
const WAIT_SECONDS: u64 = 30;
const WAIT_SECONDS_MAX: u64 = 3_600;

/// Another part of the process that has something to tell in `/status`.
pub trait StatusSource: Send + Sync {
    /// One section of the status.
    fn status(&self) -> Value;
}

/// What the HTTP server answers from.
#[derive(Clone)]
pub struct HttpState {
    pub lake: Arc<LakeHandle>,
    /// Renders `/metrics`; without it that path is not found.
    pub metrics: Option<PrometheusHandle>,
    /// Whether the process takes work; `/health` and `/readyz` tell it.
    pub ready: Arc<AtomicBool>,
    /// Why it does not, though it is ready otherwise.
    pub outage: Arc<dyn Fn() -> Option<String> + Send + Sync>,
    /// More sections of `/status`, by name.
    pub sources: Vec<(String, Arc<dyn StatusSource>)>,
    /// What the admin API asks, where the process can be asked.
    pub admin: Option<Arc<dyn AdminSource>>,
}

/// Serves HTTP on `listener` until `stop`.
pub async fn run(
    listener: TcpListener,
    state: HttpState,
    stop: CancellationToken,
) -> Result<(), Error> {
    let server =
        axum::serve(listener, router(state)).with_graceful_shutdown(stop.clone().cancelled_owned());
    let cut = async {
        stop.cancelled().await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        ended = server.into_future() => ended.map_err(Error::Http),
        () = cut => Ok(()),
    }
}

/// The routes, for servers that add their own.
pub fn router(state: HttpState) -> Router {
    Router::new()
        .route("/health", get(ready))
        .route("/readyz", get(ready))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/status", get(status))
        .route("/metrics", get(metrics))
        .route("/api/v1/wait", post(wait))
        .merge(admin::routes())
        .with_state(state)
}

async fn ready(State(state): State<HttpState>) -> Response {
    let reason = match (state.ready.load(Ordering::Relaxed), (state.outage)()) {
        (true, None) => return "ok\n".into_response(),
        (true, Some(reason)) => format!("not ready: {reason}\n"),
        (false, _) => "not ready\n".to_owned(),
    };
    (StatusCode::SERVICE_UNAVAILABLE, reason).into_response()
}

async fn metrics(State(state): State<HttpState>) -> Response {
    match &state.metrics {
        Some(handle) => {
            let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
            (kind, handle.render()).into_response()
        }
        None => (StatusCode::NOT_FOUND, "metrics are not collected\n").into_response(),
    }
}

async fn status(State(state): State<HttpState>) -> Json<Value> {
    let mut status = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "ready": state.ready.load(Ordering::Relaxed),
        "outage": (state.outage)(),
    });
    if let Value::Object(sections) = &mut status {
        sections.extend(lake_status(&state.lake.load()));
        for (name, source) in &state.sources {
            sections.insert(name.clone(), source.status());
        }
    }
    Json(status)
}

async fn wait(State(state): State<HttpState>, uri: Uri) -> Response {
    let seconds = match wait_seconds(uri.query().unwrap_or_default()) {
        Ok(seconds) => seconds,
        Err(message) => {
            return (StatusCode::BAD_REQUEST, Json(json!({ "error": message }))).into_response();
        }
    };
    let settled = timeout(Duration::from_secs(seconds), state.lake.settle()).await.is_ok();
    let view = state.lake.load();
    let lagging: BTreeMap<String, &str> = view
        .lagging_behind(&[])
        .into_iter()
        .map(|(name, reason)| (name.to_string(), reason))
        .collect();
    let code = match (settled, lagging.is_empty()) {
        (true, true) => StatusCode::OK,
        (true, false) => StatusCode::CONFLICT,
        (false, _) => StatusCode::GATEWAY_TIMEOUT,
    };
    let positions = positions(&view.positions);
    let answer = json!({ "settled": settled, "positions": positions, "not_following": lagging });
    (code, Json(answer)).into_response()
}

fn wait_seconds(query: &str) -> Result<u64, String> {
    let mut given = url::form_urlencoded::parse(query.as_bytes());
    let Some((_, value)) = given.find(|(name, _)| name == "timeout_s") else {
        return Ok(WAIT_SECONDS);
    };
    match value.parse() {
        Ok(seconds) if seconds <= WAIT_SECONDS_MAX => Ok(seconds),
        _ => Err(format!("timeout_s is {value:?}: give whole seconds, at most {WAIT_SECONDS_MAX}")),
    }
}

fn lake_status(view: &LakeView) -> serde_json::Map<String, Value> {
    let mut relations = BTreeMap::new();
    for table in view.tables.values() {
        relations.insert(table.info.name.to_string(), table_status(table));
    }
    for view in view.views.values() {
        let reads: Vec<String> = view.reads.iter().map(ToString::to_string).collect();
        let mut status = relation_status(&view.info, "view");
        status.insert("reads".to_owned(), json!(reads));
        relations.insert(view.info.name.to_string(), Value::Object(status));
    }
    let relations: Vec<Value> = relations.into_values().collect();
    let mut status = serde_json::Map::new();
    status.insert("positions".to_owned(), positions(&view.positions));
    status.insert("relations".to_owned(), Value::Array(relations));
    status
}

fn relation_status(info: &RelationInfo, kept: &str) -> serde_json::Map<String, Value> {
    let mut status = serde_json::Map::new();
    status.insert("name".to_owned(), json!(info.name.to_string()));
    status.insert("kind".to_owned(), json!(kind(info.kind)));
    status.insert("kept".to_owned(), json!(kept));
    status
}

fn table_status(table: &TableState) -> Value {
    let (overlay, batches) = match &table.overlay {
        Overlay::None => ("none", [].as_slice()),
        Overlay::Append(batches) => ("append", batches.as_slice()),
        Overlay::Replace(batches) => ("replace", batches.as_slice()),
        Overlay::Patches(patches) => ("patches", patches.rows().unwrap_or_default()),
    };
    let rows: usize = batches.iter().map(arrow::array::RecordBatch::num_rows).sum();
    let committed = table.committed.as_ref().map(|committed| {
        json!({
            "version": committed.version,
            "rows": committed.rows,
            "files": committed.files,
            "bytes": committed.bytes,
        })
    });
    let mut status = relation_status(&table.info, "table");
    status.insert("committed".to_owned(), json!(committed));
    let overlay = json!({ "kind": overlay, "rows": rows, "bytes": table.overlay_bytes() });
    status.insert("overlay".to_owned(), overlay);
    status.insert("positions".to_owned(), positions(&table.positions));
    Value::Object(status)
}

fn kind(kind: RelationKind) -> &'static str {
    match kind {
        RelationKind::Bronze => "bronze",
        RelationKind::Internal => "internal",
        RelationKind::Quarantine => "quarantine",
        RelationKind::Seed => "seed",
        RelationKind::Model => "model",
        RelationKind::System => "system",
    }
}

/// `{"clicks/0": 41}`.
fn positions(positions: &Positions) -> Value {
    let entries = positions
        .iter()
        .map(|(stream, partition, offset)| (format!("{stream}/{partition}"), json!(offset)));
    Value::Object(entries.collect())
}
