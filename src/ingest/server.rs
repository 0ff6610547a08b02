//! The gRPC server: transport, health, reflection, and the way it stops.

use std::{
    convert::Infallible,
    future::Future,
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};

use tokio::{net::TcpListener, time::timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::{
    Code,
    body::Body,
    codegen::{Service as HttpService, http},
    server::NamedService,
    transport::{Server, server::TcpIncoming},
};
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::{
    domain::ErrorKind,
    ingest::{
        Service,
        proto::{
            DESCRIPTORS, ingest_service_server::IngestServiceServer,
            stream_service_server::StreamServiceServer,
        },
        status,
    },
};

const STREAM_WINDOW: u32 = 4 * 1024 * 1024;
/// HTTP/2's largest.
const WINDOW_MAX: u32 = (1 << 31) - 1;
const FRAME_BYTES_MAX: u32 = 1024 * 1024;
const KEEPALIVE_EVERY: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("serve ingest: {0}")]
    Transport(#[from] tonic::transport::Error),
    #[error("describe the ingest services: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

impl Error {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Transport(_) => ErrorKind::Unavailable,
            Self::Reflection(_) => ErrorKind::Internal,
        }
    }
}

/// Serves until `stop`, then drains: tells the streams, waits for what is under way, closes.
pub async fn run(
    service: Service,
    listener: TcpListener,
    stop: CancellationToken,
) -> Result<(), Error> {
    let settings = service.shared().settings.clone();
    let limit = settings.max_request_bytes;
    // Above ours, so that ours answers, with the size and what to do.
    let codec_limit = limit.saturating_mul(2).saturating_add(64 * 1024);
    let ingest = IngestServiceServer::new(service.clone()).max_decoding_message_size(codec_limit);
    let ingest = OversizeRemapped { inner: ingest, limit };
    let streams = StreamServiceServer::new(service.clone());
    let (health, health_service) = tonic_health::server::health_reporter();
    set_health(&health, ServingStatus::Serving).await;

    let close = CancellationToken::new();
    // Room for every stream, so that parked ones stop no other of their connection.
    let connection_window =
        STREAM_WINDOW.saturating_mul(settings.max_concurrent_streams).min(WINDOW_MAX);
    let mut server = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(connection_window)
        .max_frame_size(FRAME_BYTES_MAX)
        .max_concurrent_streams(settings.max_concurrent_streams)
        .http2_keepalive_interval(Some(KEEPALIVE_EVERY))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT));
    let router = server
        .add_service(ingest)
        .add_service(streams)
        .add_service(health_service)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?);
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let closing = close.clone().cancelled_owned();
    let mut serving = pin!(router.serve_with_incoming_shutdown(incoming, closing));

    tokio::select! {
        ended = serving.as_mut() => return Ok(ended?),
        () = stop.cancelled() => {}
    }
    let deadline = tokio::time::Instant::now() + settings.drain_timeout();
    set_health(&health, ServingStatus::NotServing).await;
    let shared = service.shared();
    shared.draining.cancel();
    tokio::select! {
        ended = serving.as_mut() => return Ok(ended?),
        waited = timeout_at(deadline, shared.tasks.wait()) => if waited.is_err() {
            tracing::warn!(left = shared.tasks.count(), "ingest streams did not end in time");
        },
    }
    close.cancel();
    // tonic waits for its connections without a limit.
    match timeout_at(deadline, serving).await {
        Ok(ended) => Ok(ended?),
        Err(_elapsed) => {
            tracing::warn!("ingest connections did not close in time");
            Ok(())
        }
    }
}

async fn set_health(health: &HealthReporter, status: ServingStatus) {
    let names = [
        "",
        <IngestServiceServer<Service> as NamedService>::NAME,
        <StreamServiceServer<Service> as NamedService>::NAME,
    ];
    for name in names {
        health.set_service_status(name, status).await;
    }
}

fn reflection<'a>() -> tonic_reflection::server::Builder<'a> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}

/// Turns the codec's OUT_OF_RANGE for an oversize request, which clients would retry, into our
/// answer. No handler of ours ends a call with that code.
#[derive(Clone)]
struct OversizeRemapped<S> {
    inner: S,
    limit: usize,
}

impl<S: NamedService> NamedService for OversizeRemapped<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> HttpService<http::Request<Body>> for OversizeRemapped<S>
where
    S: HttpService<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let (answering, limit) = (self.inner.call(request), self.limit);
        Box::pin(async move {
            let response = answering.await?;
            let code = response.headers().get("grpc-status").map(|code| code.as_bytes());
            if code.is_some_and(|code| Code::from_bytes(code) == Code::OutOfRange) {
                tracing::warn!(limit, "an ingest request was over the limit");
                return Ok(status::oversize("max_request_bytes", None, limit).into_http());
            }
            Ok(response)
        })
    }
}
