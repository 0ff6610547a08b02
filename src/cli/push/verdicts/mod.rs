//! Asks the lake which of the acknowledged events count: acceptance is decided behind the log.

use std::time::Duration;

use arrow::{
    array::{Array as _, AsArray as _, RecordBatch},
    compute::cast,
    datatypes::{DataType, Int64Type},
};
use arrow_flight::sql::client::FlightSqlServiceClient;
use futures::TryStreamExt as _;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};

use super::{endpoint::channel, ranges::Ranges};

/// How long the answer is waited for: the events have to become visible first.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Ranges per query: its text stays far below the limits of the server.
const RANGES_PER_QUERY: usize = 200;

/// How many events got which verdict.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Verdicts {
    pub(super) accepted: u64,
    pub(super) repeats: u64,
    pub(super) quarantined: u64,
}

type Unknown = Box<dyn std::error::Error + Send + Sync>;

/// The verdicts on the `events` at `ranges`; waits until they are visible. An error means that they
/// are not known here, not that anything went wrong with the push.
pub(super) async fn ask(
    endpoint: &Endpoint,
    stream: &str,
    ranges: &Ranges,
    events: u64,
) -> Result<Verdicts, Unknown> {
    timeout(TIMEOUT, Box::pin(ask_all(channel(endpoint), stream, ranges, events))).await?
}

async fn ask_all(
    channel: Channel,
    stream: &str,
    ranges: &Ranges,
    events: u64,
) -> Result<Verdicts, Unknown> {
    let mut client = FlightSqlServiceClient::new(channel);
    client.set_header("x-sluice-after", ranges.positions(stream).to_string());
    let mut verdicts = Verdicts::default();
    for chunk in ranges.merged().chunks(RANGES_PER_QUERY) {
        let info = client.execute(sql(stream, chunk), None).await?;
        for ticket in info.endpoint.into_iter().filter_map(|endpoint| endpoint.ticket) {
            let mut batches = client.do_get(ticket).await?;
            while let Some(batch) = batches.try_next().await? {
                verdicts.add(&batch)?;
            }
        }
    }
    let known = verdicts.accepted + verdicts.repeats + verdicts.quarantined;
    if known < events {
        return Err(format!("{known} of {events} verdicts are known").into());
    }
    Ok(verdicts)
}

fn sql(stream: &str, ranges: &[(u32, i64, i64)]) -> String {
    let places: Vec<String> = ranges
        .iter()
        .map(|(partition, first, last)| {
            format!("(\"partition\" = {partition} AND \"offset\" BETWEEN {first} AND {last})")
        })
        .collect();
    format!(
        "SELECT verdict, count(*) AS events FROM system.acceptance WHERE stream = '{}' AND ({}) \
         GROUP BY verdict",
        stream.replace('\'', "''"),
        places.join(" OR ")
    )
}

impl Verdicts {
    fn add(&mut self, batch: &RecordBatch) -> Result<(), Unknown> {
        if batch.num_columns() != 2 {
            return Err("the answer does not have two columns".into());
        }
        let names = cast(batch.column(0), &DataType::Utf8)?;
        let counts = cast(batch.column(1), &DataType::Int64)?;
        let (names, counts) = (names.as_string::<i32>(), counts.as_primitive::<Int64Type>());
        for i in 0..names.len() {
            let count = u64::try_from(counts.value(i))?;
            match names.value(i) {
                "accepted" => self.accepted += count,
                "repeat" => self.repeats += count,
                "quarantined" => self.quarantined += count,
                other => return Err(format!("unknown verdict {other:?}").into()),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
