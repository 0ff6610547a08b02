//! Kafka as the log: one topic per stream, acks when all in-sync replicas have a record.
//!
//! Sources: librdkafka's `INTRODUCTION.md` and `CONFIGURATION.md` (idempotent producer, delivery
//! reports, error codes) and the Kafka protocol guide.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, RwLock},
    thread::JoinHandle,
    time::Duration,
};

use rdkafka::consumer::BaseConsumer;

use self::{
    cluster::{Cluster, Place, refused},
    group::Member,
    health::{Context, Health},
    producers::{Packed, Producers, supervise},
    reader::Follower,
    settings::url,
};
use crate::{
    domain::{Offset, Partition, Positions},
    log::{
        Error, Extent, Log, LogRecord, Membership, OffsetRange, Reader, Record, StreamSpec,
        partitioner,
    },
    ops::crash,
};

mod batch;
mod cluster;
mod group;
mod health;
mod probe;
mod producers;
mod reader;
mod settings;

pub use probe::{Copies, Seen, SeenTopic, TopicState, probe};
pub use settings::{CONSUMER_GUARANTEES, PRODUCER_GUARANTEES, Secret, Settings};

/// The header that carries an event's identity. Persisted in topics: must stay stable.
const IDENTITY_HEADER: &str = "sluice-id";

/// A stop waits so long for records that are under way.
const CLOSE: Duration = Duration::from_secs(5);
/// A new topic can be used after so long at most.
const TOPIC_READY: Duration = Duration::from_secs(20);
/// Without a delivery report, it is asked this often whether the topic is still there.
const TOPIC_ASKED_EVERY: Duration = Duration::from_secs(1);

/// A Kafka cluster as the log.
pub struct KafkaLog {
    brokers: String,
    settings: Settings,
    cluster_id: String,
    cluster: Arc<Cluster>,
    producers: Arc<Producers>,
    health: Arc<Health>,
    supervisor: Mutex<Option<JoinHandle<()>>>,
    streams: RwLock<BTreeMap<String, Stream>>,
}

#[derive(Clone)]
struct Stream {
    place: Arc<Place>,
    is_external: bool,
    /// Appends hand their records over one after the other, in the order in which they came.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// Held by the one append that asks whether the topic is still there.
    asking: Arc<tokio::sync::Mutex<()>>,
    /// Per partition, what was deleted last.
    trimmed: Arc<Mutex<BTreeMap<Partition, Offset>>>,
}

impl KafkaLog {
    /// Connects to a cluster. `brokers`: `HOST:PORT[,HOST:PORT]`.
    ///
    /// [`Error::Unreachable`] where no broker answers, [`Error::Refused`] where the settings or the
    /// credentials are not taken.
    pub async fn open(brokers: &str, settings: Settings) -> Result<Arc<Self>, Error> {
        let (health, signals) = Health::new();
        let cluster = Arc::new(Cluster::new(brokers, &settings, Arc::clone(&health))?);
        let cluster_id = blocking(brokers, &cluster, |cluster| cluster.id()).await?;
        health.set_down(None);
        let config = settings.producer(brokers)?;
        let (count, limit) = (settings.producers, settings.max_record_bytes);
        let producers = Producers::new(brokers, config, count, limit, Arc::clone(&health))?;
        let supervisor = supervise(
            Arc::clone(&cluster),
            Arc::clone(&producers),
            Arc::clone(&health),
            signals,
            cluster_id.clone(),
        );
        let supervisor = supervisor.map_err(|e| Error::Unavailable {
            path: url(brokers),
            reason: format!("its health thread does not start: {e}"),
        })?;
        Ok(Arc::new(Self {
            brokers: brokers.to_owned(),
            settings,
            cluster_id,
            cluster,
            producers,
            health,
            supervisor: Mutex::new(Some(supervisor)),
            streams: RwLock::default(),
        }))
    }

    /// Deletes the topics of all streams: for benchmarks, which leave nothing behind.
    pub async fn delete_topics(&self) -> Result<(), Error> {
        let streams = self.streams.read().unwrap_or_else(PoisonError::into_inner).clone();
        let topics: Vec<&str> =
            streams.values().map(|stream| stream.place.topic.as_str()).collect();
        self.cluster.delete_topics(&topics).await
    }

    fn stream(&self, name: &str) -> Result<Stream, Error> {
        let streams = self.streams.read().unwrap_or_else(PoisonError::into_inner);
        streams.get(name).cloned().ok_or_else(|| Error::UnknownStream(name.to_owned()))
    }

    fn place(&self, stream: &str) -> Result<Arc<Place>, Error> {
        self.stream(stream).map(|stream| stream.place)
    }

    fn consumer(&self) -> Result<BaseConsumer<Context>, Error> {
        let config = self.settings.consumer(&self.brokers)?;
        let made = config.create_with_context(Context(Arc::clone(&self.health)));
        made.map_err(|e| refused(&self.brokers, &e))
    }

    async fn extents_of(&self, place: &Arc<Place>) -> Result<Vec<Extent>, Error> {
        if let Some(reason) = self.health.reason_down() {
            return Err(Error::Unreachable { path: url(&self.brokers), reason });
        }
        let place = Arc::clone(place);
        blocking(&self.brokers, &self.cluster, move |cluster| cluster.extents(&place)).await
    }

    async fn extent_of(&self, place: &Arc<Place>, partition: Partition) -> Result<Extent, Error> {
        let place = Arc::clone(place);
        let ask = move |cluster: &Cluster| cluster.extent(&place, partition);
        blocking(&self.brokers, &self.cluster, ask).await
    }

    async fn partitions_of(&self, place: &Arc<Place>) -> Result<Option<Partition>, Error> {
        let place = Arc::clone(place);
        let ask = move |cluster: &Cluster| cluster.partitions(&place.topic);
        blocking(&self.brokers, &self.cluster, ask).await
    }

    async fn first_from(
        &self,
        stream: &str,
        partition: Partition,
        from: Offset,
    ) -> Result<Option<LogRecord>, Error> {
        let place = self.place(stream)?;
        if partition >= place.partitions {
            return Ok(None);
        }
        if let Some(reason) = self.health.reason_down() {
            return Err(Error::Unreachable { path: url(&self.brokers), reason });
        }
        let ask = move |cluster: &Cluster| cluster.first_from(&place, partition, from);
        blocking(&self.brokers, &self.cluster, ask).await
    }

    fn topic_of(&self, spec: &StreamSpec) -> String {
        self.settings.topic_of(spec)
    }

    /// Waits until the topic is not there any more: librdkafka goes on trying for as long as a
    /// record may take.
    async fn topic_went(&self, stream: &Stream) -> Error {
        loop {
            tokio::time::sleep(TOPIC_ASKED_EVERY).await;
            let Ok(_asking) = stream.asking.try_lock() else { continue };
            if matches!(self.partitions_of(&stream.place).await, Ok(None)) {
                let topic = &stream.place.topic;
                let reason = format!("topic {topic:?} does not exist any more");
                return Error::Unavailable { path: url(&self.brokers), reason };
            }
        }
    }

    /// Waits until a new topic has all its partitions.
    async fn wait_ready(&self, place: &Arc<Place>) -> Result<(), Error> {
        let deadline = tokio::time::Instant::now() + TOPIC_READY;
        loop {
            match self.partitions_of(place).await {
                Ok(Some(found)) if found == place.partitions => return Ok(()),
                Ok(_) | Err(Error::Unreachable { .. }) => {}
                Err(error) => return Err(error),
            }
            if tokio::time::Instant::now() >= deadline {
                let reason = format!("topic {:?} was created but is not ready", place.topic);
                return Err(Error::Unreachable { path: url(&self.brokers), reason });
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The records with their partitions. An oversize one refuses all.
    fn pack(&self, place: &Place, records: Vec<Record>) -> Result<Vec<Packed>, Error> {
        let limit = self.settings.max_record_bytes;
        let pack = |Record { key, identity, headers, payload }: Record| {
            let size = payload.len() + key.as_ref().map_or(0, bytes::Bytes::len);
            if size > limit {
                return Err(Error::RecordTooLarge { size, limit });
            }
            let identity = identity.encode();
            let by = key.as_deref().unwrap_or(&identity);
            let partition = partitioner::partition(by, place.partitions);
            Ok(Packed { partition, key, identity, headers, payload })
        };
        records.into_iter().map(pack).collect()
    }
}

/// Runs a question to the cluster off the async threads.
async fn blocking<T: Send + 'static>(
    brokers: &str,
    cluster: &Arc<Cluster>,
    ask: impl FnOnce(&Cluster) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let cluster = Arc::clone(cluster);
    tokio::task::spawn_blocking(move || ask(&cluster))
        .await
        .map_err(|e| Error::Unavailable { path: url(brokers), reason: e.to_string() })?
}

#[async_trait::async_trait]
impl Log for KafkaLog {
    fn id(&self, stream: &str) -> String {
        format!("{}.{}", self.cluster_id, self.topic(stream))
    }

    fn topic(&self, stream: &str) -> String {
        self.place(stream).map_or_else(|_| stream.to_owned(), |place| place.topic.clone())
    }

    async fn ensure(&self, streams: &[StreamSpec]) -> Result<(), Error> {
        let mut missing = Vec::new();
        let mut all: Vec<(&StreamSpec, Arc<Place>)> = Vec::new();
        for spec in streams {
            let topic = self.topic_of(spec);
            if let Some((other, _)) = all.iter().find(|(_, place)| place.topic == topic) {
                let reason = format!(
                    "streams {:?} and {:?} both use topic {topic:?}",
                    other.name, spec.name
                );
                return Err(Error::Refused { path: url(&self.brokers), reason });
            }
            let (stream, partitions) = (spec.name.clone(), spec.partitions);
            let place = Arc::new(Place { stream, topic, partitions });
            match self.partitions_of(&place).await? {
                Some(existing) if existing == partitions => {}
                Some(existing) => {
                    let stream = spec.name.clone();
                    return Err(Error::PartitionCount { stream, existing, wanted: partitions });
                }
                None if spec.topic.is_external => {
                    let (stream, topic) = (spec.name.clone(), place.topic.clone());
                    let hint = "create it, or let the contract say `topic: {mode: create}`";
                    return Err(Error::NoTopic { stream, topic, hint });
                }
                None => missing.push((Place::clone(&place), spec)),
            }
            all.push((spec, place));
        }
        if !missing.is_empty() {
            self.cluster.create(&missing).await?;
        }
        for (place, _) in missing {
            self.wait_ready(&Arc::new(place)).await?;
        }
        let mut known = self.streams.write().unwrap_or_else(PoisonError::into_inner);
        for (spec, place) in all {
            let is_external = spec.topic.is_external;
            let (turn, asking, trimmed) = Default::default();
            let stream = Stream { place, is_external, turn, asking, trimmed };
            known.entry(spec.name.clone()).or_insert(stream);
        }
        Ok(())
    }

    async fn append(&self, stream: &str, records: Vec<Record>) -> Result<Vec<OffsetRange>, Error> {
        let stream = self.stream(stream)?;
        if records.is_empty() {
            return Ok(Vec::new());
        }
        let topic = &stream.place.topic;
        let records = self.pack(&stream.place, records)?;
        let batch = {
            // First come, first served: tokio's mutex is fair.
            let _turn = stream.turn.lock().await;
            if locked(&self.supervisor).is_none() {
                return Err(Error::Closed);
            }
            self.producers.hand_over(topic, &records).await?
        };
        crash::point("log.enqueued");
        tokio::select! {
            landed = self.producers.landed(topic, &batch, &records) => landed,
            error = self.topic_went(&stream) => {
                // What is on its way must not land in a topic of the same name.
                self.health.renew();
                Err(error)
            }
        }
    }

    async fn extents(&self, stream: &str) -> Result<Vec<Extent>, Error> {
        self.extents_of(&self.place(stream)?).await
    }

    async fn get(
        &self,
        stream: &str,
        partition: Partition,
        offset: Offset,
    ) -> Result<Option<LogRecord>, Error> {
        let found = self.first_from(stream, partition, offset).await?;
        Ok(found.filter(|record| record.offset == offset))
    }

    async fn has_records(
        &self,
        stream: &str,
        partition: Partition,
        from: Offset,
    ) -> Result<bool, Error> {
        Ok(self.first_from(stream, partition, from).await?.is_some())
    }

    async fn reader(
        self: Arc<Self>,
        streams: &[String],
        after: &Positions,
    ) -> Result<Box<dyn Reader>, Error> {
        let places: Result<Vec<_>, _> = streams.iter().map(|stream| self.place(stream)).collect();
        Ok(Box::new(Follower::open(self, &places?, None, after).await?))
    }

    async fn join(
        self: Arc<Self>,
        streams: &[String],
    ) -> Result<Option<Arc<dyn Membership>>, Error> {
        if self.settings.group.is_empty() {
            return Ok(None);
        }
        Ok(Some(Arc::new(Member::join(&self, streams)?)))
    }

    /// Does nothing unless `delete_committed` is set: topics keep what their retention says.
    async fn trim(&self, stream: &str, partition: Partition, through: Offset) -> Result<(), Error> {
        let stream = self.stream(stream)?;
        let known = locked(&stream.trimmed).get(&partition).copied();
        if !self.settings.delete_committed || stream.is_external || known >= Some(through) {
            return Ok(());
        }
        let end = self.extent_of(&stream.place, partition).await?.end;
        let before = end.min(through.saturating_add(1));
        self.cluster.delete_records(&stream.place, partition, before).await?;
        locked(&stream.trimmed).insert(partition, through);
        Ok(())
    }

    fn outage(&self) -> Option<String> {
        self.health.reason_down()
    }

    async fn close(&self) {
        let Some(supervisor) = locked(&self.supervisor).take() else { return };
        self.health.close();
        let producers = Arc::clone(&self.producers);
        let closed = tokio::task::spawn_blocking(move || {
            producers.flush(CLOSE);
            supervisor.join().is_ok()
        });
        if !matches!(closed.await, Ok(true)) {
            tracing::error!("kafka's health thread panicked");
        }
    }
}

/// Without this, the thread would keep the producers for ever.
impl Drop for KafkaLog {
    fn drop(&mut self) {
        self.health.close();
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
