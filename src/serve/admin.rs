//! What an operator asks of a running server over HTTP: to decide about records in quarantine, and
//! to run tests, to look at SQL before it is deployed, to deploy a changed project.

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
        deployed::Deployed,
        previewed::{Asked, Previewed},
        quarantine::{Discard, Discarded, Filter, Listed, Places, Replay, Replayed, Shown},
        tested::{Ran, Wanted},
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

/// The process that is asked.
#[async_trait::async_trait]
pub trait AdminSource: Send + Sync {
    async fn list(&self, filter: Filter, limit: usize) -> Result<Listed, Refusal>;
    async fn places(&self, filter: Filter) -> Result<Places, Refusal>;
    async fn show(&self, stream: String, place: Place) -> Result<Shown, Refusal>;
    async fn replay(&self, stream: String, asked: Replay) -> Result<Replayed, Refusal>;
    async fn discard(&self, stream: String, asked: Discard) -> Result<Discarded, Refusal>;
    /// Runs tests over what can be queried now.
    async fn test(&self, wanted: Wanted) -> Result<Vec<Ran>, Refusal>;
    /// The rows of SQL that sees what models see.
    async fn preview(&self, asked: Asked) -> Result<Previewed, Refusal>;
    /// Reads the project again and runs it from now on.
    async fn deploy(&self) -> Result<Deployed, Refusal>;
}

/// The routes, below `/api/v1`.
pub(super) fn routes() -> Router<HttpState> {
    Router::new()
        .route("/api/v1/quarantine", get(list))
        .route("/api/v1/quarantine/{stream}/places", get(places))
        .route("/api/v1/quarantine/{stream}/records/{*place}", get(show))
        .route("/api/v1/quarantine/{stream}/replay", post(replay))
        .route("/api/v1/quarantine/{stream}/discard", post(discard))
        .route("/api/v1/tests/run", post(test))
        .route("/api/v1/deployments", post(deploy))
        .route("/api/v1/preview", post(preview))
}

/// Whoever answers, once everything that was in the log at the start can be queried.
fn source(state: &HttpState) -> Result<Arc<dyn AdminSource>, Refusal> {
    if !state.ready.load(Ordering::Relaxed) {
        return Err(not_ready());
    }
    state.admin.clone().ok_or_else(no_processor)
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

async fn test(State(state): State<HttpState>, Json(wanted): Json<Wanted>) -> Response {
    answer(async { source(&state)?.test(wanted).await }.await)
}

async fn preview(State(state): State<HttpState>, Json(asked): Json<Asked>) -> Response {
    answer(async { source(&state)?.preview(asked).await }.await)
}

async fn deploy(State(state): State<HttpState>) -> Response {
    answer(async { source(&state)?.deploy().await }.await)
}

fn not_ready() -> Refusal {
    let message = "the server is not ready yet; ask again".to_owned();
    Refusal { kind: ErrorKind::Unavailable, message }
}

fn no_processor() -> Refusal {
    let message = "this server does not process; ask one that does".to_owned();
    Refusal { kind: ErrorKind::Unavailable, message }
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
