//! Questions to the cluster: is it there, which topics, which offsets, which record. Blocking.

use std::{
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, Message as _, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
};

use super::{
    health::{Context, Health},
    reader::{Arena, log_record},
    settings::{Settings, url},
};
use crate::{
    domain::{Offset, Partition},
    log::{Error, Extent, LogRecord, StreamSpec},
};

/// Events of librdkafka that are served after a question.
const EVENTS_MAX: usize = 64;

/// One topic and the stream it holds.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub stream: String,
    pub topic: String,
    pub partitions: Partition,
}

pub(super) struct Cluster {
    brokers: String,
    timeout: Duration,
    config: ClientConfig,
    settings: Settings,
    health: Arc<Health>,
    meta: RwLock<Arc<BaseConsumer<Context>>>,
    /// Looks at single records. Made when it is first needed.
    peek: Mutex<Option<BaseConsumer<Context>>>,
}

/// A client for questions.
fn client(
    brokers: &str,
    config: &ClientConfig,
    health: &Arc<Health>,
) -> Result<Arc<BaseConsumer<Context>>, Error> {
    let made = config.create_with_context(Context(Arc::clone(health)));
    made.map(Arc::new).map_err(|e| refused(brokers, &e))
}

impl Cluster {
    pub(super) fn new(
        brokers: &str,
        settings: &Settings,
        health: Arc<Health>,
    ) -> Result<Self, Error> {
        let config = settings.client(brokers)?;
        let meta = RwLock::new(client(brokers, &config, &health)?);
        Ok(Self {
            brokers: brokers.to_owned(),
            timeout: Duration::from_millis(settings.request_timeout_ms),
            config,
            settings: settings.clone(),
            health,
            meta,
            peek: Mutex::new(None),
        })
    }

    /// The cluster's id; fails where no broker answers within `timeout`.
    pub(super) fn id(&self) -> Result<String, Error> {
        self.probe(self.timeout)?;
        let id = self.meta().client().fetch_cluster_id(self.timeout);
        id.ok_or_else(|| self.unreachable(&KafkaError::Canceled))
    }

    fn meta(&self) -> Arc<BaseConsumer<Context>> {
        Arc::clone(&self.meta.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Asks through new connections from now on.
    pub(super) fn reconnect(&self) -> Result<(), Error> {
        let fresh = client(&self.brokers, &self.config, &self.health)?;
        *self.meta.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    /// Asks whether a broker answers.
    pub(super) fn probe(&self, timeout: Duration) -> Result<(), Error> {
        let answer = self.meta().fetch_metadata(None, timeout);
        self.serve_events();
        answer.map(|_| ()).map_err(|e| self.unreachable(&e))
    }

    /// Lets librdkafka tell what happened.
    fn serve_events(&self) {
        let meta = self.meta();
        // A poll that served an event says no more than one that had none.
        for _ in 0..EVENTS_MAX {
            meta.poll(Duration::ZERO);
        }
    }

    /// Number of partitions of a topic; `None` where there is no such topic.
    pub(super) fn partitions(&self, topic: &str) -> Result<Option<Partition>, Error> {
        let metadata = self.meta().fetch_metadata(Some(topic), self.timeout);
        let metadata = metadata.map_err(|e| self.unreachable(&e))?;
        let Some(found) = metadata.topics().iter().find(|t| t.name() == topic) else {
            return Ok(None);
        };
        match found.error().map(RDKafkaErrorCode::from) {
            None => {}
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
                return Ok(None);
            }
            Some(RDKafkaErrorCode::LeaderNotAvailable) => {}
            Some(code) => return Err(self.refused_topic(topic, code)),
        }
        let all = found.partitions();
        if all.is_empty() || all.iter().any(|partition| partition.leader() < 0) {
            let reason = format!("topic {topic:?} has a partition without a leader");
            return Err(Error::Unreachable { path: url(&self.brokers), reason });
        }
        Ok(Some(u32::try_from(all.len()).unwrap_or(u32::MAX)))
    }

    pub(super) fn extents(&self, place: &Place) -> Result<Vec<Extent>, Error> {
        let all = 0..place.partitions;
        all.map(|partition| self.extent(place, partition)).collect()
    }

    pub(super) fn extent(&self, place: &Place, partition: Partition) -> Result<Extent, Error> {
        let number = i32::try_from(partition).unwrap_or(i32::MAX);
        let (start, end) = self
            .meta()
            .fetch_watermarks(&place.topic, number, self.timeout)
            .map_err(|e| self.failed(place, &e))?;
        Ok(Extent { start, end })
    }

    /// The first record at `from` or after it, where there is one now.
    pub(super) fn first_from(
        &self,
        place: &Place,
        partition: Partition,
        from: Offset,
    ) -> Result<Option<LogRecord>, Error> {
        let extent = self.extent(place, partition)?;
        let from = from.max(extent.start);
        if from >= extent.end {
            return Ok(None);
        }
        let mut peek = self.peek.lock().unwrap_or_else(PoisonError::into_inner);
        if peek.is_none() {
            let mut config = self.settings.consumer(&self.brokers)?;
            config.set("enable.partition.eof", "true").set("queued.min.messages", "1");
            let made = config.create_with_context(Context(Arc::clone(&self.health)));
            *peek = Some(made.map_err(|e| refused(&self.brokers, &e))?);
        }
        let Some(consumer) = peek.as_ref() else { return Ok(None) };
        let number = i32::try_from(partition).unwrap_or(i32::MAX);
        self.peek_at(consumer, place, number, from).map_err(|e| self.failed(place, &e))
    }

    fn peek_at(
        &self,
        consumer: &BaseConsumer<Context>,
        place: &Place,
        partition: i32,
        from: Offset,
    ) -> KafkaResult<Option<LogRecord>> {
        let mut assignment = TopicPartitionList::new();
        let at = rdkafka::Offset::Offset(from);
        assignment.add_partition_offset(&place.topic, partition, at)?;
        consumer.assign(&assignment)?;
        let deadline = Instant::now() + self.timeout;
        let found = loop {
            match consumer.poll(Duration::from_millis(50)) {
                Some(Ok(message)) => {
                    let same = message.topic() == place.topic && message.partition() == partition;
                    if same && message.offset() >= from {
                        break Ok(Some(log_record(&message, &mut Arena::default())));
                    }
                }
                Some(Err(KafkaError::PartitionEOF(at))) if at == partition => break Ok(None),
                Some(Err(KafkaError::PartitionEOF(_))) => {}
                Some(Err(error)) if !is_passing(&error) => break Err(error),
                Some(Err(_)) | None => {}
            }
            if Instant::now() >= deadline {
                break Err(KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut));
            }
        };
        consumer.unassign()?;
        found
    }

    /// Creates topics and waits until they can be used.
    pub(super) async fn create(&self, missing: &[(Place, &StreamSpec)]) -> Result<(), Error> {
        let admin = self.admin()?;
        let max_bytes = self.settings.message_bytes_max().to_string();
        let retention: Vec<String> = missing
            .iter()
            .map(|(_, spec)| spec.topic.retention_ms.unwrap_or_default().to_string())
            .collect();
        let topics: Vec<NewTopic<'_>> = missing
            .iter()
            .zip(&retention)
            .map(|((place, spec), retention)| {
                let partitions = i32::try_from(place.partitions).unwrap_or(i32::MAX);
                let copies = spec.topic.replication.map_or(-1, i32::from);
                let copies = TopicReplication::Fixed(copies);
                let topic = NewTopic::new(&place.topic, partitions, copies)
                    .set("message.timestamp.type", "LogAppendTime")
                    .set("max.message.bytes", &max_bytes);
                match spec.topic.retention_ms {
                    Some(_) => topic.set("retention.ms", retention),
                    None => topic,
                }
            })
            .collect();
        let options = AdminOptions::new().operation_timeout(Some(self.timeout));
        let results = admin.create_topics(&topics, &options).await;
        for result in results.map_err(|e| self.unreachable(&e))? {
            match result {
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((topic, code)) => return Err(self.refused_topic(&topic, code)),
            }
        }
        Ok(())
    }

    /// Deletes records below `before`.
    pub(super) async fn delete_records(
        &self,
        place: &Place,
        partition: Partition,
        before: Offset,
    ) -> Result<(), Error> {
        let number = i32::try_from(partition).unwrap_or(i32::MAX);
        let mut offsets = TopicPartitionList::new();
        let admin = self.admin()?;
        let deleted = async {
            offsets.add_partition_offset(&place.topic, number, rdkafka::Offset::Offset(before))?;
            admin.delete_records(&offsets, &AdminOptions::new()).await
        };
        let deleted = deleted.await.map_err(|e| self.failed(place, &e))?;
        for element in deleted.elements() {
            element.error().map_err(|e| self.failed(place, &e))?;
        }
        Ok(())
    }

    pub(super) async fn delete_topics(&self, topics: &[&str]) -> Result<(), Error> {
        let options = AdminOptions::new().operation_timeout(Some(self.timeout));
        let results = self.admin()?.delete_topics(topics, &options).await;
        for result in results.map_err(|e| self.unreachable(&e))? {
            result.map_err(|(topic, code)| self.refused_topic(&topic, code))?;
        }
        Ok(())
    }

    fn admin(&self) -> Result<AdminClient<DefaultClientContext>, Error> {
        self.config.create().map_err(|e| refused(&self.brokers, &e))
    }

    /// An error of a topic in our words.
    pub(super) fn failed(&self, place: &Place, error: &KafkaError) -> Error {
        match error.rdkafka_error_code() {
            Some(code) if is_gone(code) => {
                Error::TopicGone { path: url(&self.brokers), topic: place.topic.clone() }
            }
            Some(
                code @ (RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::GroupAuthorizationFailed
                | RDKafkaErrorCode::ClusterAuthorizationFailed),
            ) => self.refused_topic(&place.topic, code),
            _ => self.unreachable(error),
        }
    }

    fn refused_topic(&self, topic: &str, code: RDKafkaErrorCode) -> Error {
        let reason = format!("topic {topic:?}: {code}");
        Error::Refused { path: url(&self.brokers), reason }
    }

    /// Nobody answers, and why, as far as librdkafka knows.
    fn unreachable(&self, error: &KafkaError) -> Error {
        let told = self.health.last_error();
        let reason = if told.is_empty() { error.to_string() } else { told };
        let path = url(&self.brokers);
        if self.health.is_refused() {
            let hint = "see security_protocol, sasl_* and ssl_* under [kafka]";
            return Error::Refused { path, reason: format!("{reason} ({hint})") };
        }
        Error::Unreachable { path, reason }
    }
}

pub(super) fn refused(brokers: &str, error: &KafkaError) -> Error {
    Error::Refused { path: url(brokers), reason: error.to_string() }
}

pub(super) fn is_gone(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::UnknownTopicOrPartition
            | Code::UnknownTopic
            | Code::UnknownPartition
            | Code::UnknownTopicId
    )
}

/// Whether a client mends an error by itself.
pub(super) fn is_passing(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    error.rdkafka_error_code().is_none_or(|code| {
        matches!(
            code,
            Code::BrokerTransportFailure
                | Code::AllBrokersDown
                | Code::Resolve
                | Code::OperationTimedOut
                | Code::RequestTimedOut
                | Code::LeaderNotAvailable
                | Code::NotLeaderForPartition
                | Code::FencedLeaderEpoch
                | Code::UnknownLeaderEpoch
                | Code::BrokerNotAvailable
                | Code::ReplicaNotAvailable
                | Code::NetworkException
                | Code::OffsetNotAvailable
                | Code::KafkaStorageError
                | Code::PartitionEOF
        )
    })
}
