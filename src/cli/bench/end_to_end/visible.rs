//! How long an acked event takes until a query over Flight SQL has it.

use std::time::{Duration, Instant};

use crate::cli::{
    Failure,
    bench::{
        probe,
        project::{self, SAMPLE, STREAM},
    },
    query::Client,
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
    let run = project::new_run();
    let mut sender = probe::sender(ingest, STREAM, &run)?;
    let mut silver = Client::connect(flight, PATIENCE).await?;
    let mut gold = Client::connect(flight, PATIENCE).await?;
    let earlier = probe::number(&mut gold, &gold_sql()).await?;
    let mut samples = Samples::default();
    for number in 0..count {
        let id = project::id(&run, number);
        let sent = Instant::now();
        let positions =
            probe::publish(&mut sender, STREAM, project::sample(&id, number, size)).await?;
        let acked = Instant::now();
        samples.ack.push(acked - sent);
        silver.after(&positions)?;
        gold.after(&positions)?;
        let silver_sql = format!("SELECT count(*) AS n FROM silver.events WHERE id = '{id}'");
        let gold_sql = gold_sql();
        let of_silver = probe::seen(&mut silver, &silver_sql, 1, acked);
        let of_gold = probe::seen(&mut gold, &gold_sql, earlier + number + 1, acked);
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
