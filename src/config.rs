//! Settings of every part: plain data, in layers.
//!
//! `config.default.toml` is complete; a file, the environment (`SLUICE__SECTION__KEY`) and flags
//! override it in that order. A key that the defaults do not have is an error.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::{domain::Durability, ingest, log, process, project::nearest, serve};

/// The commented defaults, as shipped.
pub const DEFAULTS: &str = include_str!("config.default.toml");

const ENVIRONMENT_PREFIX: &str = "SLUICE__";

/// Everything that can be set.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub server: Server,
    pub telemetry: Telemetry,
    pub ingest: ingest::Settings,
    pub log: log::embedded::Settings,
    pub kafka: log::kafka::Settings,
    pub process: process::Settings,
    pub tests: process::data_tests::Settings,
    pub serve: serve::Settings,
}

/// What concerns the process as a whole.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    pub data_dir: PathBuf,
    /// Empty: in the data folder.
    pub lake: PathBuf,
    pub log: LogKind,
    pub durability: Durability,
    /// HOST:PORT
    pub ingest_listen: String,
    pub flight_listen: String,
    pub http_listen: String,
}

impl Server {
    /// The folder of the lake.
    pub fn lake_dir(&self) -> PathBuf {
        if self.lake.as_os_str().is_empty() {
            return self.data_dir.join("lake");
        }
        self.lake.clone()
    }
}

/// Which log holds acked events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum LogKind {
    Embedded,
    /// The brokers, `HOST:PORT[,HOST:PORT]`.
    Kafka(String),
}

impl TryFrom<String> for LogKind {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text == "embedded" {
            return Ok(Self::Embedded);
        }
        if text.contains('@') {
            // Not repeated: what stands before the @ may be a password.
            return Err("credentials do not belong into the address: see [kafka] sasl_*".to_owned());
        }
        let brokers = text.strip_prefix("kafka://").filter(|brokers| {
            let address = |address: &str| {
                let parts = address.rsplit_once(':');
                parts.is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
            };
            brokers.split(',').all(address)
        });
        let hint = || "use embedded or kafka://HOST:PORT[,HOST:PORT]".to_owned();
        brokers.map(|brokers| Self::Kafka(brokers.to_owned())).ok_or_else(hint)
    }
}

impl From<LogKind> for String {
    fn from(kind: LogKind) -> Self {
        match kind {
            LogKind::Embedded => "embedded".to_owned(),
            LogKind::Kafka(brokers) => format!("kafka://{brokers}"),
        }
    }
}

/// Logs of the process itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Telemetry {
    pub log_filter: String,
    pub log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    Json,
}

/// Everything that is wrong with a configuration.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{}", .0.join("\n"))]
pub struct ConfigError(pub Vec<String>);

/// A configuration, and where each value came from.
#[derive(Debug)]
pub struct Effective {
    pub config: Config,
    merged: Table,
    /// (section, key) → `file …`, `environment …` or `flag …`.
    origins: Vec<(String, String, String)>,
}

/// One value from a flag: section, key, text, and the flag's name.
pub type FlagValue = (&'static str, &'static str, String, &'static str);

/// Puts the layers together. `environment` are the variables of the process.
pub fn load(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
    flags: Vec<FlagValue>,
) -> Result<Effective, ConfigError> {
    let defaults: Table =
        DEFAULTS.parse().map_err(|e| ConfigError(vec![format!("embedded defaults: {e}")]))?;
    let mut layers = Layers { merged: defaults, origins: Vec::new(), errors: Vec::new() };
    if let Some(file) = file {
        layers.file(file);
    }
    let mut variables: Vec<(String, String)> = environment.into_iter().collect();
    variables.sort();
    for (name, text) in variables {
        if let Some(path) = name.strip_prefix(ENVIRONMENT_PREFIX) {
            layers.variable(&name, path, &text);
        }
    }
    for (section, key, text, flag) in flags {
        layers.text(section, key, &text, &format!("flag {flag}"));
    }
    let Layers { merged, origins, mut errors } = layers;
    match Config::deserialize(Value::Table(merged.clone())) {
        Ok(config) if errors.is_empty() => Ok(Effective { config, merged, origins }),
        Ok(_) => Err(ConfigError(errors)),
        Err(error) => {
            errors.push(format!("configuration: {}", error.message()));
            Err(ConfigError(errors))
        }
    }
}

struct Layers {
    merged: Table,
    origins: Vec<(String, String, String)>,
    errors: Vec<String>,
}

impl Layers {
    fn file(&mut self, path: &Path) {
        let origin = format!("file {}", path.display());
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => return self.errors.push(format!("{origin}: cannot be read: {error}")),
        };
        let table: Table = match text.parse() {
            Ok(table) => table,
            // Without the line itself, which may hold a secret.
            Err(error) => {
                let before = error.span().and_then(|span| text.get(..span.start));
                let line = before.unwrap_or_default().matches('\n').count() + 1;
                let message = error.message();
                return self.errors.push(format!("{origin}, line {line}: {message}"));
            }
        };
        for (section, values) in table {
            let Value::Table(values) = values else {
                self.errors.push(format!("{origin}: `{section}` must be a [section]"));
                continue;
            };
            if values.is_empty() {
                self.check_section(&section, &origin);
            }
            for (key, value) in values {
                self.set(&section, &key, value, &origin);
            }
        }
    }

    fn variable(&mut self, name: &str, path: &str, text: &str) {
        let lower = path.to_ascii_lowercase();
        match lower.split_once("__") {
            Some((section, key)) => self.text(section, key, text, &format!("environment {name}")),
            None => self
                .errors
                .push(format!("environment {name}: use {ENVIRONMENT_PREFIX}SECTION__KEY")),
        }
    }

    /// Reads text as the type that the default has.
    fn text(&mut self, section: &str, key: &str, text: &str, origin: &str) {
        let default = self.merged.get(section).and_then(|s| s.get(key));
        let value = match default {
            Some(Value::Integer(_)) => text.replace('_', "").parse().map(Value::Integer).ok(),
            Some(Value::Float(_)) => text.parse().map(Value::Float).ok(),
            Some(Value::Boolean(_)) => text.parse().map(Value::Boolean).ok(),
            _ => Some(Value::String(text.to_owned())),
        };
        match value {
            Some(value) => self.set(section, key, value, origin),
            None => {
                let wanted = default.map_or("value", Value::type_str);
                self.errors.push(format!("{origin}: {section}.{key}: {text:?} is no {wanted}"));
            }
        }
    }

    fn check_section(&mut self, section: &str, origin: &str) -> bool {
        let known = self.merged.contains_key(section);
        if !known {
            let hint = nearest(section, self.merged.keys().map(String::as_str)).unwrap_or_default();
            self.errors.push(format!("{origin}: unknown section `{section}` {hint}"));
        }
        known
    }

    fn set(&mut self, section: &str, key: &str, value: Value, origin: &str) {
        if !self.check_section(section, origin) {
            return;
        }
        let Some(Value::Table(known)) = self.merged.get_mut(section) else { return };
        let Some(default) = known.get(key) else {
            let hint = nearest(key, known.keys().map(String::as_str))
                .unwrap_or_else(|| known.keys().cloned().collect::<Vec<_>>().join(", "));
            return self.errors.push(format!("{origin}: unknown key `{section}.{key}`: {hint}"));
        };
        if !default.same_type(&value) {
            let (wanted, found) = (default.type_str(), value.type_str());
            let message =
                format!("{origin}: {section}.{key} must be of type {wanted}, not {found}");
            return self.errors.push(message);
        }
        if let Some(wanted) = wrong_value(section, key, &value) {
            let is_address = (section, key) == ("server", "log");
            let has_credentials = is_address && value.as_str().is_some_and(|t| t.contains('@'));
            let shown = if has_credentials { "***".to_owned() } else { value.to_string() };
            return self.errors.push(format!("{origin}: {section}.{key} = {shown}: {wanted}"));
        }
        known.insert(key.to_owned(), value);
        self.origins.push((section.to_owned(), key.to_owned(), origin.to_owned()));
    }
}

/// Values of a key that is not free text: (section, key, values).
const CHOICES: [(&str, &str, &[&str]); 5] = [
    ("kafka", "security_protocol", &["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"]),
    ("kafka", "sasl_mechanism", &["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]),
    ("kafka", "compression", &["none", "lz4", "zstd", "gzip", "snappy"]),
    ("server", "durability", &["fsync", "os"]),
    ("telemetry", "log_format", &["text", "json"]),
];

/// Numbers that may be 0: it has a meaning of its own there, or does no harm.
const ZERO_ALLOWED: [&str; 6] =
    ["threads", "ack_delay_ms", "linger_ms", "poll_wait_ms", "seal_interval_ms", "queued_max"];

/// What a value should be instead, where it cannot be taken.
fn wrong_value(section: &str, key: &str, value: &Value) -> Option<String> {
    match value {
        Value::Integer(n) if *n < 0 => Some("give a number that is not negative".to_owned()),
        Value::Integer(0) if !ZERO_ALLOWED.contains(&key) && !key.contains("drain") => {
            Some("give a number above 0".to_owned())
        }
        Value::Integer(n) if key == "recompute_percent" && *n > 100 => {
            Some("give 1 to 100".to_owned())
        }
        Value::String(text) if (section, key) == ("server", "log") => {
            LogKind::try_from(text.clone()).err()
        }
        Value::String(text) => {
            let (_, _, allowed) = CHOICES.iter().find(|(s, k, _)| *s == section && *k == key)?;
            (!allowed.contains(&text.as_str())).then(|| format!("use {}", allowed.join(" or ")))
        }
        _ => None,
    }
}

impl Effective {
    /// The effective values as TOML, with where each came from; secrets are masked.
    pub fn render(&self) -> String {
        let mut out = self.render_values();
        if let LogKind::Kafka(_) = self.config.server.log {
            out.push_str("\n\n# What librdkafka is told besides, which nothing changes:");
            let both = [
                ("producer", &log::kafka::PRODUCER_GUARANTEES[..]),
                ("consumer", &log::kafka::CONSUMER_GUARANTEES[..]),
            ];
            for (client, guarantees) in both {
                for (key, value) in guarantees {
                    out.push_str(&format!("\n# {client}: {key} = {value}"));
                }
            }
        }
        out
    }

    fn render_values(&self) -> String {
        let mut out = String::new();
        for (section, values) in &self.merged {
            out.push_str(&format!("[{section}]\n"));
            for (key, value) in values.as_table().into_iter().flatten() {
                let shown = if is_secret(key) { "\"***\"".to_owned() } else { value.to_string() };
                let origin = self.origins.iter().rfind(|(s, k, _)| s == section && k == key);
                let origin = origin.map_or("default", |(_, _, origin)| origin);
                out.push_str(&format!("{key} = {shown}  # {origin}\n"));
            }
            out.push('\n');
        }
        out.trim_end().to_owned()
    }
}

fn is_secret(key: &str) -> bool {
    let words = ["password", "secret", "token", "credential"];
    !key.ends_with("_file") && words.iter().any(|word| key.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn effective(
        environment: &[(&str, &str)],
        flags: Vec<FlagValue>,
    ) -> Result<Effective, ConfigError> {
        let variables = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        load(None, variables, flags)
    }

    #[test]
    fn defaults_are_complete() {
        let config = effective(&[], Vec::new()).expect("defaults").config;
        let again = toml::to_string(&config).expect("toml");
        let (all, shipped): (Table, Table) =
            (again.parse().expect("again"), DEFAULTS.parse().expect("defaults"));
        for (section, values) in &all {
            for key in values.as_table().expect("section").keys() {
                assert!(shipped[section].get(key).is_some(), "{section}.{key} has no default");
            }
        }
    }

    #[test]
    fn a_value_that_cannot_be_taken_is_named_with_its_key() {
        for (name, value, expected) in [
            ("SLUICE__PROCESS__SEAL_BYTES", "-1", "process.seal_bytes = -1: give a number"),
            ("SLUICE__SERVE__QUERIES_MAX", "0", "serve.queries_max = 0: give a number above 0"),
            ("SLUICE__SERVER__LOG", "kafka", "server.log = \"kafka\": use embedded or kafka://"),
            (
                "SLUICE__SERVER__LOG",
                "kafka://u:hunter2@h:1",
                "environment SLUICE__SERVER__LOG: server.log = ***: credentials do not belong",
            ),
            ("SLUICE__SEVER__LOG", "x", "unknown section `sever` did you mean `server`?"),
        ] {
            let errors = effective(&[(name, value)], Vec::new()).expect_err(name).0;
            assert!(errors.len() == 1 && errors[0].contains(expected), "{errors:?}");
        }
        let dir = tempfile::tempdir().expect("folder");
        let file = dir.path().join("sluice.toml");
        std::fs::write(&file, "[sever]\n").expect("file");
        let errors = load(Some(&file), [], Vec::new()).expect_err("unknown section").0;
        assert!(errors[0].contains("did you mean `server`?"), "{errors:?}");
    }

    #[test]
    fn what_kafka_is_told_is_shown_and_secrets_are_not() {
        let environment = [("SLUICE__KAFKA__SASL_PASSWORD", "hunter2")];
        let log = ("server", "log", "kafka://a:9092,b:9093".to_owned(), "--log");
        let text = effective(&environment, vec![log]).expect("configuration").render();
        for line in [
            "log = \"kafka://a:9092,b:9093\"  # flag --log",
            "sasl_password = \"***\"  # environment SLUICE__KAFKA__SASL_PASSWORD",
            "# producer: enable.idempotence = true",
            "# producer: acks = all",
            "# consumer: auto.offset.reset = error",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
        assert!(!text.contains("hunter2"), "{text}");
    }

    #[test]
    fn later_layers_win() {
        let dir = tempfile::tempdir().expect("folder");
        let file = dir.path().join("sluice.toml");
        std::fs::write(&file, "[server]\ndata_dir = 'a'\nlog = 'embedded'\n").expect("file");
        let environment = [("SLUICE__PROCESS__SEAL_INTERVAL_MS".to_owned(), "7".to_owned())];
        let flags = vec![("server", "data_dir", "b".to_owned(), "--data-dir")];
        let effective = load(Some(&file), environment, flags).expect("configuration");
        assert_eq!(effective.config.server.data_dir, PathBuf::from("b"));
        assert_eq!(effective.config.process.seal_interval_ms, 7);
        let text = effective.render();
        assert!(text.contains("data_dir = \"b\"  # flag --data-dir"), "{text}");
        assert!(text.contains("# environment SLUICE__PROCESS__SEAL_INTERVAL_MS"), "{text}");
    }

    #[test]
    fn every_wrong_key_is_named_with_the_nearest() {
        let environment =
            [("SLUICE__SERVER__DATA_DUR", "x"), ("SLUICE__PROCESS__SEAL_BYTES", "many")];
        let errors = effective(&environment, Vec::new()).expect_err("two errors").0;
        assert_eq!(errors.len(), 2, "{errors:?}");
        assert!(errors[0].contains("seal_bytes: \"many\" is no integer"), "{errors:?}");
        assert!(errors[1].contains("did you mean `data_dir`?"), "{errors:?}");
    }

    #[test]
    fn a_file_that_is_no_toml_is_refused_without_its_secrets() {
        let dir = tempfile::tempdir().expect("folder");
        let file = dir.path().join("sluice.toml");
        std::fs::write(&file, "[kafka]\nsasl_password = hunter2\n").expect("write");
        let error = load(Some(&file), std::iter::empty(), Vec::new()).expect_err("no toml");
        let text = error.to_string();
        assert!(text.contains("sluice.toml, line 2: "), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
}
