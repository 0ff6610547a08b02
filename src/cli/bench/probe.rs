//! A single event, published and asked for over Flight SQL.

use std::time::{Duration, Instant};

use arrow::{array::AsArray as _, datatypes::Int64Type};
use futures::TryStreamExt as _;

use crate::{
    cli::{
        Failure,
        push::{Sender, endpoint, failure, sender},
        query::{Client, failed},
    },
    domain::Positions,
    ingest::proto::RecordBatch,
};

/// Sends to `stream` at `ingest` and is told where the events are.
pub(super) fn sender(ingest: &str, stream: &str, run: &str) -> Result<Sender, Failure> {
    let endpoint =
        endpoint::endpoint("--url", ingest, "http").map_err(|e| Failure::invalid(e.to_string()))?;
    Ok(Sender::start(sender::Config {
        endpoint,
        stream: stream.to_owned(),
        producer_id: format!("bench:{run}"),
        first_sequence: 0,
        want_positions: true,
        retry_for: Duration::ZERO,
    }))
}

/// Publishes one event. Returns where in the log it is.
pub(super) async fn publish(
    sender: &mut Sender,
    stream: &str,
    event: bytes::Bytes,
) -> Result<String, Failure> {
    send(sender, event).await?;
    acked(sender, stream).await
}

/// Sends one event.
pub(super) async fn send(sender: &mut Sender, event: bytes::Bytes) -> Result<(), Failure> {
    let records = RecordBatch { records: vec![event], ..RecordBatch::default() };
    sender.send(records).await.map_err(|e| failure(&e))
}

/// Waits for the ack of the next event that was sent; returns where in the log that is.
/// Cancel-safe.
pub(super) async fn acked(sender: &mut Sender, stream: &str) -> Result<String, Failure> {
    let settled = sender.settled().await.map_err(|e| failure(&e))?;
    let settled = settled.filter(|settled| settled.accepted == 1 && settled.errors.is_empty());
    let settled = settled.ok_or_else(|| Failure::work("a probe was not accepted"))?;
    let mut positions = Positions::default();
    for range in &settled.positions {
        positions.advance(stream, range.partition, range.last);
    }
    Ok(positions.to_string())
}

/// How long after `acked` the answer is there, which must be `wanted`.
pub(super) async fn seen(
    client: &mut Client,
    sql: &str,
    wanted: u64,
    acked: Instant,
) -> Result<Duration, Failure> {
    let count = number(client, sql).await?;
    if count != wanted {
        return Err(Failure::work(format!("{sql}: {count} where {wanted} should be")));
    }
    Ok(acked.elapsed())
}

/// The one number that a statement answers.
pub(super) async fn number(client: &mut Client, sql: &str) -> Result<u64, Failure> {
    let ticket = client.plan(sql).await?;
    let mut rows = client.rows(ticket).await?;
    let mut found = None;
    while let Some(batch) = rows.try_next().await.map_err(failed)? {
        let first = batch.columns().first().and_then(|c| c.as_primitive_opt::<Int64Type>());
        if let Some(value) = first.filter(|column| !column.is_empty()).map(|c| c.value(0)) {
            found = u64::try_from(value).ok();
        }
    }
    found.ok_or_else(|| Failure::work(format!("{sql}: no number came back")))
}
