//! Records out of Kafka: partitions assigned by hand, each with a queue of its own.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use rdkafka::{
    Message, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _, base_consumer::PartitionQueue},
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
    message::{BorrowedMessage, Headers as _},
};
use tokio::sync::Notify;

use super::{
    IDENTITY_HEADER, KafkaLog,
    cluster::{Place, is_gone, is_passing, refused},
    health::Context,
};
use crate::{
    domain::{Assignment, Offset, Partition, Positions},
    log::{Chunk, Error, LogRecord, Reader},
};

/// Whether topics still have the partitions that are read is looked at this often.
const CHECK_PARTITIONS: Duration = Duration::from_secs(30);

/// A record as Kafka holds it.
pub(super) fn log_record(message: &BorrowedMessage<'_>, arena: &mut Arena) -> LogRecord {
    let mut identity = None;
    let mut headers = Vec::new();
    for header in message.headers().into_iter().flat_map(|headers| headers.iter()) {
        let value = header.value.map(|value| arena.copy(value));
        if header.key == IDENTITY_HEADER {
            identity = value;
        } else {
            headers.push((header.key.to_owned(), value));
        }
    }
    LogRecord {
        partition: Partition::try_from(message.partition()).unwrap_or_default(),
        offset: message.offset(),
        timestamp_us: message.timestamp().to_millis().unwrap_or_default().saturating_mul(1_000),
        key: message.key().map(|key| arena.copy(key)),
        identity,
        headers,
        payload: message.payload().map(|payload| arena.copy(payload)),
    }
}

/// Memory for many records at once: what is read from a partition is processed together.
#[derive(Default)]
pub(super) struct Arena(BytesMut);

impl Arena {
    const BYTES: usize = 256 * 1024;

    fn copy(&mut self, bytes: &[u8]) -> Bytes {
        if self.0.capacity() < bytes.len() {
            self.0 = BytesMut::with_capacity(Self::BYTES.max(bytes.len()));
        }
        self.0.extend_from_slice(bytes);
        self.0.split().freeze()
    }
}

struct Cursor {
    place: Arc<Place>,
    partition: Partition,
    next: Offset,
    queue: PartitionQueue<Context>,
    /// Came before the partition had a queue of its own.
    early: VecDeque<LogRecord>,
    arena: Arena,
}

pub(super) struct Follower {
    log: Arc<KafkaLog>,
    // Before the consumer, which outlives its queues.
    cursors: Vec<Cursor>,
    consumer: Arc<BaseConsumer<Context>>,
    arrived: Arc<Notify>,
    /// The cursor that reads first in the next poll.
    turn: usize,
    checked: Instant,
}

impl Follower {
    /// Reads the partitions of `topics`, or `only` some of them.
    pub(super) async fn open(
        log: Arc<KafkaLog>,
        topics: &[Arc<Place>],
        only: Option<&Assignment>,
        after: &Positions,
    ) -> Result<Self, Error> {
        let mut places = Vec::new();
        let mut assignment = TopicPartitionList::new();
        for place in topics {
            let stream = &place.stream;
            let wanted = |p| only.is_none_or(|only| only.holds(stream, p));
            let extents = (0..).zip(log.extents_of(place).await?);
            for (partition, extent) in extents.filter(|(partition, _)| wanted(*partition)) {
                let next = match after.get(stream, partition) {
                    None => extent.start,
                    Some(wanted) if wanted >= extent.end => {
                        let (stream, end) = (stream.clone(), extent.end);
                        return Err(Error::Truncated { stream, partition, wanted, end });
                    }
                    Some(last) if last + 1 < extent.start => {
                        let (wanted, start) = (last + 1, extent.start);
                        return Err(Error::Gap {
                            stream: stream.clone(),
                            partition,
                            wanted,
                            start,
                        });
                    }
                    Some(last) => last + 1,
                };
                let (number, at) = (number(partition), rdkafka::Offset::Offset(next));
                let added = assignment.add_partition_offset(&place.topic, number, at);
                added.map_err(|e| log.cluster.failed(place, &e))?;
                places.push((Arc::clone(place), partition, next));
            }
        }
        let arrived = Arc::new(Notify::new());
        let mut consumer = log.consumer()?;
        let wake = Arc::clone(&arrived);
        consumer.set_nonempty_callback(move || wake.notify_one());
        let consumer = Arc::new(consumer);
        let wrong = |e: KafkaError| refused(&log.brokers, &e);
        consumer.assign(&assignment).map_err(wrong)?;
        let mut cursors = Vec::new();
        for (place, partition, next) in places {
            let queue = consumer.split_partition_queue(&place.topic, number(partition));
            let mut queue = queue.ok_or_else(|| Error::UnknownStream(place.stream.clone()))?;
            let wake = Arc::clone(&arrived);
            queue.set_nonempty_callback(move || wake.notify_one());
            let (early, arena) = (VecDeque::new(), Arena::default());
            cursors.push(Cursor { place, partition, next, queue, early, arena });
        }
        Ok(Self { log, cursors, consumer, arrived, turn: 0, checked: Instant::now() })
    }

    /// What did not come through a partition's queue.
    fn serve_main_queue(&mut self) -> Result<(), Trouble> {
        while let Some(event) = self.consumer.poll(Duration::ZERO) {
            match event {
                Ok(message) => {
                    let cursor = self.cursors.iter_mut().find(|cursor| {
                        cursor.place.topic == message.topic()
                            && number(cursor.partition) == message.partition()
                    });
                    if let Some(cursor) = cursor {
                        cursor.early.push_back(log_record(&message, &mut cursor.arena));
                    }
                }
                Err(error) => trouble(error, None)?,
            }
        }
        Ok(())
    }

    /// What has arrived, up to the budget; each partition gets an equal share of what is left.
    fn drain(&mut self, max_bytes: usize) -> Result<Vec<Chunk>, Trouble> {
        let count = self.cursors.len();
        let mut open: Vec<usize> = (0..count).map(|i| (self.turn + i) % count).collect();
        self.turn = (self.turn + 1) % count.max(1);
        let mut chunks: Vec<Chunk> = Vec::new();
        let mut left = max_bytes;
        let mut is_first = true;
        while !open.is_empty() && (left > 0 || is_first) {
            let (mut still_open, all) = (Vec::new(), open.len());
            for (done, i) in open.iter().enumerate() {
                let share = left / (all - done);
                if share == 0 && !is_first {
                    continue;
                }
                let cursor = &mut self.cursors[*i];
                let name = &cursor.place.stream;
                let at = chunks.iter().position(|chunk| chunk.stream == *name);
                let at = at.unwrap_or_else(|| {
                    chunks.push(Chunk { stream: name.clone(), records: Vec::new() });
                    chunks.len() - 1
                });
                let before = chunks[at].records.len();
                let taken = cursor.take(share, &mut chunks[at].records);
                let (bytes, has_more) = taken.map_err(|trouble| trouble.at(*i))?;
                left = left.saturating_sub(bytes);
                is_first &= chunks[at].records.len() == before;
                if has_more {
                    still_open.push(*i);
                }
            }
            if share_is_spent(left, still_open.len()) {
                break;
            }
            open = still_open;
        }
        chunks.retain(|chunk| !chunk.records.is_empty());
        Ok(chunks)
    }

    /// The error behind a reader's trouble.
    async fn explain(&self, trouble: Trouble) -> Error {
        let Trouble { code, cursor } = trouble;
        let cursors = self.cursors.iter().enumerate();
        let suspects = cursors.filter(|(i, _)| cursor.is_none_or(|at| at == *i));
        let suspects: Vec<&Cursor> = suspects.map(|(_, cursor)| cursor).collect();
        let Some(first) = suspects.first() else { return Error::Closed };
        let unexplained = self.log.cluster.failed(&first.place, &KafkaError::Global(code));
        if is_gone(code) {
            return unexplained;
        }
        for cursor in suspects {
            let Cursor { place, partition, next, .. } = cursor;
            let (stream, partition, next) = (place.stream.clone(), *partition, *next);
            match self.log.extent_of(place, partition).await {
                Err(error) => return error,
                Ok(extent) if next < extent.start => {
                    let (wanted, start) = (next, extent.start);
                    return Error::Gap { stream, partition, wanted, start };
                }
                Ok(extent) if next > extent.end => {
                    let (wanted, end) = (next - 1, extent.end);
                    return Error::Truncated { stream, partition, wanted, end };
                }
                Ok(_) => {}
            }
        }
        unexplained
    }

    /// A partition that was added behind our back would not be read.
    async fn check_partitions(&mut self) -> Result<(), Error> {
        if self.checked.elapsed() < CHECK_PARTITIONS {
            return Ok(());
        }
        self.checked = Instant::now();
        let mut places: Vec<&Arc<Place>> = self.cursors.iter().map(|c| &c.place).collect();
        places.dedup_by(|a, b| a.topic == b.topic);
        for place in places {
            match self.log.partitions_of(place).await {
                Ok(Some(existing)) if existing > place.partitions => {
                    let (stream, wanted) = (place.stream.clone(), place.partitions);
                    return Err(Error::PartitionCount { stream, existing, wanted });
                }
                // Not there, not all of them led, not answered: the reads tell.
                Ok(_) => {}
                Err(error) => tracing::debug!(%error, "partitions not checked"),
            }
        }
        Ok(())
    }
}

fn share_is_spent(left: usize, open: usize) -> bool {
    open == 0 || left / open == 0
}

/// What a client does not mend by itself.
struct Trouble {
    code: RDKafkaErrorCode,
    cursor: Option<usize>,
}

impl Trouble {
    fn at(self, cursor: usize) -> Self {
        Self { cursor: Some(cursor), ..self }
    }
}

fn trouble(error: KafkaError, cursor: Option<usize>) -> Result<(), Trouble> {
    if is_passing(&error) {
        return Ok(());
    }
    Err(Trouble { code: error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail), cursor })
}

impl Cursor {
    /// Takes records while fewer than `share` bytes are taken, but at least one. Returns the bytes
    /// and whether there may be more.
    fn take(&mut self, share: usize, out: &mut Vec<LogRecord>) -> Result<(usize, bool), Trouble> {
        let mut taken = 0;
        loop {
            let record = match self.early.pop_front() {
                Some(record) => record,
                None => match self.queue.poll(Duration::ZERO) {
                    None => return Ok((taken, false)),
                    Some(polled) => match received(polled, &mut self.arena)? {
                        Some(record) => record,
                        None => continue,
                    },
                },
            };
            taken += record.payload_len().max(1);
            self.next = record.offset + 1;
            out.push(record);
            if taken >= share {
                return Ok((taken, true));
            }
        }
    }
}

fn received(
    polled: KafkaResult<BorrowedMessage<'_>>,
    arena: &mut Arena,
) -> Result<Option<LogRecord>, Trouble> {
    match polled {
        Ok(message) => Ok(Some(log_record(&message, arena))),
        Err(error) => trouble(error, None).map(|()| None),
    }
}

fn number(partition: Partition) -> i32 {
    i32::try_from(partition).unwrap_or(i32::MAX)
}

#[async_trait::async_trait]
impl Reader for Follower {
    async fn poll(&mut self, max_bytes: usize, max_wait: Duration) -> Result<Vec<Chunk>, Error> {
        self.check_partitions().await?;
        let deadline = tokio::time::Instant::now() + max_wait;
        loop {
            // Nothing is awaited between taking records and returning them.
            let polled = self.serve_main_queue().and_then(|()| self.drain(max_bytes));
            match polled {
                Ok(chunks) if chunks.is_empty() => {}
                Ok(chunks) => return Ok(chunks),
                Err(trouble) => return Err(self.explain(trouble).await),
            }
            if tokio::time::timeout_at(deadline, self.arrived.notified()).await.is_err() {
                return Ok(Vec::new());
            }
        }
    }
}
