//! The admin API of a running server, as commands ask it.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, StatusCode, header};
use hyper_util::{
    client::legacy::{Client as Http, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::timeout;
use url::Url;

use crate::{
    cli::{Failure, chain, push::endpoint},
    domain::ErrorKind,
};

/// Below it is all that is asked here.
const ROOT: [&str; 2] = ["api", "v1"];
/// A server that has not answered within this is given up; it gives up parts of its own before.
const PATIENCE: Duration = Duration::from_secs(120);

pub(super) struct Client {
    http: Http<HttpConnector, Full<Bytes>>,
    root: Url,
    /// The part of the API that is asked.
    part: &'static str,
    patience: Duration,
}

impl Client {
    /// Of the server at `http://HOST:PORT`.
    pub(super) fn new(url: &str, part: &'static str) -> Result<Self, Failure> {
        let endpoint = endpoint::endpoint("--url", url, "http");
        let endpoint = endpoint.map_err(|error| Failure::invalid(error.to_string()))?;
        let root = endpoint.uri().to_string();
        let root = Url::parse(&root).map_err(|error| Failure::invalid(error.to_string()))?;
        Ok(Self {
            http: Http::builder(TokioExecutor::new()).build_http(),
            root,
            part,
            patience: PATIENCE,
        })
    }

    /// It waits so long for an answer.
    pub(super) fn patient(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    pub(super) async fn get<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &[(&str, &str)],
    ) -> Result<T, Failure> {
        let mut url = self.url(path)?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        self.ask(Method::GET, &url, Bytes::new()).await
    }

    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        path: &[&str],
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        let body = serde_json::to_vec(body).map_err(|error| self.strange(&error.to_string()))?;
        self.ask(Method::POST, &self.url(path)?, body.into()).await
    }

    /// Each part is encoded, so that a name is never more than a name.
    fn url(&self, path: &[&str]) -> Result<Url, Failure> {
        let mut url = self.root.clone();
        match url.path_segments_mut() {
            Ok(mut segments) => segments.pop_if_empty().extend(ROOT).push(self.part).extend(path),
            Err(()) => return Err(Failure::invalid(format!("--url {}: no server", self.root))),
        };
        Ok(url)
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        url: &Url,
        body: Bytes,
    ) -> Result<T, Failure> {
        let request = Request::builder()
            .method(method)
            .uri(url.as_str())
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body));
        let request = request.map_err(|error| Failure::invalid(error.to_string()))?;
        let answered = async {
            let answer = self.http.request(request).await.map_err(|error| {
                let reason = chain(&error);
                if error.is_connect() { self.missing(&reason) } else { self.silent(&reason) }
            })?;
            let code = answer.status();
            let body = answer.into_body().collect().await;
            Ok((code, body.map_err(|error| self.silent(&chain(&error)))?.to_bytes()))
        };
        let silent = |_| self.silent(&format!("nothing in {} s", self.patience.as_secs()));
        let (code, body) = timeout(self.patience, answered).await.map_err(silent)??;
        if code != StatusCode::OK {
            return Err(self.refused(code, &body));
        }
        serde_json::from_slice(&body).map_err(|error| self.strange(&error.to_string()))
    }

    fn address(&self) -> &str {
        self.root.as_str().trim_end_matches('/')
    }

    fn missing(&self, reason: &str) -> Failure {
        Failure::unavailable(format!(
            "no server answers at {} ({reason}); start one, or give the address of its HTTP port \
             with --url",
            self.address()
        ))
    }

    /// It was asked, so it may have been done.
    fn silent(&self, reason: &str) -> Failure {
        Failure::unavailable(format!(
            "the server at {} was asked and did not answer ({reason}); ask again: what was done is \
             not done twice",
            self.address()
        ))
    }

    fn strange(&self, reason: &str) -> Failure {
        let address = self.address();
        Failure::unavailable(format!("what answers at {address} is not this Sluice: {reason}"))
    }

    fn refused(&self, code: StatusCode, body: &[u8]) -> Failure {
        let kind = match code {
            StatusCode::BAD_REQUEST => ErrorKind::Invalid,
            StatusCode::NOT_FOUND => ErrorKind::NotFound,
            StatusCode::CONFLICT => ErrorKind::Conflict,
            StatusCode::SERVICE_UNAVAILABLE => ErrorKind::Unavailable,
            StatusCode::INSUFFICIENT_STORAGE => ErrorKind::Exhausted,
            _ => ErrorKind::Internal,
        };
        let told = serde_json::from_slice::<serde_json::Value>(body).ok();
        match told.as_ref().and_then(|told| told.get("error")?.as_str()) {
            Some(message) => Failure::new(kind, message),
            None => self.strange(&format!("HTTP {code}")),
        }
    }
}
