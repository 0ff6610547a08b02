//! What an operator asks of a running server over HTTP: to decide about records in quarantine.

use std::sync::{Arc, atomic::Ordering};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::{StatusCode, Uri},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::Serialize;
use serde_json::json;

use crate::{
    domain::{
        ErrorKind, Place,
        quarantine::{Discard, Discarded, Filter, Listed, Places, Replay, Replayed, Shown},
    },
    serve::http::HttpState,
};

/// Records that are listed unless told otherwise, and at most.
const LIMIT: usize = 100;
const LIMIT_MAX: usize = 10_000;

/// Why something was not done.
#[derive(Debug)]
pub struct Refusal {
    pub kind: ErrorKind,
    pub message: String,
}

impl Refusal {
    fn invalid(message: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Invalid, message: message.into() }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let code = match self.kind {
            ErrorKind::Invalid => StatusCode::BAD_REQUEST,
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::Conflict => StatusCode::CONFLICT,
            ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            ErrorKind::Exhausted => StatusCode::INSUFFICIENT_STORAGE,
            ErrorKind::Data | ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (code, Json(json!({ "error": self.message }))).into_response()
    }
}

/// The part of the process that decides about quarantine.
#[async_trait::async_trait]
pub trait QuarantineSource: Send + Sync {
    async fn list(&self, filter: Filter, limit: usize) -> Result<Listed, Refusal>;
    async fn places(&self, filter: Filter) -> Result<Places, Refusal>;
    async fn show(&self, stream: String, place: Place) -> Result<Shown, Refusal>;
    async fn replay(&self, stream: String, asked: Replay) -> Result<Replayed, Refusal>;
    async fn discard(&self, stream: String, asked: Discard) -> Result<Discarded, Refusal>;
}

/// The routes, below `/api/v1/quarantine`.
pub(super) fn routes() -> Router<HttpState> {
    Router::new()
        .route("/api/v1/quarantine", get(list))
        .route("/api/v1/quarantine/{stream}/places", get(places))
        .route("/api/v1/quarantine/{stream}/records/{*place}", get(show))
        .route("/api/v1/quarantine/{stream}/replay", post(replay))
        .route("/api/v1/quarantine/{stream}/discard", post(discard))
}

/// Whoever decides, once everything that was in the log at the start can be queried.
fn source(state: &HttpState) -> Result<Arc<dyn QuarantineSource>, Refusal> {
    let unavailable =
        |message: &str| Refusal { kind: ErrorKind::Unavailable, message: message.to_owned() };
    if !state.ready.load(Ordering::Relaxed) {
        return Err(unavailable("the server is not ready yet; ask again"));
    }
    let source = state.quarantine.clone();
    source.ok_or_else(|| unavailable("this server does not process; ask one that does"))
}

fn answer<T: Serialize>(done: Result<T, Refusal>) -> Response {
    done.map_or_else(Refusal::into_response, |done| Json(done).into_response())
}

async fn list(State(state): State<HttpState>, uri: Uri) -> Response {
    let listed = async {
        let (filter, limit) = filter(&uri)?;
        source(&state)?.list(filter, limit.unwrap_or(LIMIT)).await
    };
    answer(listed.await)
}

async fn places(State(state): State<HttpState>, Path(stream): Path<String>, uri: Uri) -> Response {
    let found = async {
        let (filter, _) = filter(&uri)?;
        source(&state)?.places(Filter { stream: Some(stream), ..filter }).await
    };
    answer(found.await)
}

async fn show(
    State(state): State<HttpState>,
    Path((stream, place)): Path<(String, String)>,
) -> Response {
    let shown = async {
        let place = place.parse::<Place>().map_err(|e| Refusal::invalid(e.to_string()))?;
        source(&state)?.show(stream, place).await
    };
    answer(shown.await)
}

async fn replay(
    State(state): State<HttpState>,
    Path(stream): Path<String>,
    Json(asked): Json<Replay>,
) -> Response {
    answer(async { source(&state)?.replay(stream, asked).await }.await)
}

async fn discard(
    State(state): State<HttpState>,
    Path(stream): Path<String>,
    Json(asked): Json<Discard>,
) -> Response {
    answer(async { source(&state)?.discard(stream, asked).await }.await)
}

/// `stream`, `rule` and `limit` of a query string.
fn filter(uri: &Uri) -> Result<(Filter, Option<usize>), Refusal> {
    let (mut filter, mut limit) = (Filter::default(), None);
    for (name, value) in url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()) {
        match name.as_ref() {
            "stream" => filter.stream = Some(value.into_owned()),
            "rule" => filter.rule = Some(value.into_owned()),
            "limit" => {
                let given = value.parse().ok().filter(|limit| (1..=LIMIT_MAX).contains(limit));
                let wrong = || format!("limit is {value:?}: give 1 to {LIMIT_MAX}");
                limit = Some(given.ok_or_else(|| Refusal::invalid(wrong()))?);
            }
            other => {
                let message =
                    format!("unknown parameter {other:?}: stream, rule and limit are known");
                return Err(Refusal::invalid(message));
            }
        }
    }
    Ok((filter, limit))
}
