//! How long an acked event takes until a query over Flight SQL has it.

use std::time::{Duration, Instant};

use arrow::{array::AsArray as _, datatypes::Int64Type};
use futures::TryStreamExt as _;

use super::super::project::{self, SAMPLE, STREAM};
use crate::{
    cli::{
        Failure,
        push::{Sender, endpoint, failure, sender},
        query::{Client, failed},
    },
    domain::Positions,
    ingest::proto::RecordBatch,
};

/// How long one sample may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// One entry per sample, sorted.
#[derive(Debug, Default)]
pub(super) struct Samples {
    /// From the send to the ack.
    pub(super) ack: Vec<Duration>,
    /// From the ack to the answer that has the event.
    pub(super) silver: Vec<Duration>,
    pub(super) gold: Vec<Duration>,
}

/// Publishes one event after the other, and asks for each in Silver and in the aggregate at once.
pub(super) async fn measure(
    ingest: &str,
    flight: &str,
    count: u64,
    size: usize,
) -> Result<Samples, Failure> {
    let endpoint =
        endpoint::endpoint("--url", ingest, "http").map_err(|e| Failure::invalid(e.to_string()))?;
    let run = project::new_run();
    let mut sender = Sender::start(sender::Config {
        endpoint,
        stream: STREAM.to_owned(),
        producer_id: format!("bench:{run}"),
        first_sequence: 0,
        want_positions: true,
        retry_for: Duration::ZERO,
    });
    let mut silver = Client::connect(flight, PATIENCE).await?;
    let mut gold = Client::connect(flight, PATIENCE).await?;
    let earlier = count_of(&mut gold, &gold_sql()).await?;
    let mut samples = Samples::default();
    for number in 0..count {
        let id = project::id(&run, number);
        let sent = Instant::now();
        let positions = publish(&mut sender, project::sample(&id, number, size)).await?;
        let acked = Instant::now();
        samples.ack.push(acked - sent);
        silver.after(&positions)?;
        gold.after(&positions)?;
        let silver_sql = format!("SELECT count(*) AS n FROM silver.events WHERE id = '{id}'");
        let gold_sql = gold_sql();
        let of_silver = seen(&mut silver, &silver_sql, 1, acked);
        let of_gold = seen(&mut gold, &gold_sql, earlier + number + 1, acked);
        let (of_silver, of_gold) = tokio::try_join!(of_silver, of_gold)?;
        samples.silver.push(of_silver);
        samples.gold.push(of_gold);
    }
    sender.close();
    for values in [&mut samples.ack, &mut samples.silver, &mut samples.gold] {
        values.sort_unstable();
    }
    Ok(samples)
}

fn gold_sql() -> String {
    // No row before the first sample.
    format!("SELECT coalesce(max(events), 0) AS n FROM gold.amount_by_kind WHERE kind = '{SAMPLE}'")
}

/// Where in the log the one event is.
async fn publish(sender: &mut Sender, event: bytes::Bytes) -> Result<String, Failure> {
    let records = RecordBatch { records: vec![event], ..RecordBatch::default() };
    sender.send(records).await.map_err(|e| failure(&e))?;
    let settled = sender.settled().await.map_err(|e| failure(&e))?;
    let settled = settled.filter(|settled| settled.accepted == 1 && settled.errors.is_empty());
    let settled = settled.ok_or_else(|| Failure::work("a sample was not accepted"))?;
    let mut positions = Positions::default();
    for range in &settled.positions {
        positions.advance(STREAM, range.partition, range.last);
    }
    Ok(positions.to_string())
}

/// How long after `acked` the answer is there, which must be `wanted`.
async fn seen(
    client: &mut Client,
    sql: &str,
    wanted: u64,
    acked: Instant,
) -> Result<Duration, Failure> {
    let count = count_of(client, sql).await?;
    if count != wanted {
        return Err(Failure::work(format!("{sql}: {count} where {wanted} should be")));
    }
    Ok(acked.elapsed())
}

/// The one number that a statement answers.
pub(super) async fn count_of(client: &mut Client, sql: &str) -> Result<u64, Failure> {
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
