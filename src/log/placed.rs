//! A log whose offsets go on where another log's ended: what `sluice log adopt` leaves behind.
//!
//! Tables know records by offset, and positions never move back. So the records of an adopted log
//! are counted on from where the tables are, and its name carries the number of the adoption.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crate::{
    domain::{Offset, Partition, Positions},
    log::{Chunk, Error, Extent, Log, LogRecord, OffsetRange, Reader, Record, StreamSpec},
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
        let mut inner_after = Positions::default();
        for (stream, partition, offset) in after.iter() {
            inner_after.advance(stream, partition, offset - self.shift(stream, partition));
        }
        let opened = Arc::clone(&self.inner).reader(streams, &inner_after).await;
        let inner = opened.map_err(|error| shifted(&self.placements, error))?;
        Ok(Box::new(PlacedReader { inner, placements: Arc::clone(&self.placements) }))
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
