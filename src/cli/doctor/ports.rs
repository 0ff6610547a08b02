//! The three ports: free, a running Sluice's, or somebody else's.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::finding::Finding;
use crate::{
    cli::{node, push::endpoint, query::Client},
    config::Server,
    ingest::proto::{ListStreamsRequest, stream_service_client::StreamServiceClient},
};

/// Whoever has a port answers within this, or is not ours.
const PATIENCE: Duration = Duration::from_secs(2);
/// More than any status of ours.
const STATUS_BYTES_MAX: u64 = 16 << 20;

pub(super) async fn check(server: &Server) -> Vec<Finding> {
    let (ingest, flight, http) =
        (&server.ingest_listen, &server.flight_listen, &server.http_listen);
    vec![
        port("port ingest", "--ingest-listen", ingest, ingest_answers(ingest)).await,
        port("port flight", "--flight-listen", flight, flight_answers(flight)).await,
        port("port http", "--http-listen", http, http_answers(http)).await,
    ]
}

/// `answers`: what a Sluice says there, if it is one.
async fn port(
    name: &str,
    flag: &str,
    address: &str,
    answers: impl Future<Output = Option<String>>,
) -> Finding {
    let addresses = match node::resolve(flag, address) {
        Ok(addresses) => addresses,
        Err(failure) => {
            let mend = format!("give {flag} HOST:PORT such as 127.0.0.1:0");
            return Finding::fail(name, failure.to_string(), mend);
        }
    };
    match TcpListener::bind(addresses.as_slice()).await {
        Ok(_) if addresses.iter().all(|address| address.port() == 0) => {
            Finding::ok(name, format!("{address}, any free port"))
        }
        Ok(_) => Finding::ok(name, format!("{address} is free")),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            match timeout(PATIENCE, answers).await.ok().flatten() {
                Some(who) => Finding::ok(name, format!("{address} is used by a running {who}")),
                None => Finding::fail(
                    name,
                    format!("{address} is used by another program"),
                    format!("end that program, or choose another address with {flag}"),
                ),
            }
        }
        Err(error) => Finding::fail(
            name,
            format!("{address} cannot be bound: {error}"),
            format!("choose another address with {flag}"),
        ),
    }
}

async fn ingest_answers(address: &str) -> Option<String> {
    let endpoint = endpoint::endpoint("--ingest-listen", address, "http").ok()?;
    let mut client = StreamServiceClient::new(endpoint::channel(&endpoint));
    let streams = client.list_streams(ListStreamsRequest {}).await.ok()?.into_inner().streams;
    Some(format!("sluice with {} streams", streams.len()))
}

async fn flight_answers(address: &str) -> Option<String> {
    let mut client = Client::connect(&format!("grpc://{address}"), PATIENCE).await.ok()?;
    client.is_sluice().await.ok()?.then(|| "sluice".to_owned())
}

async fn http_answers(address: &str) -> Option<String> {
    let status = status(address).await.ok()?;
    let text = String::from_utf8_lossy(&status);
    let (_, body) = text.split_once("\r\n\r\n")?;
    let status: serde_json::Value = serde_json::from_str(body).ok()?;
    let (version, ready) = (status["version"].as_str()?, status["ready"].as_bool()?);
    let ready = if ready { "" } else { ", not ready yet" };
    Some(format!("sluice {version}{ready}"))
}

async fn status(address: &str) -> io::Result<Vec<u8>> {
    let addresses: Vec<SocketAddr> = tokio::net::lookup_host(address).await?.collect();
    let mut stream = TcpStream::connect(addresses.as_slice()).await?;
    let request = format!("GET /status HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(STATUS_BYTES_MAX).read_to_end(&mut answer).await?;
    Ok(answer)
}
