//! A log whose offsets go on where another log's ended: what `sluice log adopt` leaves behind.
//!
//! Tables know records by offset, and positions never move back. So the records of an adopted log
//! are counted on from where the tables are, and its name carries the number of the adoption.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crate::{
    domain::{Assignment, Offset, Partition, Positions},
    log::{
        Asked, Chunk, Error, Extent, Log, LogRecord, Membership, OffsetRange, Reader, Record,
        StreamSpec,
    },
};

/// How the offsets of one stream are counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placement {
    /// How often a log was adopted under this name.
    pub generation: i64,
    /// Per partition, what is added to the log's offset.
    pub shifts: Vec<Offset>,
}

impl Placement {
    /// The name of the adopted log. Persisted: must stay stable.
    pub fn id(&self, log_id: &str) -> String {
        if self.generation == 0 {
            return log_id.to_owned();
        }
        format!("{log_id}~{}", self.generation)
    }

    fn shift(&self, partition: Partition) -> Offset {
        let at = usize::try_from(partition).unwrap_or(usize::MAX);
        self.shifts.get(at).copied().unwrap_or_default()
    }
}

/// A log seen through the placements of its streams; those not named are as they are.
pub struct Placed {
    inner: Arc<dyn Log>,
    placements: Arc<BTreeMap<String, Placement>>,
}

impl Placed {
    pub fn new(inner: Arc<dyn Log>, placements: BTreeMap<String, Placement>) -> Arc<Self> {
        Arc::new(Self { inner, placements: Arc::new(placements) })
    }

    fn shift(&self, stream: &str, partition: Partition) -> Offset {
        shift(&self.placements, stream, partition)
    }
}

fn shift(placements: &BTreeMap<String, Placement>, stream: &str, partition: Partition) -> Offset {
    placements.get(stream).map_or(0, |placement| placement.shift(partition))
}

/// Positions as the log counts them.
fn as_in_log(placements: &BTreeMap<String, Placement>, positions: &Positions) -> Positions {
    let mut inner = Positions::default();
    for (stream, partition, offset) in positions.iter() {
        inner.advance(stream, partition, offset - shift(placements, stream, partition));
    }
    inner
}

/// An error's offsets as the tables count them.
fn shifted(placements: &BTreeMap<String, Placement>, error: Error) -> Error {
    match error {
        Error::Gap { stream, partition, wanted, start } => {
            let by = shift(placements, &stream, partition);
            Error::Gap { stream, partition, wanted: wanted + by, start: start + by }
        }
        Error::Truncated { stream, partition, wanted, end } => {
            let by = shift(placements, &stream, partition);
            Error::Truncated { stream, partition, wanted: wanted + by, end: end + by }
        }
        other => other,
    }
}

#[async_trait::async_trait]
impl Log for Placed {
    fn id(&self, stream: &str) -> String {
        let id = self.inner.id(stream);
        self.placements.get(stream).map_or_else(|| id.clone(), |placement| placement.id(&id))
    }

    fn topic(&self, stream: &str) -> String {
        self.inner.topic(stream)
    }

    async fn ensure(&self, streams: &[StreamSpec]) -> Result<(), Error> {
        self.inner.ensure(streams).await
    }

    async fn append(&self, stream: &str, records: Vec<Record>) -> Result<Vec<OffsetRange>, Error> {
        let mut ranges = self.inner.append(stream, records).await?;
        for range in &mut ranges {
            let by = self.shift(stream, range.partition);
            range.first += by;
            range.last += by;
        }
        Ok(ranges)
    }

    async fn extents(&self, stream: &str) -> Result<Vec<Extent>, Error> {
        let mut extents = self.inner.extents(stream).await?;
        for (partition, extent) in (0..).zip(&mut extents) {
            let by = self.shift(stream, partition);
            extent.start += by;
            extent.end += by;
        }
        Ok(extents)
    }

    async fn get(
        &self,
        stream: &str,
        partition: Partition,
        offset: Offset,
    ) -> Result<Option<LogRecord>, Error> {
        let by = self.shift(stream, partition);
        if offset - by < 0 {
            return Ok(None);
        }
        let found = self.inner.get(stream, partition, offset - by).await?;
        Ok(found.map(|record| LogRecord { offset, ..record }))
    }

    async fn has_records(
        &self,
        stream: &str,
        partition: Partition,
        from: Offset,
    ) -> Result<bool, Error> {
        let from = (from - self.shift(stream, partition)).max(0);
        self.inner.has_records(stream, partition, from).await
    }

    async fn reader(
        self: Arc<Self>,
        streams: &[String],
        after: &Positions,
    ) -> Result<Box<dyn Reader>, Error> {
        let after = as_in_log(&self.placements, after);
        let opened = Arc::clone(&self.inner).reader(streams, &after).await;
        PlacedReader::over(opened, &self.placements)
    }

    async fn join(
        self: Arc<Self>,
        streams: &[String],
    ) -> Result<Option<Arc<dyn Membership>>, Error> {
        let Some(inner) = Arc::clone(&self.inner).join(streams).await? else { return Ok(None) };
        Ok(Some(Arc::new(PlacedMembership { inner, placements: Arc::clone(&self.placements) })))
    }

    async fn trim(&self, stream: &str, partition: Partition, through: Offset) -> Result<(), Error> {
        let through = through - self.shift(stream, partition);
        if through < 0 {
            return Ok(());
        }
        self.inner.trim(stream, partition, through).await
    }

    fn outage(&self) -> Option<String> {
        self.inner.outage()
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

struct PlacedReader {
    inner: Box<dyn Reader>,
    placements: Arc<BTreeMap<String, Placement>>,
}

impl PlacedReader {
    fn over(
        opened: Result<Box<dyn Reader>, Error>,
        placements: &Arc<BTreeMap<String, Placement>>,
    ) -> Result<Box<dyn Reader>, Error> {
        let inner = opened.map_err(|error| shifted(placements, error))?;
        Ok(Box::new(Self { inner, placements: Arc::clone(placements) }))
    }
}

#[async_trait::async_trait]
impl Reader for PlacedReader {
    async fn poll(&mut self, max_bytes: usize, max_wait: Duration) -> Result<Vec<Chunk>, Error> {
        let polled = self.inner.poll(max_bytes, max_wait).await;
        let mut chunks = polled.map_err(|error| shifted(&self.placements, error))?;
        for chunk in &mut chunks {
            for record in &mut chunk.records {
                record.offset += shift(&self.placements, &chunk.stream, record.partition);
            }
        }
        Ok(chunks)
    }
}

/// A membership whose readers and reports count as the tables do.
struct PlacedMembership {
    inner: Arc<dyn Membership>,
    placements: Arc<BTreeMap<String, Placement>>,
}

#[async_trait::async_trait]
impl Membership for PlacedMembership {
    fn asked(&self) -> Result<Option<Asked>, Error> {
        self.inner.asked()
    }

    fn held(&self) -> Assignment {
        self.inner.held()
    }

    fn has_joined(&self) -> bool {
        self.inner.has_joined()
    }

    fn take(&self, partitions: &Assignment) -> Result<bool, Error> {
        self.inner.take(partitions)
    }

    fn release(&self, partitions: &Assignment) -> Result<(), Error> {
        self.inner.release(partitions)
    }

    fn forget(&self) {
        self.inner.forget();
    }

    async fn reader(
        &self,
        partitions: &Assignment,
        after: &Positions,
    ) -> Result<Box<dyn Reader>, Error> {
        let after = as_in_log(&self.placements, after);
        let opened = self.inner.reader(partitions, &after).await;
        PlacedReader::over(opened, &self.placements)
    }

    fn report(&self, positions: &Positions) {
        self.inner.report(&as_in_log(&self.placements, positions));
    }

    async fn leave(&self) {
        self.inner.leave().await;
    }
}
