//! The records of one append on their way: counted down by delivery reports, awaited once.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use rdkafka::error::RDKafkaErrorCode;
use tokio::sync::Notify;

use crate::{
    domain::{Offset, Partition},
    log::OffsetRange,
};

/// What each record of an append carries through librdkafka.
pub(super) type Tracked = Arc<Batch>;

pub(super) struct Batch {
    /// Delivery reports that are missing, and one more until all records are handed over.
    missing: AtomicUsize,
    outcome: Mutex<Outcome>,
    done: Notify,
}

#[derive(Default)]
struct Outcome {
    ranges: Vec<OffsetRange>,
    failure: Option<RDKafkaErrorCode>,
}

impl Batch {
    pub(super) fn new(records: usize) -> Tracked {
        Arc::new(Self {
            missing: AtomicUsize::new(records + 1),
            outcome: Mutex::default(),
            done: Notify::new(),
        })
    }

    /// A record is durable.
    pub(super) fn landed(&self, partition: i32, offset: Offset) {
        {
            let mut outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
            match Partition::try_from(partition) {
                Ok(partition) if offset >= 0 => outcome.add(partition, offset),
                // Kafka knew it already from an earlier try and does not say where it is.
                _ => outcome.failure = outcome.failure.or(Some(RDKafkaErrorCode::InvalidMessage)),
            }
        }
        self.count_down(1);
    }

    /// What became of a record is unknown, or it was refused.
    pub(super) fn failed(&self, code: RDKafkaErrorCode) {
        {
            let mut outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
            outcome.failure = outcome.failure.or(Some(code));
        }
        self.count_down(1);
    }

    /// All records are handed over but for the last `left_out`.
    pub(super) fn handed_over(&self, left_out: usize) {
        self.count_down(left_out + 1);
    }

    fn count_down(&self, by: usize) {
        if self.missing.fetch_sub(by, Ordering::AcqRel) == by {
            self.done.notify_one();
        }
    }

    /// Waits for the last delivery report. One caller only.
    pub(super) async fn done(&self) {
        while self.missing.load(Ordering::Acquire) > 0 {
            self.done.notified().await;
        }
    }

    /// Where the records are, or the first error; once it is done.
    pub(super) fn outcome(&self) -> Result<Vec<OffsetRange>, RDKafkaErrorCode> {
        let mut outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome.failure {
            Some(code) => Err(code),
            None => Ok(std::mem::take(&mut outcome.ranges)),
        }
    }
}

impl Outcome {
    fn add(&mut self, partition: Partition, offset: Offset) {
        let last = self.ranges.iter_mut().rev().find(|range| range.partition == partition);
        match last {
            Some(range) if range.last + 1 == offset => range.last = offset,
            _ => self.ranges.push(OffsetRange { partition, first: offset, last: offset }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_batch_is_done_with_its_last_report() {
        let batch = Batch::new(4);
        batch.landed(0, 7);
        batch.landed(1, 3);
        batch.landed(0, 8);
        assert!(futures::poll!(std::pin::pin!(batch.done())).is_pending());
        batch.handed_over(1);
        batch.done().await;
        let range = |partition, first, last| OffsetRange { partition, first, last };
        assert_eq!(batch.outcome(), Ok(vec![range(0, 7, 8), range(1, 3, 3)]));
    }

    #[tokio::test]
    async fn the_first_failure_counts() {
        let batch = Batch::new(3);
        batch.failed(RDKafkaErrorCode::MessageTimedOut);
        batch.failed(RDKafkaErrorCode::PurgeQueue);
        batch.landed(0, 1);
        batch.handed_over(0);
        batch.done().await;
        assert_eq!(batch.outcome(), Err(RDKafkaErrorCode::MessageTimedOut));
    }
}
