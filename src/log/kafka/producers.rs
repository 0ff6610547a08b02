//! Records into Kafka: idempotent producers, one batch of delivery reports per append.

use std::{
    sync::{Arc, PoisonError, RwLock, mpsc},
    thread::JoinHandle,
    time::Duration,
};

use bytes::Bytes;
use rdkafka::{
    ClientConfig,
    error::{KafkaError, RDKafkaErrorCode},
    message::{Header, OwnedHeaders},
    producer::{BaseRecord, Producer as _, PurgeConfig, ThreadedProducer},
};

use super::{
    IDENTITY_HEADER,
    batch::{Batch, Tracked},
    cluster::{Cluster, is_gone, refused},
    health::{Context, Health, Signal, Signals},
    settings::url,
};
use crate::{
    domain::{Partition, record::Header as RecordHeader},
    log::{Error, OffsetRange},
};

type Producer = ThreadedProducer<Context>;

/// Without a delivery report for so long, Kafka is asked whether it is there.
const PATIENCE: Duration = Duration::from_millis(600);
/// How long an answer to that may take.
const PROBE: Duration = Duration::from_millis(1_000);
const PROBE_PAUSE: Duration = Duration::from_millis(200);
/// After so many questions without an answer, they are asked through new connections.
const RECONNECT_AFTER: u32 = 8;
/// A full queue is tried again after so long.
const QUEUE_PAUSE: Duration = Duration::from_millis(2);

/// A record with its partition and its identity header.
pub(super) struct Packed {
    pub partition: Partition,
    pub key: Option<Bytes>,
    pub identity: Vec<u8>,
    pub headers: Vec<RecordHeader>,
    pub payload: Bytes,
}

pub(super) struct Producers {
    brokers: String,
    config: ClientConfig,
    count: usize,
    max_record_bytes: usize,
    health: Arc<Health>,
    current: RwLock<Arc<Vec<Producer>>>,
}

impl Producers {
    pub(super) fn new(
        brokers: &str,
        config: ClientConfig,
        count: usize,
        max_record_bytes: usize,
        health: Arc<Health>,
    ) -> Result<Arc<Self>, Error> {
        let brokers = brokers.to_owned();
        let current = RwLock::default();
        let producers = Self { brokers, config, count, max_record_bytes, health, current };
        producers.renew()?;
        Ok(Arc::new(producers))
    }

    /// New producers in the place of the old, which give up what they hold.
    fn renew(&self) -> Result<(), Error> {
        // At once: what follows takes its time.
        purge(&self.current());
        let made = (0..self.count.max(1)).map(|_| {
            let context = Context(Arc::clone(&self.health));
            self.config.create_with_context(context).map_err(|e| refused(&self.brokers, &e))
        });
        let made: Vec<Producer> = made.collect::<Result<_, Error>>()?;
        let old = {
            let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *current, Arc::new(made))
        };
        // What was handed over meanwhile.
        purge(&old);
        Ok(())
    }

    fn current(&self) -> Arc<Vec<Producer>> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Hands all records over, in order. Waits where the queue is full.
    pub(super) async fn hand_over(
        &self,
        topic: &str,
        records: &[Packed],
    ) -> Result<Tracked, Error> {
        if let Some(reason) = self.health.reason_down() {
            return Err(Error::Unreachable { path: url(&self.brokers), reason });
        }
        let batch = Batch::new(records.len());
        let mut done = 0;
        // One set of producers for the whole append: what was replaced meanwhile fails whole.
        let producers = self.current();
        loop {
            match send_from(&producers, topic, records, &batch, &mut done) {
                None => {
                    batch.handed_over(0);
                    return Ok(batch);
                }
                Some(RDKafkaErrorCode::QueueFull)
                    if self.health.reason_down().is_none()
                        && Arc::ptr_eq(&producers, &self.current()) =>
                {
                    tokio::time::sleep(QUEUE_PAUSE).await;
                }
                Some(code) => {
                    batch.handed_over(records.len() - done);
                    return Err(self.failed(topic, code, records));
                }
            }
        }
    }

    /// Waits until the records of `batch` are durable.
    pub(super) async fn landed(
        &self,
        topic: &str,
        batch: &Batch,
        records: &[Packed],
    ) -> Result<Vec<OffsetRange>, Error> {
        loop {
            tokio::select! {
                () = batch.done() => {
                    return batch.outcome().map_err(|code| self.failed(topic, code, records));
                }
                reason = self.health.went_down() => {
                    return Err(Error::Unavailable { path: url(&self.brokers), reason });
                }
                () = tokio::time::sleep(PATIENCE) => self.health.suspect(),
            }
        }
    }

    fn failed(&self, topic: &str, code: RDKafkaErrorCode, records: &[Packed]) -> Error {
        use RDKafkaErrorCode as Code;
        let path = url(&self.brokers);
        let size =
            |r: &Packed| r.payload.len() + r.key.as_ref().map_or(0, Bytes::len) + r.identity.len();
        match code {
            Code::MessageSizeTooLarge | Code::InvalidMessageSize => Error::RecordTooLarge {
                size: records.iter().map(size).max().unwrap_or_default(),
                limit: self.max_record_bytes,
            },
            Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed => {
                Error::Refused { path, reason: format!("topic {topic:?}: {code}") }
            }
            code if is_gone(code) => Error::TopicGone { path, topic: topic.to_owned() },
            code => Error::Unavailable { path, reason: format!("topic {topic:?}: {code}") },
        }
    }

    /// Delivers what is under way, for so long. Blocking.
    pub(super) fn flush(&self, timeout: Duration) {
        for producer in self.current().iter() {
            if let Err(error) = producer.flush(timeout) {
                tracing::error!(%error, "records were not delivered before the stop");
            }
        }
    }
}

/// Hands records over from `done` on, until all are or one is not taken.
fn send_from(
    producers: &[Producer],
    topic: &str,
    records: &[Packed],
    batch: &Tracked,
    done: &mut usize,
) -> Option<RDKafkaErrorCode> {
    for record in &records[*done..] {
        let header = Header { key: IDENTITY_HEADER, value: Some(&record.identity) };
        let mut headers = OwnedHeaders::new_with_capacity(1 + record.headers.len()).insert(header);
        for (name, value) in &record.headers {
            headers = headers.insert(Header { key: name, value: value.as_deref() });
        }
        let mut message = BaseRecord::with_opaque_to(topic, Arc::clone(batch))
            .partition(i32::try_from(record.partition).unwrap_or(i32::MAX))
            .payload(&record.payload[..])
            .headers(headers);
        if let Some(key) = &record.key {
            message = message.key(&key[..]);
        }
        let producer = &producers[record.partition as usize % producers.len()];
        if let Err((error, _)) = producer.send::<[u8], [u8]>(message) {
            return Some(match error {
                KafkaError::MessageProduction(code) => code,
                _ => RDKafkaErrorCode::Fail,
            });
        }
        *done += 1;
    }
    None
}

/// Follows suspicions and replaces producers, on threads of its own until they are told to close.
pub(super) fn supervise(
    cluster: Arc<Cluster>,
    producers: Arc<Producers>,
    health: Arc<Health>,
    signals: Signals,
    cluster_id: String,
) -> std::io::Result<JoinHandle<()>> {
    let Signals { suspicions, renewals } = signals;
    let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
    let renewing = Arc::clone(&health);
    let renewal = thread("kafka-renewal").spawn(move || {
        while let Ok(Signal::Act) = renewals.recv() {
            renewing.begins_renewal();
            if let Err(error) = producers.renew() {
                renewing.set_down(Some(error.to_string()));
            }
        }
    })?;
    thread("kafka-health").spawn(move || {
        while let Ok(Signal::Act) = suspicions.recv() {
            let goes_on = wait_until_there(&cluster, &cluster_id, &health, &suspicions);
            health.settle_suspicion();
            if !goes_on {
                break;
            }
        }
        if renewal.join().is_err() {
            tracing::error!("the thread that replaces kafka's producers panicked");
        }
    })
}

/// Gives up everything that producers hold.
fn purge(producers: &[Producer]) {
    for producer in producers {
        producer.purge(PurgeConfig::default().queue().inflight());
    }
}

/// Asks until Kafka answers. Whether to go on: nobody asked to close meanwhile.
fn wait_until_there(
    cluster: &Cluster,
    cluster_id: &str,
    health: &Health,
    suspicions: &mpsc::Receiver<Signal>,
) -> bool {
    for asked in 1_u32.. {
        match cluster.probe(PROBE).and_then(|()| cluster.id()) {
            Ok(id) if id == cluster_id => {
                health.set_down(None);
                return true;
            }
            Ok(other) => {
                let reason = format!("another cluster answers there, {other}, not {cluster_id}");
                health.set_down(Some(reason));
            }
            Err(Error::Unreachable { reason, .. }) => health.set_down(Some(reason)),
            Err(other) => health.set_down(Some(other.to_string())),
        }
        if asked.is_multiple_of(RECONNECT_AFTER)
            && let Err(error) = cluster.reconnect()
        {
            tracing::warn!(%error, "no new client for questions to kafka");
        }
        match suspicions.recv_timeout(PROBE_PAUSE) {
            Ok(Signal::Act) | Err(mpsc::RecvTimeoutError::Timeout) => {}
            Ok(Signal::Close) | Err(mpsc::RecvTimeoutError::Disconnected) => return false,
        }
    }
    false
}
