//! Arrow Flight SQL.
//!
//! [`service`] answers every call: metadata from the view of the moment, the session calls that
//! arrow-flight has no types for, and the rest through [`sql`], which arrow-flight's own dispatch
//! calls with typed commands. There is no authentication yet, so a listener must be on loopback.

mod service;
pub(crate) mod session;
mod sql;
mod ticket;

use std::{sync::Arc, time::Duration};

use arrow_flight::flight_service_server::FlightServiceServer;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Server, server::TcpIncoming};

use crate::{
    lake::LakeHandle,
    serve::{
        Error, Settings,
        query::{Engine, Plans},
    },
};

const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
const FRAME_BYTES: u32 = 1 << 20;
const STREAMS_PER_CONNECTION: u32 = 128;
/// Commands and SQL only ever come in small.
const REQUEST_BYTES_MAX: usize = 1 << 20;
const KEEPALIVE_EVERY: Duration = Duration::from_secs(30);
const KEEPALIVE_PATIENCE: Duration = Duration::from_secs(10);

/// Serves Flight SQL on `listener` until `stop`, then lets running queries end for a while.
pub async fn run(
    settings: Settings,
    lake: Arc<LakeHandle>,
    listener: TcpListener,
    stop: CancellationToken,
) -> Result<(), Error> {
    let drain = Duration::from_millis(settings.drain_ms_max);
    let engine = Arc::new(Engine::new(settings, lake)?);
    let plans = Arc::new(Plans::default());
    let service = service::Flight::new(engine, Arc::clone(&plans));
    let flight = FlightServiceServer::new(service).max_decoding_message_size(REQUEST_BYTES_MAX);
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<FlightServiceServer<service::Flight>>().await;
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let server = Server::builder()
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES)
        .http2_keepalive_interval(Some(KEEPALIVE_EVERY))
        .http2_keepalive_timeout(Some(KEEPALIVE_PATIENCE))
        .add_service(health)
        .add_service(flight)
        .serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
    tokio::select! {
        ended = server => ended.map_err(Error::Flight),
        () = drained(&stop, drain) => {
            tracing::warn!(drain_ms = drain.as_millis(), "queries still ran at the stop; cut off");
            Ok(())
        }
        () = expire(&plans) => Ok(()),
    }
}

async fn drained(stop: &CancellationToken, patience: Duration) {
    stop.cancelled().await;
    tokio::time::sleep(patience).await;
}

async fn expire(plans: &Plans) {
    let mut every = tokio::time::interval(crate::serve::query::PLANS_KEPT_FOR);
    loop {
        every.tick().await;
        plans.expire();
    }
}
