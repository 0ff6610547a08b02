//! The log inside the process: a fjall database in a folder of its own.
//!
//! Appends go through one writer thread that groups them and syncs before it answers. An append
//! takes its place in the log's order when it is first polled, so a caller that polls appends one
//! after the other may have many under way. After a failed write nothing is written any more until
//! a restart: what became of the last group is unknown, and a kernel that could not sync a file may
//! show data that is not on the disk. So the log does not mend itself when there is room again.

use std::{
    path::Path,
    sync::{Arc, Mutex},
    thread::JoinHandle,
};

use serde::{Deserialize, Serialize};
use tokio::sync::{oneshot, watch};

use self::{
    block::Body,
    reader::Follower,
    store::{Store, Stream, locked},
    writer::{Queue, Request, Writer},
};
use crate::{
    domain::{Durability, Offset, Partition, Positions},
    log::{Error, Extent, Log, LogRecord, OffsetRange, Reader, Record, StreamSpec, partitioner},
    ops::Clock,
};

mod block;
mod probe;
mod reader;
mod store;
mod writer;

pub use probe::{Folder, look};

#[cfg(test)]
mod tests;

/// Larger appends are cut into blocks of about this size.
const BLOCK_BYTES: usize = 1024 * 1024;

/// How the log stores.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// A partition begins a new segment at this size; trimming drops whole segments.
    pub segment_bytes: u64,
    /// Largest key and payload of a record together.
    pub max_record_bytes: usize,
    /// How much is synced at once.
    pub group_commit_bytes_max: usize,
    /// Set for the whole process, see the server's settings.
    #[serde(skip)]
    pub durability: Durability,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            segment_bytes: 64 * 1024 * 1024,
            max_record_bytes: 1024 * 1024 + 64 * 1024,
            group_commit_bytes_max: 8 * 1024 * 1024,
            durability: Durability::Fsync,
        }
    }
}

/// The embedded log. One process at a time may have a folder open.
pub struct EmbeddedLog {
    store: Arc<Store>,
    queue: Arc<Queue>,
    durable: Arc<watch::Sender<()>>,
    max_record_bytes: usize,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl EmbeddedLog {
    /// Opens the log in the folder `path`, or creates it. Blocking.
    pub fn open(path: &Path, settings: Settings, clock: Clock) -> Result<Arc<Self>, Error> {
        let persist = match settings.durability {
            Durability::Fsync => fjall::PersistMode::SyncAll,
            Durability::Os => fjall::PersistMode::Buffer,
        };
        let store = Arc::new(Store::open(path, persist)?);
        let queue = Arc::<Queue>::default();
        let durable = Arc::new(watch::Sender::new(()));
        let writer = Writer {
            store: Arc::clone(&store),
            queue: Arc::clone(&queue),
            clock,
            segment_bytes: settings.segment_bytes,
            group_bytes_max: settings.group_commit_bytes_max,
            durable: Arc::clone(&durable),
        };
        let thread = std::thread::Builder::new().name("log-writer".into());
        let spawned = thread.spawn(move || writer.run());
        let thread = spawned.map_err(|error| Error::Unavailable {
            path: store.path.clone(),
            reason: format!("its writer thread does not start: {error}"),
        })?;
        let max_record_bytes = settings.max_record_bytes;
        let writer = Mutex::new(Some(thread));
        Ok(Arc::new(Self { store, queue, durable, max_record_bytes, writer }))
    }

    fn join_writer(&self) {
        self.queue.close();
        let thread = locked(&self.writer).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!(path = self.store.path, "the log's writer thread panicked");
        }
    }

    /// The records as blocks per partition, in the order in which the partitions appear.
    fn pack(
        &self,
        stream: &Stream,
        records: Vec<Record>,
    ) -> Result<Vec<(Partition, Vec<Body>)>, Error> {
        let count = stream.partition_count();
        let mut parts: Vec<(Partition, Vec<Body>)> = Vec::new();
        let mut part_of = vec![None; usize::try_from(count).unwrap_or_default()];
        for Record { key, identity, headers, payload } in records {
            let size = payload.len() + key.as_ref().map_or(0, bytes::Bytes::len);
            if size > self.max_record_bytes {
                return Err(Error::RecordTooLarge { size, limit: self.max_record_bytes });
            }
            let identity = identity.encode();
            let partition = partitioner::partition(key.as_deref().unwrap_or(&identity), count);
            let slot = usize::try_from(partition).ok().and_then(|i| part_of.get_mut(i));
            let Some(slot) = slot else { return Err(Error::UnknownStream(stream.name.clone())) };
            let part = *slot.get_or_insert_with(|| {
                parts.push((partition, Vec::new()));
                parts.len() - 1
            });
            let bodies = &mut parts[part].1;
            let with_headers = !headers.is_empty();
            let is_over =
                |body: &Body| body.len() + size > BLOCK_BYTES || body.has_headers() != with_headers;
            if bodies.last().is_none_or(is_over) {
                bodies.push(Body::new(with_headers));
            }
            if let Some(body) = bodies.last_mut() {
                body.push(key.as_deref(), &identity, &headers, &payload);
            }
        }
        for (_, bodies) in &mut parts {
            *bodies = std::mem::take(bodies).into_iter().map(Body::finish).collect();
        }
        Ok(parts)
    }

    /// Runs file access off the async threads.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let store = Arc::clone(&self.store);
        let path = self.store.path.clone();
        tokio::task::spawn_blocking(move || work(&store))
            .await
            .map_err(|error| Error::Unavailable { path, reason: error.to_string() })?
    }
}

#[async_trait::async_trait]
impl Log for EmbeddedLog {
    fn id(&self, _stream: &str) -> String {
        self.store.id.clone()
    }

    fn topic(&self, stream: &str) -> String {
        stream.to_owned()
    }

    async fn ensure(&self, streams: &[StreamSpec]) -> Result<(), Error> {
        let streams = streams.to_vec();
        self.blocking(move |store| store.ensure(&streams)).await
    }

    async fn append(&self, stream: &str, records: Vec<Record>) -> Result<Vec<OffsetRange>, Error> {
        let stream = self.store.stream(stream)?;
        if records.is_empty() {
            return Ok(Vec::new());
        }
        let parts = self.pack(&stream, records)?;
        let bytes = parts.iter().flat_map(|(_, bodies)| bodies).map(Body::len).sum();
        let (answer, answered) = oneshot::channel();
        self.queue.push(Request { stream, parts, bytes, answer }, &self.store.path)?;
        answered.await.unwrap_or_else(|_| {
            let reason = "its writer thread ended, so the outcome is unknown".to_owned();
            Err(Error::Unavailable { path: self.store.path.clone(), reason })
        })
    }

    async fn extents(&self, stream: &str) -> Result<Vec<Extent>, Error> {
        Ok(self.store.stream(stream)?.extents())
    }

    async fn get(
        &self,
        stream: &str,
        partition: Partition,
        offset: Offset,
    ) -> Result<Option<LogRecord>, Error> {
        let stream = self.store.stream(stream)?;
        let Some(extent) = stream.partition(partition).map(|log| log.extent()) else {
            return Ok(None);
        };
        if !(extent.start..extent.end).contains(&offset) {
            return Ok(None);
        }
        self.blocking(move |store| {
            let mut records = Vec::new();
            store.read(&stream, partition, offset, 0, &mut records)?;
            Ok(records.into_iter().next())
        })
        .await
    }

    async fn has_records(
        &self,
        stream: &str,
        partition: Partition,
        from: Offset,
    ) -> Result<bool, Error> {
        let stream = self.store.stream(stream)?;
        Ok(stream.partition(partition).is_some_and(|log| log.extent().end > from))
    }

    async fn reader(
        self: Arc<Self>,
        streams: &[String],
        after: &Positions,
    ) -> Result<Box<dyn Reader>, Error> {
        let (store, durable) = (Arc::clone(&self.store), self.durable.subscribe());
        Ok(Box::new(Follower::open(store, durable, streams, after)?))
    }

    async fn trim(&self, stream: &str, partition: Partition, through: Offset) -> Result<(), Error> {
        let stream = self.store.stream(stream)?;
        self.blocking(move |store| store.trim(&stream, partition, through)).await
    }

    fn outage(&self) -> Option<String> {
        let reason = self.store.write_failure()?.to_owned();
        Some(Error::Unavailable { path: self.store.path.clone(), reason }.to_string())
    }

    async fn close(&self) {
        self.queue.close();
        let thread = locked(&self.writer).take();
        let Some(thread) = thread else { return };
        let joined = tokio::task::spawn_blocking(move || thread.join()).await;
        if !matches!(joined, Ok(Ok(()))) {
            tracing::error!(path = self.store.path, "the log's writer thread panicked");
        }
    }
}

/// Waits for the writer, so that the folder is free once the last handle is gone.
impl Drop for EmbeddedLog {
    fn drop(&mut self) {
        self.join_writer();
    }
}
