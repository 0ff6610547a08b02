//! What lies on disk: a fjall database with one keyspace per (stream, partition, segment) and one,
//! `meta`, that says which of them count.
//!
//! A segment's entry in `meta` and its first block are one atomic write, so a segment that counts
//! is never empty, and the last block of the last segment tells where a partition ends. Keyspaces
//! that `meta` does not name are left-overs of a crash and are dropped at the next start.

use std::{
    collections::{BTreeMap, HashSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock},
};

use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use super::block::{Block, Header};
use crate::{
    domain::{Offset, Partition},
    log::{Error, Extent, LogRecord, StreamSpec},
    ops::folders,
};

/// As fjall names it.
const KEYSPACES: &str = "keyspaces";
const META: &str = "meta";
const UUID_KEY: &[u8] = b"uuid";
/// The number of the next segment: a number is never used twice.
const NEXT_SEGMENT_KEY: &[u8] = b"next_segment";
const STREAM_PREFIX: &[u8] = b"stream/";
const SEGMENT_PREFIX: &[u8] = b"segment/";
/// What a stream's entry ([`STREAM_PREFIX`] + name) holds: its number, its partition count.
const STREAM_ENTRY_LEN: usize = 8;
/// Bounds what is replayed at a start, and with it the memory of unflushed segments.
const JOURNAL_BYTES_MAX: u64 = 128 * 1024 * 1024;
const MEMTABLE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// How many segments one read looks into; a reader comes back for more.
const READ_SEGMENTS_MAX: usize = 4;
const CACHE_BYTES: u64 = 16 * 1024 * 1024;
const NOT_WRITTEN: &str = "a write failed, so its outcome is unknown";
const MEND: &str = "nothing is appended until the cause is mended and the server restarted";

/// A partition's run of blocks that is dropped as a whole.
#[derive(Clone)]
pub(super) struct Segment {
    pub(super) number: u64,
    pub(super) base: Offset,
    pub(super) bytes: u64,
    pub(super) keyspace: Keyspace,
}

/// One partition. Only what is durable stands here.
#[derive(Default)]
pub(super) struct PartitionLog {
    /// By base offset; the last one is written to.
    pub(super) segments: Vec<Segment>,
    pub(super) end: Offset,
    pub(super) last_timestamp_us: i64,
}

impl PartitionLog {
    pub(super) fn extent(&self) -> Extent {
        Extent { start: self.segments.first().map_or(self.end, |s| s.base), end: self.end }
    }

    /// Index of the segment that holds `offset`.
    fn segment_of(&self, offset: Offset) -> Option<usize> {
        self.segments.partition_point(|segment| segment.base <= offset).checked_sub(1)
    }
}

pub(super) struct Stream {
    pub(super) name: String,
    pub(super) number: u32,
    partitions: Vec<Mutex<PartitionLog>>,
}

impl Stream {
    pub(super) fn partition_count(&self) -> Partition {
        Partition::try_from(self.partitions.len()).unwrap_or(Partition::MAX)
    }

    pub(super) fn partition(&self, partition: Partition) -> Option<MutexGuard<'_, PartitionLog>> {
        let partition = self.partitions.get(usize::try_from(partition).ok()?)?;
        Some(locked(partition))
    }

    pub(super) fn extents(&self) -> Vec<Extent> {
        self.partitions.iter().map(|partition| locked(partition).extent()).collect()
    }
}

/// A panic elsewhere leaves nothing half done under these locks.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) struct Store {
    pub(super) db: Database,
    meta: Keyspace,
    /// The folder of the keyspaces' folders.
    keyspaces: PathBuf,
    pub(super) path: String,
    pub(super) id: String,
    pub(super) persist: PersistMode,
    /// Why nothing is written any more.
    write_failure: OnceLock<String>,
    pub(super) next_segment: Mutex<u64>,
    streams: RwLock<BTreeMap<String, Arc<Stream>>>,
    /// Held while streams are added.
    ensuring: Mutex<()>,
}

impl Store {
    pub(super) fn open(path: &Path, persist: PersistMode) -> Result<Self, Error> {
        let shown = path.display().to_string();
        folders::create(path).map_err(|error| failure(&shown, &error.into()))?;
        let opened = Database::builder(path)
            .max_journaling_size(JOURNAL_BYTES_MAX)
            .cache_size(CACHE_BYTES)
            .worker_threads(2)
            .open();
        let db = opened.map_err(|error| failure(&shown, &error))?;
        let fail = |error: fjall::Error| failure(&shown, &error);
        let meta = db.keyspace(META, KeyspaceCreateOptions::default).map_err(fail)?;
        let id = match meta.get(UUID_KEY).map_err(fail)? {
            Some(id) => String::from_utf8_lossy(&id).into_owned(),
            None => {
                let id = uuid::Uuid::now_v7().to_string();
                meta.insert(UUID_KEY, id.as_bytes()).map_err(fail)?;
                db.persist(PersistMode::SyncAll).map_err(fail)?;
                id
            }
        };
        let next_segment = match meta.get(NEXT_SEGMENT_KEY).map_err(fail)? {
            Some(value) => number(&value).ok_or_else(|| damaged(&shown, "the segment counter"))?,
            None => 0,
        };
        let store = Self {
            db,
            meta,
            keyspaces: path.join(KEYSPACES),
            path: shown,
            id,
            persist,
            write_failure: OnceLock::new(),
            next_segment: Mutex::new(next_segment),
            streams: RwLock::default(),
            ensuring: Mutex::default(),
        };
        let streams = store.recover()?;
        store.sync_keyspace_names()?;
        *store.streams.write().unwrap_or_else(PoisonError::into_inner) = streams;
        Ok(store)
    }

    /// Reads what `meta` says, drops the keyspaces it does not name.
    fn recover(&self) -> Result<BTreeMap<String, Arc<Stream>>, Error> {
        let mut named = HashSet::from([META.to_owned()]);
        let mut streams = BTreeMap::new();
        for entry in self.meta.prefix(STREAM_PREFIX) {
            let (key, value) = entry.into_inner().map_err(|e| self.failure(&e))?;
            let name = String::from_utf8_lossy(&key[STREAM_PREFIX.len()..]).into_owned();
            let (stream_number, count) = stream_entry(&value)
                .ok_or_else(|| damaged(&self.path, &format!("the entry of stream {name:?}")))?;
            let mut partitions = Vec::new();
            for partition in 0..count {
                let log = self.recover_partition(&name, stream_number, partition)?;
                let keyspaces = log.segments.iter().map(|s| s.keyspace.name().to_string());
                named.extend(keyspaces);
                partitions.push(Mutex::new(log));
            }
            let stream = Stream { name: name.clone(), number: stream_number, partitions };
            streams.insert(name, Arc::new(stream));
        }
        for name in self.db.list_keyspace_names() {
            if !named.contains(&*name) {
                let keyspace = self.keyspace(&name).map_err(|e| self.failure(&e))?;
                self.db.delete_keyspace(keyspace).map_err(|e| self.failure(&e))?;
            }
        }
        Ok(streams)
    }

    fn recover_partition(
        &self,
        stream: &str,
        stream_number: u32,
        partition: Partition,
    ) -> Result<PartitionLog, Error> {
        let mut log = PartitionLog::default();
        let prefix = segment_key(stream_number, partition, None);
        for entry in self.meta.prefix(&prefix) {
            let (key, value) = entry.into_inner().map_err(|e| self.failure(&e))?;
            let bad = || damaged(&self.path, &format!("a segment entry of {stream}/{partition}"));
            let base = number(&key[prefix.len()..]).ok_or_else(bad)?;
            let base = Offset::try_from(base).map_err(|_| bad())?;
            let segment_number = number(&value).ok_or_else(bad)?;
            let name = keyspace_name(stream_number, partition, segment_number);
            if !self.db.keyspace_exists(&name) {
                return Err(damaged(&self.path, &format!("{stream}/{partition}: {name} is gone")));
            }
            let keyspace = self.keyspace(&name).map_err(|e| self.failure(&e))?;
            log.segments.push(Segment { number: segment_number, base, bytes: 0, keyspace });
        }
        if let Some(last) = log.segments.last_mut() {
            let at = || format!("{stream}/{partition} from offset {}", last.base);
            let (_, value) = last
                .keyspace
                .last_key_value()
                .ok_or_else(|| damaged(&self.path, &format!("{}: no block", at())))?
                .into_inner()
                .map_err(|e| self.failure(&e))?;
            let block = Block::open(Bytes::from_owner(value.clone()))
                .map_err(|what| damaged(&self.path, &format!("{}: last block: {what}", at())))?;
            last.bytes = block.header.bytes_before + value.len() as u64;
            log.end = block.header.end();
            log.last_timestamp_us = block.header.timestamp_us;
        }
        Ok(log)
    }

    pub(super) fn stream(&self, name: &str) -> Result<Arc<Stream>, Error> {
        let streams = self.streams.read().unwrap_or_else(PoisonError::into_inner);
        streams.get(name).cloned().ok_or_else(|| Error::UnknownStream(name.to_owned()))
    }

    /// Adds streams that are not there. Blocking.
    pub(super) fn ensure(&self, wanted: &[StreamSpec]) -> Result<(), Error> {
        let _one_at_a_time = locked(&self.ensuring);
        let mut known = self.streams.read().unwrap_or_else(PoisonError::into_inner).clone();
        let mut batch = self.db.batch().durability(Some(PersistMode::SyncAll));
        for spec in wanted {
            if let Some(stream) = known.get(&spec.name) {
                let existing = stream.partition_count();
                if existing != spec.partitions {
                    return Err(Error::PartitionCount {
                        stream: spec.name.clone(),
                        existing,
                        wanted: spec.partitions,
                    });
                }
                continue;
            }
            let stream_number = known.values().map(|stream| stream.number + 1).max().unwrap_or(0);
            let mut value = stream_number.to_be_bytes().to_vec();
            value.extend_from_slice(&spec.partitions.to_be_bytes());
            batch.insert(&self.meta, [STREAM_PREFIX, spec.name.as_bytes()].concat(), value);
            let partitions = (0..spec.partitions).map(|_| Mutex::default()).collect();
            let stream = Stream { name: spec.name.clone(), number: stream_number, partitions };
            known.insert(spec.name.clone(), Arc::new(stream));
        }
        batch.commit().map_err(|e| self.not_written(&e))?;
        *self.streams.write().unwrap_or_else(PoisonError::into_inner) = known;
        Ok(())
    }

    /// A new segment; its entry is added to `batch`, to become true with its first block.
    pub(super) fn new_segment(
        &self,
        batch: &mut fjall::OwnedWriteBatch,
        stream: &Stream,
        partition: Partition,
        base: Offset,
    ) -> Result<Segment, Error> {
        let mut next = locked(&self.next_segment);
        let number = *next;
        *next += 1;
        let keyspace = self.keyspace(&keyspace_name(stream.number, partition, number));
        let keyspace = keyspace.map_err(|e| self.not_written(&e))?;
        self.sync_keyspace_names()?;
        let key = segment_key(stream.number, partition, Some(base));
        batch.insert(&self.meta, key, number.to_be_bytes());
        batch.insert(&self.meta, NEXT_SEGMENT_KEY, next.to_be_bytes());
        Ok(Segment { number, base, bytes: 0, keyspace })
    }

    /// fjall syncs what is in the folder of a new keyspace, and not its name.
    fn sync_keyspace_names(&self) -> Result<(), Error> {
        match self.persist {
            PersistMode::Buffer => Ok(()),
            PersistMode::SyncData | PersistMode::SyncAll => {
                folders::sync(&self.keyspaces).map_err(|error| self.not_written(&error.into()))
            }
        }
    }

    fn keyspace(&self, name: &str) -> fjall::Result<Keyspace> {
        let options = || KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES_MAX);
        self.db.keyspace(name, options)
    }

    /// Drops the segments whose records are all below the one at `through`. The segment of
    /// `through` stays: whoever stored that position compares the record there. Blocking.
    pub(super) fn trim(
        &self,
        stream: &Stream,
        partition: Partition,
        through: Offset,
    ) -> Result<(), Error> {
        let dropped: Vec<Segment> = {
            let Some(mut log) = stream.partition(partition) else {
                return Err(Error::UnknownStream(format!("{}/{partition}", stream.name)));
            };
            let kept_from = log.segment_of(through.min(log.end - 1)).unwrap_or(0);
            log.segments.drain(..kept_from).collect()
        };
        if dropped.is_empty() {
            return Ok(());
        }
        let mut batch = self.db.batch().durability(Some(PersistMode::SyncAll));
        for segment in &dropped {
            let key = segment_key(stream.number, partition, Some(segment.base));
            batch.remove(&self.meta, key);
        }
        batch.commit().map_err(|e| self.not_written(&e))?;
        for segment in dropped {
            self.db.delete_keyspace(segment.keyspace).map_err(|e| self.failure(&e))?;
        }
        Ok(())
    }

    /// Records from `from` on, below the durable end: about `max_bytes` of payload, at least one
    /// record where there is one. Returns them with their bytes. Blocking.
    pub(super) fn read(
        &self,
        stream: &Stream,
        partition: Partition,
        from: Offset,
        max_bytes: usize,
        out: &mut Vec<LogRecord>,
    ) -> Result<usize, Error> {
        let (segments, end) = {
            let Some(log) = stream.partition(partition) else {
                return Err(Error::UnknownStream(format!("{}/{partition}", stream.name)));
            };
            if from >= log.end {
                return Ok(0);
            }
            let Some(first) = log.segment_of(from) else {
                let start = log.extent().start;
                let stream = stream.name.clone();
                return Err(Error::Gap { stream, partition, wanted: from, start });
            };
            let ahead = log.segments.iter().skip(first).take(READ_SEGMENTS_MAX);
            (ahead.cloned().collect::<Vec<_>>(), log.end)
        };
        let (mut next, mut taken) = (from, 0);
        for segment in segments {
            let first = match segment.keyspace.range(..=next.to_be_bytes()).next_back() {
                Some(entry) => entry.key().map_err(|e| self.failure(&e))?,
                None => next.to_be_bytes().into(),
            };
            for entry in segment.keyspace.range(first..) {
                if next >= end || (taken > 0 && taken >= max_bytes) {
                    return Ok(taken);
                }
                let (_, value) = entry.into_inner().map_err(|e| self.failure(&e))?;
                let damaged = |what: &str| {
                    let place = format!("{}/{partition} at offset {next}", stream.name);
                    damaged(&self.path, &format!("{place}: {what}"))
                };
                let block = open_block(&segment, value).map_err(damaged)?;
                if block.header.base > next || block.header.end() <= next {
                    return Err(damaged("a block is missing"));
                }
                let block_end = block.header.end();
                taken += block
                    .read(partition, next, max_bytes.saturating_sub(taken), out)
                    .map_err(damaged)?;
                next = out.last().map_or(next, |record| record.offset + 1);
                if next < block_end {
                    // The budget ended inside the block; the next read goes on in it.
                    return Ok(taken);
                }
            }
        }
        Ok(taken)
    }

    pub(super) fn failure(&self, error: &fjall::Error) -> Error {
        failure(&self.path, error)
    }

    /// The error of a write that failed, which is the last one: what became of it is unknown, and
    /// fjall takes no other.
    pub(super) fn not_written(&self, error: &fjall::Error) -> Error {
        let cause = match failure(&self.path, error) {
            Error::Unavailable { reason, .. } | Error::Damaged(reason) => reason,
            other => other.to_string(),
        };
        let first = self.write_failure.get_or_init(|| format!("{NOT_WRITTEN}: {cause}; {MEND}"));
        Error::Unavailable { path: self.path.clone(), reason: first.clone() }
    }

    /// Why nothing is written any more.
    pub(super) fn write_failure(&self) -> Option<&str> {
        self.write_failure.get().map(String::as_str)
    }
}

fn open_block(segment: &Segment, value: fjall::UserValue) -> Result<Block, &'static str> {
    let block = Block::open(Bytes::from_owner(value))?;
    let Header { segment: number, .. } = block.header;
    if number == segment.number { Ok(block) } else { Err("a block belongs to another segment") }
}

fn failure(path: &str, error: &fjall::Error) -> Error {
    let reason = match error {
        fjall::Error::Locked => {
            "another process has it open: stop that process or use another data directory".into()
        }
        fjall::Error::Poisoned => "an earlier write failed: restart, and look at the disk".into(),
        fjall::Error::Io(error) => error.to_string(),
        fjall::Error::Storage(storage) => match storage {
            fjall::LsmError::Io(error) => error.to_string(),
            other => return Error::Damaged(format!("{path}: {other}")),
        },
        other => return Error::Damaged(format!("{path}: {other}")),
    };
    Error::Unavailable { path: path.to_owned(), reason }
}

fn damaged(path: &str, what: &str) -> Error {
    Error::Damaged(format!("{path}: {what}"))
}

fn keyspace_name(stream: u32, partition: Partition, segment: u64) -> String {
    format!("log-{stream}-{partition}-{segment}")
}

fn segment_key(stream: u32, partition: Partition, base: Option<Offset>) -> Vec<u8> {
    let mut key = SEGMENT_PREFIX.to_vec();
    key.extend_from_slice(&stream.to_be_bytes());
    key.extend_from_slice(&partition.to_be_bytes());
    key.extend(base.iter().flat_map(|base| base.to_be_bytes()));
    key
}

fn number(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}

fn stream_entry(bytes: &[u8]) -> Option<(u32, Partition)> {
    let bytes: &[u8; STREAM_ENTRY_LEN] = bytes.try_into().ok()?;
    let both = u64::from_be_bytes(*bytes);
    Some((u32::try_from(both >> 32).ok()?, Partition::try_from(both & 0xffff_ffff).ok()?))
}
