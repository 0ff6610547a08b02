//! What is set about Kafka, and what librdkafka is told of it.

use std::{fmt, path::Path};

use rdkafka::{ClientConfig, config::RDKafkaLogLevel};
use serde::{Deserialize, Serialize};

use crate::log::{Error, StreamSpec};

/// How the log talks to Kafka. The brokers' addresses come with `--log`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Stands before the stream's name in the name of its topic.
    pub topic_prefix: String,
    /// `plaintext`, `ssl`, `sasl_plaintext` or `sasl_ssl`.
    pub security_protocol: String,
    /// `PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512`.
    pub sasl_mechanism: String,
    pub sasl_username: String,
    pub sasl_password: Secret,
    /// Read instead of `sasl_password`, so that it stands in no configuration.
    pub sasl_password_file: String,
    /// PEM files: who signs the brokers' certificates, and our own certificate and key.
    pub ssl_ca_file: String,
    pub ssl_certificate_file: String,
    pub ssl_key_file: String,
    pub ssl_key_password: Secret,
    /// Producers side by side; each partition belongs to one.
    pub producers: usize,
    /// How long a producer waits for more records of a partition.
    pub linger_ms: u64,
    /// Bytes of one request to a partition, about.
    pub batch_bytes: usize,
    /// `none`, `lz4`, `zstd`, `gzip` or `snappy`.
    pub compression: String,
    /// Records and kilobytes that wait for their delivery, per producer.
    pub queue_records_max: usize,
    pub queue_kb_max: usize,
    /// A record that was not delivered for so long is given up; its outcome is unknown.
    pub delivery_timeout_ms: u64,
    /// How long a broker may take to answer a question.
    pub request_timeout_ms: u64,
    /// Kilobytes read ahead per partition.
    pub fetch_kb_max: usize,
    /// Largest key and payload of a record together.
    pub max_record_bytes: usize,
    /// Delete from our own topics what Bronze has committed, instead of waiting for retention.
    pub delete_committed: bool,
    /// The consumer group in which processors share the partitions. Empty: this process reads all.
    pub group: String,
    /// The name of this process in its group, kept across restarts; empty: a new one each time.
    pub group_instance: String,
    /// A member that was not heard of for so long has lost its partitions.
    pub session_timeout_ms: u64,
    /// So long a member may take to commit before it gives partitions up.
    pub rebalance_timeout_ms: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            topic_prefix: String::new(),
            security_protocol: "plaintext".into(),
            sasl_mechanism: "SCRAM-SHA-512".into(),
            sasl_username: String::new(),
            sasl_password: Secret::default(),
            sasl_password_file: String::new(),
            ssl_ca_file: String::new(),
            ssl_certificate_file: String::new(),
            ssl_key_file: String::new(),
            ssl_key_password: Secret::default(),
            producers: 1,
            linger_ms: 5,
            batch_bytes: 1_000_000,
            compression: "lz4".into(),
            queue_records_max: 2_000_000,
            queue_kb_max: 262_144,
            delivery_timeout_ms: 30_000,
            request_timeout_ms: 5_000,
            fetch_kb_max: 8_192,
            max_record_bytes: 1024 * 1024 + 64 * 1024,
            delete_committed: false,
            group: String::new(),
            group_instance: String::new(),
            session_timeout_ms: 45_000,
            rebalance_timeout_ms: 60_000,
        }
    }
}

/// Text that is never printed.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "\"\"" } else { "\"***\"" })
    }
}

/// A record's headers and Kafka's framing, beside key and payload.
const RECORD_OVERHEAD: usize = 4_096;

/// What makes an ack durable and a retry harmless. Nothing may change these.
pub const PRODUCER_GUARANTEES: [(&str, &str); 2] =
    [("enable.idempotence", "true"), ("acks", "all")];

/// What keeps a reader from skipping records, or from reading what was rolled back.
pub const CONSUMER_GUARANTEES: [(&str, &str); 4] = [
    ("auto.offset.reset", "error"),
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
    ("isolation.level", "read_committed"),
];

impl Settings {
    /// What every client of ours is told.
    pub(super) fn client(&self, brokers: &str) -> Result<ClientConfig, Error> {
        let mut config = ClientConfig::new();
        config.set_log_level(RDKafkaLogLevel::Warning);
        let mut set = |key: &str, value: &str| {
            if !value.is_empty() {
                config.set(key, value);
            }
        };
        set("bootstrap.servers", brokers);
        set("client.id", "sluice");
        set("security.protocol", &self.security_protocol);
        if self.security_protocol.starts_with("sasl") {
            let password = self.password(brokers)?;
            let given = [("sasl_username", &self.sasl_username), ("sasl_password", &password)];
            if let Some((key, _)) = given.iter().find(|(_, value)| value.is_empty()) {
                let protocol = &self.security_protocol;
                let reason = format!("security_protocol {protocol} needs kafka.{key}");
                return Err(Error::Refused { path: url(brokers), reason });
            }
            set("sasl.mechanism", &self.sasl_mechanism);
            set("sasl.username", &self.sasl_username);
            set("sasl.password", &password);
        }
        if self.security_protocol.ends_with("ssl") {
            self.check_files(brokers)?;
            set("ssl.ca.location", &self.ssl_ca_file);
            set("ssl.certificate.location", &self.ssl_certificate_file);
            set("ssl.key.location", &self.ssl_key_file);
            set("ssl.key.password", &self.ssl_key_password.0);
        }
        // The end of a partition is what is decided: below every open transaction.
        set("isolation.level", "read_committed");
        // A topic that is gone stays gone until somebody makes it again.
        set("allow.auto.create.topics", "false");
        set("reconnect.backoff.ms", "100");
        set("reconnect.backoff.max.ms", "1000");
        set("topic.metadata.refresh.interval.ms", "30000");
        set("topic.metadata.propagation.max.ms", "2000");
        set("log.connection.close", "false");
        set("socket.nagle.disable", "true");
        Ok(config)
    }

    fn check_files(&self, brokers: &str) -> Result<(), Error> {
        let files = [
            ("ssl_ca_file", &self.ssl_ca_file),
            ("ssl_certificate_file", &self.ssl_certificate_file),
            ("ssl_key_file", &self.ssl_key_file),
        ];
        for (key, file) in files.into_iter().filter(|(_, file)| !file.is_empty()) {
            std::fs::File::open(file).map_err(|e| Error::Refused {
                path: url(brokers),
                reason: format!("kafka.{key} {file}: {e}"),
            })?;
        }
        Ok(())
    }

    fn password(&self, brokers: &str) -> Result<String, Error> {
        if self.sasl_password_file.is_empty() {
            return Ok(self.sasl_password.0.clone());
        }
        let read = std::fs::read_to_string(Path::new(&self.sasl_password_file));
        let text = read.map_err(|e| Error::Refused {
            path: url(brokers),
            reason: format!("kafka.sasl_password_file {}: {e}", self.sasl_password_file),
        })?;
        Ok(text.trim_end_matches(['\r', '\n']).to_owned())
    }

    pub(super) fn producer(&self, brokers: &str) -> Result<ClientConfig, Error> {
        let mut config = self.client(brokers)?;
        for (key, value) in PRODUCER_GUARANTEES {
            config.set(key, value);
        }
        let mut set = |key: &str, value: &dyn fmt::Display| {
            config.set(key, value.to_string());
        };
        set("linger.ms", &self.linger_ms);
        set("batch.size", &self.batch_bytes);
        set("batch.num.messages", &100_000);
        set("compression.type", &self.compression);
        set("queue.buffering.max.messages", &self.queue_records_max);
        set("queue.buffering.max.kbytes", &self.queue_kb_max);
        set("message.timeout.ms", &self.delivery_timeout_ms);
        set("message.max.bytes", &self.message_bytes_max());
        Ok(config)
    }

    pub(super) fn consumer(&self, brokers: &str) -> Result<ClientConfig, Error> {
        let mut config = self.client(brokers)?;
        for (key, value) in CONSUMER_GUARANTEES {
            config.set(key, value);
        }
        // Partitions are assigned by hand; librdkafka wants a name all the same.
        config.set("group.id", "sluice");
        config.set("fetch.wait.max.ms", "250");
        config.set("fetch.queue.backoff.ms", "2");
        config.set("fetch.error.backoff.ms", "100");
        config.set("queued.max.messages.kbytes", self.fetch_kb_max.to_string());
        Ok(config)
    }

    /// A member of the group, which reads nothing.
    pub(super) fn member(&self, brokers: &str) -> Result<ClientConfig, Error> {
        let (session, rebalance) = (self.session_timeout_ms, self.rebalance_timeout_ms);
        if session > rebalance {
            let reason = format!(
                "kafka.session_timeout_ms ({session}) is over kafka.rebalance_timeout_ms \
                 ({rebalance}); it may be at most that"
            );
            return Err(Error::Refused { path: url(brokers), reason });
        }
        let mut config = self.client(brokers)?;
        for (key, value) in CONSUMER_GUARANTEES {
            config.set(key, value);
        }
        config.set("group.id", &self.group);
        if !self.group_instance.is_empty() {
            config.set("group.instance.id", &self.group_instance);
        }
        config.set("partition.assignment.strategy", "cooperative-sticky");
        config.set("session.timeout.ms", session.to_string());
        config.set("heartbeat.interval.ms", (session / 15).max(1).to_string());
        // The thread polls all the time; what this bounds is how long a rebalance waits.
        config.set("max.poll.interval.ms", rebalance.to_string());
        // Its partitions are paused; this bounds what comes before they are.
        config.set("queued.min.messages", "1");
        config.set("fetch.message.max.bytes", "1024");
        Ok(config)
    }

    /// The topic of a stream: its contract's, else the prefix and the stream's name.
    pub(super) fn topic_of(&self, spec: &StreamSpec) -> String {
        let prefixed = || format!("{}{}", self.topic_prefix, spec.name);
        spec.topic.name.clone().unwrap_or_else(prefixed)
    }

    /// What a topic of ours has to take.
    pub(super) fn message_bytes_max(&self) -> usize {
        self.max_record_bytes.max(self.batch_bytes) + RECORD_OVERHEAD
    }
}

/// The form in which brokers are given and shown.
pub(super) fn url(brokers: &str) -> String {
    format!("kafka://{brokers}")
}
