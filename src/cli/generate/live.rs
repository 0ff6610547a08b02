//! Events sent as they happen.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::Click;
use crate::{
    cli::push::{
        Sender,
        sender::{SendError, Settled},
    },
    ingest::proto::RecordBatch,
};

/// Events per batch at most.
const BATCH_EVENTS: usize = 500;
/// Events that are due within so much time travel together.
const GATHER: Duration = Duration::from_millis(20);
/// How long acks are waited for after a stop.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// What became of the events.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    pub acked: u64,
    pub refused: u64,
    /// Why the first refused event was.
    pub reason: Option<String>,
}

/// Sends each event when its time has come, until `clicks` end or `stop`; then waits for the acks.
/// `show` is called after every ack.
pub async fn stream(
    mut clicks: impl Iterator<Item = Click>,
    sender: &mut Sender,
    stop: &CancellationToken,
    mut show: impl FnMut(&Tally),
) -> Result<Tally, SendError> {
    let mut tally = Tally::default();
    let mut next = clicks.next();
    let mut due = Instant::now() + next.as_ref().map_or(Duration::ZERO, |click| click.delay);
    let mut earliest = due;
    while next.is_some() && !stop.is_cancelled() {
        tokio::select! {
            () = stop.cancelled() => break,
            settled = sender.settled() => match settled? {
                Some(settled) => {
                    tally.add(settled);
                    show(&tally);
                }
                None => return Err(SendError::Closed),
            },
            () = sleep_until(due.max(earliest)) => {
                let now = Instant::now();
                earliest = now + GATHER;
                let mut records = Vec::new();
                while let Some(click) = next.take_if(|_| due <= now) {
                    records.push(Bytes::from(click.json));
                    next = clicks.next();
                    due += next.as_ref().map_or(Duration::ZERO, |click| click.delay);
                    if records.len() == BATCH_EVENTS {
                        // The rest is due already and follows at once.
                        earliest = now;
                        break;
                    }
                }
                tokio::select! {
                    sent = sender.send(batch(records)) => sent?,
                    () = stop.cancelled() => break,
                }
            }
        }
    }
    sender.close();
    let overdue = async {
        stop.cancelled().await;
        sleep(STOP_GRACE).await;
    };
    tokio::pin!(overdue);
    loop {
        tokio::select! {
            settled = sender.settled() => match settled? {
                Some(settled) => tally.add(settled),
                None => break,
            },
            () = &mut overdue => break,
        }
    }
    show(&tally);
    Ok(tally)
}

fn batch(records: Vec<Bytes>) -> RecordBatch {
    RecordBatch { records, ..RecordBatch::default() }
}

impl Tally {
    fn add(&mut self, settled: Settled) {
        self.acked += settled.accepted;
        self.refused += settled.refused();
        let refusal = Some(settled.refusal).filter(|refusal| !refusal.is_empty());
        let first = settled.errors.into_iter().find(|error| !error.quarantined);
        let reason = refusal.or_else(|| first.map(|error| error.message));
        self.reason = self.reason.take().or(reason);
    }
}
