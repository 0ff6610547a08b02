//! Follows streams: reads what is durable, waits for more.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;

use super::store::{Store, Stream};
use crate::{
    domain::{Offset, Partition, Positions},
    log::{Chunk, Error, Reader},
};

#[derive(Clone)]
struct Cursor {
    stream: Arc<Stream>,
    partition: Partition,
    next: Offset,
}

impl Cursor {
    fn has_more(&self) -> bool {
        self.stream.partition(self.partition).is_some_and(|log| self.next < log.end)
    }
}

pub(super) struct Follower {
    store: Arc<Store>,
    durable: watch::Receiver<()>,
    cursors: Vec<Cursor>,
    /// The cursor that reads first in the next poll.
    turn: usize,
}

impl Follower {
    pub(super) fn open(
        store: Arc<Store>,
        durable: watch::Receiver<()>,
        streams: &[String],
        after: &Positions,
    ) -> Result<Self, Error> {
        let mut cursors = Vec::new();
        for name in streams {
            let stream = store.stream(name)?;
            for (partition, extent) in (0..).zip(stream.extents()) {
                let stream = Arc::clone(&stream);
                let Some(last) = after.get(name, partition) else {
                    cursors.push(Cursor { stream, partition, next: extent.start });
                    continue;
                };
                let name = name.clone();
                if last >= extent.end {
                    let (wanted, end) = (last, extent.end);
                    return Err(Error::Truncated { stream: name, partition, wanted, end });
                }
                let (wanted, start) = (last + 1, extent.start);
                if wanted < start {
                    return Err(Error::Gap { stream: name, partition, wanted, start });
                }
                cursors.push(Cursor { stream, partition, next: wanted });
            }
        }
        Ok(Self { store, durable, cursors, turn: 0 })
    }
}

#[async_trait::async_trait]
impl Reader for Follower {
    async fn poll(&mut self, max_bytes: usize, max_wait: Duration) -> Result<Vec<Chunk>, Error> {
        let deadline = tokio::time::Instant::now() + max_wait;
        loop {
            self.durable.mark_unchanged();
            if self.cursors.iter().any(Cursor::has_more) {
                break;
            }
            match tokio::time::timeout_at(deadline, self.durable.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(Error::Closed),
                Err(_elapsed) => return Ok(Vec::new()),
            }
        }
        // The read moves copies: a poll that is dropped or fails leaves the position as it was.
        let (store, mut cursors, turn) = (Arc::clone(&self.store), self.cursors.clone(), self.turn);
        let reading = tokio::task::spawn_blocking(move || {
            read(&store, &mut cursors, turn, max_bytes).map(|chunks| (cursors, chunks))
        });
        let (cursors, chunks) = reading.await.map_err(|_| Error::Closed)??;
        self.turn = (turn + 1) % cursors.len().max(1);
        self.cursors = cursors;
        Ok(chunks)
    }
}

/// Each partition that has more gets an equal share of what is left of the budget, so that one with
/// a long backlog does not starve the others.
fn read(
    store: &Store,
    cursors: &mut [Cursor],
    turn: usize,
    max_bytes: usize,
) -> Result<Vec<Chunk>, Error> {
    let count = cursors.len();
    let order: Vec<usize> =
        (0..count).map(|i| (turn + i) % count).filter(|i| cursors[*i].has_more()).collect();
    let mut chunks: Vec<Chunk> = Vec::new();
    let mut left = max_bytes;
    for (done, i) in order.iter().enumerate() {
        if left == 0 && done > 0 {
            break;
        }
        let cursor = &mut cursors[*i];
        let name = &cursor.stream.name;
        let at = chunks.iter().position(|chunk| chunk.stream == *name).unwrap_or_else(|| {
            chunks.push(Chunk { stream: name.clone(), records: Vec::new() });
            chunks.len() - 1
        });
        let records = &mut chunks[at].records;
        let before = records.len();
        let share = left / (order.len() - done);
        let taken = store.read(&cursor.stream, cursor.partition, cursor.next, share, records)?;
        left = left.saturating_sub(taken);
        if records.len() > before
            && let Some(last) = records.last()
        {
            cursor.next = last.offset + 1;
        }
    }
    Ok(chunks)
}
