//! A place in a consumer group, which says which partitions are ours.
//!
//! The consumer here is a member and nothing else: what it is assigned stays paused, and records
//! are read by a [`Follower`] at the offsets that the tables name. So its thread is always free to
//! be polled, however long a commit takes, and no record comes from a place where nobody asked for
//! it. The group protocol is the classic one with cooperative rebalancing (KIP-429) and, where an
//! instance has a name, static membership (KIP-345).

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use rdkafka::{
    ClientContext, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext},
    error::{KafkaError, RDKafkaErrorCode},
    types::RDKafkaRespErr,
};

use super::{
    KafkaLog,
    cluster::{Place, refused},
    health::{Context, Health},
    reader::Follower,
    settings::url,
};
use crate::{
    domain::{Assignment, Positions},
    log::{Asked, Error, Membership, Reader, part::Part},
};

/// How long the thread waits for an event, and a stop for the thread.
const POLL: Duration = Duration::from_millis(100);

type GroupConsumer = BaseConsumer<GroupContext>;

/// What the group's thread and the processor share.
struct Shared {
    /// Topic → stream.
    streams: BTreeMap<String, String>,
    state: Mutex<State>,
    closing: AtomicBool,
}

#[derive(Default)]
struct State {
    part: Part,
    /// Why there is no membership any more.
    failed: Option<String>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn assignment(&self, list: &TopicPartitionList) -> Assignment {
        let elements = list.elements();
        let ours = elements.iter().filter_map(|element| {
            let stream = self.streams.get(element.topic())?;
            Some((stream.as_str(), element.partition().try_into().ok()?))
        });
        ours.collect()
    }

    /// The partitions as the group names them.
    fn list(&self, partitions: &Assignment) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for (topic, stream) in &self.streams {
            for (_, partition) in partitions.iter().filter(|(of, _)| of == stream) {
                list.add_partition(topic, i32::try_from(partition).unwrap_or(i32::MAX));
            }
        }
        list
    }
}

/// What librdkafka calls back.
struct GroupContext {
    health: Context,
    shared: Arc<Shared>,
}

impl ClientContext for GroupContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.health.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.health.error(error, reason);
    }
}

impl ConsumerContext for GroupContext {
    /// Only takes note: the processor answers, once it has committed or loaded what it must. The
    /// group waits for it as long as `rebalance_timeout_ms` says.
    fn rebalance(
        &self,
        consumer: &GroupConsumer,
        event: RDKafkaRespErr,
        list: &mut TopicPartitionList,
    ) {
        let partitions = self.shared.assignment(list);
        let is_take = event == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        let is_release = event == RDKafkaRespErr::RD_KAFKA_RESP_ERR__REVOKE_PARTITIONS
            && !consumer.assignment_lost();
        let mut state = self.shared.state();
        if self.shared.closing.load(Ordering::SeqCst) {
            tracing::debug!(%partitions, "the member leaves its group");
            state.part.clear();
        } else if is_take {
            tracing::debug!(%partitions, "the group gives partitions");
            state.part.ask(Asked::Take(partitions));
            return;
        } else if is_release {
            tracing::debug!(%partitions, "the group wants partitions back");
            state.part.ask(Asked::Release(partitions));
            return;
        } else {
            tracing::warn!(%partitions, "the group took partitions away");
            state.part.ask(Asked::Lost);
        }
        drop(state);
        if let Err(error) = consumer.incremental_unassign(list) {
            tracing::warn!(%error, "partitions cannot be given up");
        }
    }
}

pub(super) struct Member {
    log: Arc<KafkaLog>,
    places: Vec<Arc<Place>>,
    shared: Arc<Shared>,
    consumer: Mutex<Option<Arc<GroupConsumer>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Member {
    pub(super) fn join(log: &Arc<KafkaLog>, streams: &[String]) -> Result<Self, Error> {
        let places: Result<Vec<_>, _> = streams.iter().map(|stream| log.place(stream)).collect();
        let places = places?;
        let named = places.iter().map(|place| (place.topic.clone(), place.stream.clone()));
        let shared = Arc::new(Shared {
            streams: named.collect(),
            state: Mutex::default(),
            closing: AtomicBool::new(false),
        });
        let failed = |e: KafkaError| refused(&log.brokers, &e);
        let health: Arc<Health> = Arc::clone(&log.health);
        let context = GroupContext { health: Context(health), shared: Arc::clone(&shared) };
        let config = log.settings.member(&log.brokers)?;
        let consumer: GroupConsumer = config.create_with_context(context).map_err(failed)?;
        let topics: Vec<&str> = places.iter().map(|place| place.topic.as_str()).collect();
        consumer.subscribe(&topics).map_err(failed)?;
        let consumer = Arc::new(consumer);
        let thread = {
            let (consumer, shared) = (Arc::clone(&consumer), Arc::clone(&shared));
            let named = std::thread::Builder::new().name("kafka-group".to_owned());
            named.spawn(move || attend(&consumer, &shared)).map_err(|e| Error::Unavailable {
                path: url(&log.brokers),
                reason: format!("its group thread does not start: {e}"),
            })?
        };
        Ok(Self {
            log: Arc::clone(log),
            places,
            shared,
            consumer: Mutex::new(Some(consumer)),
            thread: Mutex::new(Some(thread)),
        })
    }

    fn consumer(&self) -> Result<Arc<GroupConsumer>, Error> {
        let consumer = self.consumer.lock().unwrap_or_else(PoisonError::into_inner);
        consumer.clone().ok_or(Error::Closed)
    }

    fn failed(&self, error: &KafkaError) -> Error {
        Error::Unreachable { path: url(&self.log.brokers), reason: error.to_string() }
    }
}

/// Serves the group until the membership ends.
fn attend(consumer: &GroupConsumer, shared: &Shared) {
    while !shared.closing.load(Ordering::SeqCst) {
        // A record can only be one that was on its way before its partition was paused.
        let Some(Err(error)) = consumer.poll(POLL) else { continue };
        let code = error.rdkafka_error_code();
        let reason = match code {
            Some(RDKafkaErrorCode::Fatal | RDKafkaErrorCode::FencedInstanceId) => {
                let fatal = consumer.client().fatal_error();
                fatal
                    .map_or_else(|| error.to_string(), |(code, reason)| format!("{code}: {reason}"))
            }
            Some(RDKafkaErrorCode::GroupAuthorizationFailed) => error.to_string(),
            _ => {
                tracing::debug!(%error, "kafka group");
                continue;
            }
        };
        shared.state().failed.get_or_insert(reason);
    }
}

#[async_trait::async_trait]
impl Membership for Member {
    fn asked(&self) -> Result<Option<Asked>, Error> {
        let state = self.shared.state();
        match &state.failed {
            Some(reason) => Err(Error::Refused {
                path: url(&self.log.brokers),
                reason: format!(
                    "the group {:?} does not keep this member: {reason}; every process of a group \
                     needs a kafka.group_instance of its own, or none",
                    self.log.settings.group
                ),
            }),
            None => Ok(state.part.next().cloned()),
        }
    }

    fn held(&self) -> Assignment {
        self.shared.state().part.held().clone()
    }

    fn has_joined(&self) -> bool {
        self.shared.state().part.has_joined()
    }

    fn take(&self, partitions: &Assignment) -> Result<bool, Error> {
        let list = self.shared.list(partitions);
        let mut ends = TopicPartitionList::new();
        for element in list.elements() {
            let end = rdkafka::Offset::End;
            let added = ends.add_partition_offset(element.topic(), element.partition(), end);
            added.map_err(|e| self.failed(&e))?;
        }
        let consumer = self.consumer()?;
        let asked = Asked::Take(partitions.clone());
        // Not let go in between: what the group takes away meanwhile it takes after this.
        let mut state = self.shared.state();
        if state.part.next() != Some(&asked) {
            return Ok(false);
        }
        consumer.incremental_assign(&ends).map_err(|e| self.failed(&e))?;
        consumer.pause(&list).map_err(|e| self.failed(&e))?;
        Ok(state.part.answer(&asked))
    }

    fn release(&self, partitions: &Assignment) -> Result<(), Error> {
        let (consumer, list) = (self.consumer()?, self.shared.list(partitions));
        let asked = Asked::Release(partitions.clone());
        let mut state = self.shared.state();
        if state.part.next() == Some(&asked) {
            consumer.incremental_unassign(&list).map_err(|e| self.failed(&e))?;
            state.part.answer(&asked);
        }
        Ok(())
    }

    fn forget(&self) {
        self.shared.state().part.answer(&Asked::Lost);
    }

    async fn reader(
        &self,
        partitions: &Assignment,
        after: &Positions,
    ) -> Result<Box<dyn Reader>, Error> {
        let log = Arc::clone(&self.log);
        Ok(Box::new(Follower::open(log, &self.places, Some(partitions), after).await?))
    }

    fn report(&self, positions: &Positions) {
        let (held, mut list) = (self.held(), TopicPartitionList::new());
        for (topic, stream) in &self.shared.streams {
            let ours = positions
                .iter()
                .filter(|(of, partition, _)| of == stream && held.holds(stream, *partition));
            for (_, partition, offset) in ours {
                let next = rdkafka::Offset::Offset(offset + 1);
                let number = i32::try_from(partition).unwrap_or(i32::MAX);
                list.add_partition_offset(topic, number, next).ok();
            }
        }
        let Ok(consumer) = self.consumer() else { return };
        if list.count() > 0
            && let Err(error) = consumer.commit(&list, CommitMode::Async)
        {
            tracing::debug!(%error, "the group was not told how far this member is");
        }
    }

    async fn leave(&self) {
        self.shared.closing.store(true, Ordering::SeqCst);
        let consumer = self.consumer.lock().unwrap_or_else(PoisonError::into_inner).take();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let left = tokio::task::spawn_blocking(move || {
            let ended = thread.is_none_or(|thread| thread.join().is_ok());
            // The last to hold it says goodbye.
            drop(consumer);
            ended
        });
        if !matches!(left.await, Ok(true)) {
            tracing::error!("kafka's group thread panicked");
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::SeqCst);
    }
}
