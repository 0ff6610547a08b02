//! What a cluster shows of itself before anything is done with it. Nothing is created or changed.

use std::{sync::Arc, time::Duration};

use rdkafka::{
    admin::{
        AdminClient, AdminOptions, ConfigResource, NewTopic, ResourceSpecifier, TopicReplication,
    },
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaResult, RDKafkaErrorCode},
};

use super::{
    blocking,
    cluster::{Cluster, Place, is_gone, refused},
    health::{Context, Health},
    settings::Settings,
};
use crate::{
    domain::Partition,
    log::{Error, StreamSpec},
};

/// A cluster that answers.
#[derive(Debug)]
pub struct Seen {
    pub cluster_id: String,
    pub brokers: usize,
    pub topics: Vec<SeenTopic>,
    /// How large a batch of records our producers may send.
    pub message_bytes: u64,
}

/// The topic of a stream.
#[derive(Debug)]
pub struct SeenTopic {
    pub stream: String,
    pub topic: String,
    pub is_external: bool,
    /// As the contract says.
    pub partitions: Partition,
    pub state: TopicState,
}

/// How a topic stands. A text in place of a value says why it cannot be seen.
#[derive(Debug)]
pub enum TopicState {
    /// It does not exist. Whether it may be created, and the copies that it would have.
    Missing {
        creation: Result<(), String>,
        copies: Copies,
    },
    Present {
        partitions: Partition,
        copies: Copies,
        /// `max.message.bytes`
        message_bytes_max: Result<u64, String>,
        /// `cleanup.policy`
        cleanup_policy: Result<String, String>,
        /// The time of a last record; `None` where there is no record.
        newest_us: Result<Option<i64>, String>,
    },
    Unseen(String),
}

/// How many brokers hold each record, and how many must before it is acked.
#[derive(Debug)]
pub struct Copies {
    pub replication: Result<u64, String>,
    /// `min.insync.replicas`
    pub min_insync: Result<u64, String>,
}

/// Looks at the cluster and at the topics of `specs`.
pub async fn probe(
    brokers: &str,
    settings: &Settings,
    specs: &[StreamSpec],
) -> Result<Seen, Error> {
    // Nobody supervises here: what librdkafka tells is only kept for messages.
    let (health, _signals) = Health::new();
    let cluster = Arc::new(Cluster::new(brokers, settings, Arc::clone(&health))?);
    let cluster_id = blocking(brokers, &cluster, |cluster| cluster.id()).await?;
    let config = settings.client(brokers)?;
    let meta = config.create_with_context(Context(health)).map_err(|e| refused(brokers, &e))?;
    let admin = config.create().map_err(|e| refused(brokers, &e))?;
    let timeout = Duration::from_millis(settings.request_timeout_ms);
    let mut probe =
        Probe { brokers, settings, cluster, meta: Arc::new(meta), admin, timeout, ids: Vec::new() };
    probe.ids = probe.broker_ids().await?;
    let mut topics = Vec::with_capacity(specs.len());
    for spec in specs {
        topics.push(SeenTopic {
            stream: spec.name.clone(),
            topic: settings.topic_of(spec),
            is_external: spec.topic.is_external,
            partitions: spec.partitions,
            state: probe.topic(spec).await,
        });
    }
    let message_bytes = settings.message_bytes_max() as u64;
    Ok(Seen { cluster_id, brokers: probe.ids.len(), topics, message_bytes })
}

struct Probe<'a> {
    brokers: &'a str,
    settings: &'a Settings,
    cluster: Arc<Cluster>,
    meta: Arc<BaseConsumer<Context>>,
    admin: AdminClient<DefaultClientContext>,
    timeout: Duration,
    ids: Vec<i32>,
}

impl Probe<'_> {
    /// Runs a question off the async threads.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&BaseConsumer<Context>, Duration) -> KafkaResult<T> + Send + 'static,
    ) -> Result<T, Error> {
        let (meta, timeout) = (Arc::clone(&self.meta), self.timeout);
        let brokers = self.brokers.to_owned();
        blocking(self.brokers, &self.cluster, move |_| {
            question(&meta, timeout).map_err(|e| refused(&brokers, &e))
        })
        .await
    }

    async fn broker_ids(&self) -> Result<Vec<i32>, Error> {
        self.ask(|meta, timeout| {
            let metadata = meta.fetch_metadata(None, timeout)?;
            Ok(metadata.brokers().iter().map(|broker| broker.id()).collect())
        })
        .await
    }

    async fn topic(&self, spec: &StreamSpec) -> TopicState {
        let topic = self.settings.topic_of(spec);
        match self.layout(&topic).await {
            Ok(Some((partitions, replication))) => {
                let place = Place { stream: spec.name.clone(), topic, partitions };
                self.present(place, replication).await
            }
            Ok(None) => self.missing(&topic, spec).await,
            Err(error) => TopicState::Unseen(error),
        }
    }

    /// Partitions and copies of a topic, if there is one.
    async fn layout(&self, topic: &str) -> Result<Option<(Partition, u64)>, String> {
        let wanted = topic.to_owned();
        let found = self.ask(move |meta, timeout| {
            let metadata = meta.fetch_metadata(Some(&wanted), timeout)?;
            let Some(topic) = metadata.topics().iter().find(|topic| topic.name() == wanted) else {
                return Ok(Ok(None));
            };
            Ok(match topic.error().map(RDKafkaErrorCode::from) {
                Some(code) if is_gone(code) => Ok(None),
                Some(code) => Err(code.to_string()),
                None => {
                    let copies = topic.partitions().iter().map(|p| p.replicas().len() as u64);
                    let partitions = Partition::try_from(topic.partitions().len());
                    Ok(Some((partitions.unwrap_or(Partition::MAX), copies.min().unwrap_or(0))))
                }
            })
        });
        found.await.map_err(|error| error.to_string())?
    }

    async fn present(&self, place: Place, replication: u64) -> TopicState {
        let resource = self.describe(ResourceSpecifier::Topic(&place.topic)).await;
        let resource = resource.as_ref();
        let cleanup_policy = resource.map_err(Clone::clone).and_then(|r| {
            let entry = r.get("cleanup.policy").and_then(|entry| entry.value.clone());
            entry.ok_or_else(|| "it is not told".to_owned())
        });
        TopicState::Present {
            partitions: place.partitions,
            copies: Copies {
                replication: Ok(replication),
                min_insync: number(resource, "min.insync.replicas"),
            },
            message_bytes_max: number(resource, "max.message.bytes"),
            cleanup_policy,
            newest_us: self.newest(place).await,
        }
    }

    /// Reads a last record, which shows that reading is allowed, and the brokers' clock.
    async fn newest(&self, place: Place) -> Result<Option<i64>, String> {
        let read = blocking(self.brokers, &self.cluster, move |cluster| {
            for (partition, extent) in (0..).zip(cluster.extents(&place)?) {
                if extent.end > extent.start {
                    let record = cluster.first_from(&place, partition, extent.end - 1)?;
                    return Ok(record.map(|record| record.timestamp_us));
                }
            }
            Ok(None)
        });
        read.await.map_err(|error| error.to_string())
    }

    async fn missing(&self, topic: &str, spec: &StreamSpec) -> TopicState {
        let broker = ResourceSpecifier::Broker(self.ids.first().copied().unwrap_or_default());
        let defaults = self.describe(broker).await;
        let defaults = defaults.as_ref();
        let replication = spec.topic.replication.map(u64::from);
        let copies = Copies {
            replication: replication
                .map_or_else(|| number(defaults, "default.replication.factor"), Ok),
            min_insync: number(defaults, "min.insync.replicas"),
        };
        TopicState::Missing { creation: self.may_create(topic, spec).await, copies }
    }

    /// Has the brokers check a creation without doing it.
    async fn may_create(&self, topic: &str, spec: &StreamSpec) -> Result<(), String> {
        let partitions = i32::try_from(spec.partitions).unwrap_or(i32::MAX);
        let copies = TopicReplication::Fixed(spec.topic.replication.map_or(-1, i32::from));
        let wanted = NewTopic::new(topic, partitions, copies);
        let options = AdminOptions::new()
            .validate_only(true)
            .request_timeout(Some(self.timeout))
            .operation_timeout(Some(self.timeout));
        let answers = self.admin.create_topics([&wanted], &options).await;
        for answer in answers.map_err(|error| error.to_string())? {
            answer.map_err(|(_, code)| code.to_string())?;
        }
        Ok(())
    }

    async fn describe(&self, what: ResourceSpecifier<'_>) -> Result<ConfigResource, String> {
        let options = AdminOptions::new().request_timeout(Some(self.timeout));
        let answers = self.admin.describe_configs([&what], &options).await;
        let answer = answers.map_err(|error| error.to_string())?.into_iter().next();
        answer.ok_or_else(|| "no answer".to_owned())?.map_err(|code| code.to_string())
    }
}

fn number(resource: Result<&ConfigResource, &String>, name: &str) -> Result<u64, String> {
    let value = resource.map_err(Clone::clone)?.get(name).and_then(|entry| entry.value.as_ref());
    value.and_then(|text| text.parse().ok()).ok_or_else(|| format!("{name} is not told"))
}
