//! The one thread that writes: it takes what is queued, gives offsets, writes and syncs once for
//! all of it, then answers.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Condvar, Mutex, PoisonError},
};

use tokio::sync::{oneshot, watch};

use super::{
    block::{Body, Header},
    store::{Segment, Store, Stream, locked},
};
use crate::{
    domain::{Offset, Partition},
    log::{Error, OffsetRange},
    ops::{Clock, crash},
};

/// One append.
pub(super) struct Request {
    pub(super) stream: Arc<Stream>,
    /// In the order in which the partitions appear among the records.
    pub(super) parts: Vec<(Partition, Vec<Body>)>,
    pub(super) bytes: usize,
    pub(super) answer: oneshot::Sender<Result<Vec<OffsetRange>, Error>>,
}

/// Appends in the order in which they came.
///
/// It is not bounded itself: an append waits here with its records as it would wait in front of a
/// full queue, and those who append bound what they have under way.
#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<QueueState>,
    changed: Condvar,
}

#[derive(Default)]
struct QueueState {
    requests: VecDeque<Request>,
    closed: bool,
    /// Why nothing is written any more.
    failure: Option<String>,
}

impl Queue {
    pub(super) fn push(&self, request: Request, path: &str) -> Result<(), Error> {
        let mut state = locked(&self.state);
        if let Some(reason) = &state.failure {
            return Err(Error::Unavailable { path: path.to_owned(), reason: reason.clone() });
        }
        if state.closed {
            return Err(Error::Closed);
        }
        state.requests.push_back(request);
        self.changed.notify_one();
        Ok(())
    }

    pub(super) fn close(&self) {
        locked(&self.state).closed = true;
        self.changed.notify_all();
    }

    /// Waits for requests and takes them, up to about `max_bytes`. `None`: closed and empty.
    fn take(&self, max_bytes: usize) -> Option<Vec<Request>> {
        let mut state = locked(&self.state);
        while state.requests.is_empty() {
            if state.closed {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let mut group = Vec::new();
        let mut bytes = 0;
        while bytes < max_bytes
            && let Some(request) = state.requests.pop_front()
        {
            bytes += request.bytes;
            group.push(request);
        }
        Some(group)
    }

    /// From now on every append is refused; returns those that are queued.
    fn fail(&self, reason: &str) -> VecDeque<Request> {
        let mut state = locked(&self.state);
        state.failure = Some(reason.to_owned());
        std::mem::take(&mut state.requests)
    }
}

pub(super) struct Writer {
    pub(super) store: Arc<Store>,
    pub(super) queue: Arc<Queue>,
    pub(super) clock: Clock,
    pub(super) segment_bytes: u64,
    pub(super) group_bytes_max: usize,
    /// Woken when more is durable.
    pub(super) durable: Arc<watch::Sender<()>>,
}

/// Where a partition stands while a group is put together.
struct Staged {
    stream: Arc<Stream>,
    partition: Partition,
    end: Offset,
    timestamp_us: i64,
    active: Option<Segment>,
    /// Segments begun in this group before `active`, and whether `active` is one of them.
    sealed: Vec<Segment>,
    is_active_new: bool,
}

type Answer = (oneshot::Sender<Result<Vec<OffsetRange>, Error>>, Vec<OffsetRange>);

impl Writer {
    /// Works until the queue is closed and empty.
    pub(super) fn run(self) {
        while let Some(group) = self.queue.take(self.group_bytes_max) {
            let (mut answers, mut refused) = (Vec::with_capacity(group.len()), Vec::new());
            match self.commit(group, &mut answers, &mut refused) {
                Ok(()) => {
                    self.durable.send_replace(());
                    for (answer, ranges) in answers {
                        // Whoever asked may be gone by now.
                        answer.send(Ok(ranges)).ok();
                    }
                }
                Err(error) => {
                    tracing::error!(path = self.store.path, %error, "the log stopped writing");
                    let reason = match error {
                        Error::Unavailable { reason, .. } => reason,
                        other => other.to_string(),
                    };
                    let queued = self.queue.fail(&reason);
                    refused.extend(queued.into_iter().map(|request| request.answer));
                    refused.extend(answers.into_iter().map(|(answer, _)| answer));
                    for answer in refused {
                        let (path, reason) = (self.store.path.clone(), reason.clone());
                        answer.send(Err(Error::Unavailable { path, reason })).ok();
                    }
                }
            }
        }
    }

    /// Writes a group as one atomic, synced batch, then makes it visible. On an error the answers
    /// of the whole group stand in `answers` and `refused`.
    fn commit(
        &self,
        group: Vec<Request>,
        answers: &mut Vec<Answer>,
        refused: &mut Vec<oneshot::Sender<Result<Vec<OffsetRange>, Error>>>,
    ) -> Result<(), Error> {
        let now = self.clock.now_us();
        let mut batch = self.store.db.batch().durability(Some(self.store.persist));
        let mut staged: HashMap<(u32, Partition), Staged> = HashMap::new();
        let mut failed = None;
        for Request { stream, parts, answer, .. } in group {
            if failed.is_some() {
                refused.push(answer);
                continue;
            }
            let mut ranges = Vec::with_capacity(parts.len());
            for (partition, bodies) in parts {
                let key = (stream.number, partition);
                let at = staged.entry(key).or_insert_with(|| stage(&stream, partition, now));
                let first = at.end;
                for body in bodies {
                    if let Err(error) = self.add(&mut batch, at, body) {
                        failed = Some(error);
                    }
                }
                ranges.push(OffsetRange { partition, first, last: at.end - 1 });
            }
            answers.push((answer, ranges));
        }
        if let Some(error) = failed {
            return Err(error);
        }
        crash::point("log.enqueued");
        batch.commit().map_err(|error| self.store.not_written(&error))?;
        staged.into_values().for_each(publish);
        Ok(())
    }

    fn add(
        &self,
        batch: &mut fjall::OwnedWriteBatch,
        at: &mut Staged,
        body: Body,
    ) -> Result<(), Error> {
        let len = body.len() as u64;
        let is_full = |s: &Segment| s.bytes > 0 && s.bytes + len > self.segment_bytes;
        if at.active.as_ref().is_none_or(is_full) {
            let segment = self.store.new_segment(batch, &at.stream, at.partition, at.end)?;
            if let Some(full) = at.active.replace(segment)
                && at.is_active_new
            {
                at.sealed.push(full);
            }
            at.is_active_new = true;
        }
        let Some(segment) = at.active.as_mut() else { return Ok(()) };
        let header = Header {
            segment: segment.number,
            base: at.end,
            timestamp_us: at.timestamp_us,
            bytes_before: segment.bytes,
            count: body.count,
        };
        batch.insert(&segment.keyspace, at.end.to_be_bytes(), body.seal(&header));
        segment.bytes += len;
        at.end = header.end();
        Ok(())
    }
}

fn stage(stream: &Arc<Stream>, partition: Partition, now_us: i64) -> Staged {
    let mut staged = Staged {
        stream: Arc::clone(stream),
        partition,
        end: 0,
        timestamp_us: now_us,
        active: None,
        sealed: Vec::new(),
        is_active_new: false,
    };
    if let Some(log) = stream.partition(partition) {
        staged.end = log.end;
        staged.active = log.segments.last().cloned();
        staged.timestamp_us = now_us.max(log.last_timestamp_us);
    }
    staged
}

/// Makes a written group visible.
fn publish(staged: Staged) {
    let Some(mut log) = staged.stream.partition(staged.partition) else { return };
    log.end = staged.end;
    log.last_timestamp_us = staged.timestamp_us;
    let Some(active) = staged.active else { return };
    if staged.is_active_new {
        log.segments.extend(staged.sealed);
        log.segments.push(active);
    } else if let Some(last) = log.segments.last_mut() {
        last.bytes = active.bytes;
    }
}
