//! What a stream promises: its fields, its key, how its events are identified, its rules.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field as ArrowField, Schema, SchemaRef, TimeUnit};
use serde::{Deserialize, Serialize};

/// The contract of one stream, read from `streams/<name>.yml`.
#[derive(Debug, Clone, PartialEq)]
pub struct Contract {
    /// Name of the stream.
    pub name: String,
    pub description: String,
    pub fields: Vec<Field>,
    /// The columns whose values are the partition key; empty: none.
    pub key: Vec<String>,
    pub event_id: EventId,
    /// Which events take the row of their key away.
    pub deletes: Option<Deletes>,
    /// A record may hold a JSON array of events, each by itself.
    pub takes_arrays: bool,
    /// The column that tells when an event happened.
    pub event_time: Option<String>,
    /// Named SQL conditions over one row. False breaks the rule; null passes.
    pub rules: Vec<Rule>,
    pub on_error: OnError,
    pub validation: Validation,
    /// Number of partitions of the stream in the log.
    pub partitions: u32,
    pub topic: Topic,
    /// Digest of what decides how a payload is decoded and judged.
    pub version: String,
}

/// Which events take the row of their key away: of these only that key, their id and their time are
/// judged. What becomes of the row is up to the models, which see the field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deletes {
    /// The field that says what an event does.
    pub field: String,
    /// Its values that mean a delete, one at least.
    pub values: Vec<String>,
    /// A record with a key and without a value deletes too: as an event of that key with the first of
    /// the values.
    pub tombstones: bool,
}

/// Where a stream's records live when the log is Kafka.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Topic {
    /// Name of the topic. `None`: the configured prefix, then the stream's name.
    pub name: Option<String>,
    /// Others made it and may fill it: it is never created or changed.
    pub is_external: bool,
    /// Copies of each record. `None`: the broker's default.
    pub replication: Option<u16>,
    /// How long it keeps records, in milliseconds. `None`: the broker's default.
    pub retention_ms: Option<i64>,
}

/// One declared field of an event.
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    pub name: String,
    /// Name of the member of an event that it is read from, if that is another.
    pub source: Option<String>,
    /// How its times are written in events, in `strftime`'s terms; `None`: ISO 8601.
    pub format: Option<String>,
    pub data_type: FieldType,
    /// Rule `not_null:<name>`.
    pub required: bool,
    /// The rule that a missing value or one of another type breaks; `None`: `not_null:<name>` or
    /// `type:<name>`.
    pub rule: Option<String>,
    /// Compared after trimming, case counts. Empty: any value.
    pub accepted_values: Vec<String>,
    /// The rule that other values break; `None`: `accepted_values:<name>`.
    pub accepted_rule: Option<String>,
    /// Rule `<name>_range` unless the contract gives another name.
    pub range: Option<Range>,
    pub description: String,
}

/// Bounds of a number, both inclusive. Persisted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Range {
    pub name: String,
    pub min: Option<f64>,
    pub max: Option<f64>,
}

/// The declared type of a field. Persisted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FieldType {
    Text,
    Int,
    Float,
    /// Total digits, digits after the point.
    Decimal(u8, i8),
    Bool,
    /// Microseconds, UTC.
    Timestamp,
    Date,
}

/// How events of a stream are identified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventId {
    /// By the values of columns, one or more.
    Columns(Vec<String>),
    /// By a hash of the content.
    Content,
    /// By what the client sends.
    Client,
}

/// A named SQL condition over the columns of one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub name: String,
    pub sql: String,
    pub severity: Severity,
}

/// What breaking a rule means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Severity {
    /// The event is set aside.
    #[default]
    Error,
    /// The event counts; the rule stands in its `_warnings`.
    Warn,
}

/// What happens to an event that breaks its contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnError {
    /// The whole batch is refused.
    RejectBatch,
    /// The event is refused, the others of its batch are accepted.
    RejectEvent,
    /// The event is accepted into the log and set aside in `quarantine.<stream>`.
    #[default]
    Quarantine,
}

/// How far the ingest role looks at a payload before it acks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Validation {
    /// Not at all.
    None,
    /// Well-formed JSON object.
    Wire,
    /// Types, required fields, accepted values and ranges.
    #[default]
    Schema,
}

impl Field {
    /// Name of the member of an event that it is read from.
    pub fn member(&self) -> &str {
        self.source.as_deref().unwrap_or(&self.name)
    }
}

impl Contract {
    /// Index of a declared field.
    pub fn field_index(&self, name: &str) -> Option<usize> {
        self.fields.iter().position(|field| field.name == name)
    }

    /// The columns of the key, separated by commas; `None` without a key.
    pub fn key_columns(&self) -> Option<String> {
        (!self.key.is_empty()).then(|| self.key.join(", "))
    }

    /// Whether equal events may stand in two partitions, so that one process must see all of them.
    pub fn is_spread(&self) -> bool {
        self.topic.is_external || self.takes_arrays
    }

    /// Whether a rule only warns, so that events carry `_warnings`.
    pub fn warns(&self) -> bool {
        self.rules.iter().any(|rule| rule.severity == Severity::Warn)
    }

    /// Whether a record without a value is an event.
    pub fn takes_tombstones(&self) -> bool {
        self.deletes.as_ref().is_some_and(|deletes| deletes.tombstones)
    }

    /// The typed columns of a decoded event, all nullable.
    pub fn schema(&self) -> SchemaRef {
        let fields: Vec<_> = self.fields.iter().map(Field::arrow).collect();
        Arc::new(Schema::new(fields))
    }
}

impl Field {
    fn arrow(&self) -> ArrowField {
        ArrowField::new(&self.name, self.data_type.arrow(), true)
    }
}

impl FieldType {
    pub fn arrow(self) -> DataType {
        match self {
            Self::Text => DataType::Utf8,
            Self::Int => DataType::Int64,
            Self::Float => DataType::Float64,
            Self::Decimal(precision, scale) => DataType::Decimal128(precision, scale),
            Self::Bool => DataType::Boolean,
            Self::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Self::Date => DataType::Date32,
        }
    }

    /// The name used in contracts and messages.
    pub fn name(self) -> String {
        match self {
            Self::Text => "text".into(),
            Self::Int => "int".into(),
            Self::Float => "float".into(),
            Self::Decimal(precision, scale) => format!("decimal({precision},{scale})"),
            Self::Bool => "bool".into(),
            Self::Timestamp => "timestamp".into(),
            Self::Date => "date".into(),
        }
    }

    pub fn is_number(self) -> bool {
        matches!(self, Self::Int | Self::Float | Self::Decimal(..))
    }
}

impl EventId {
    /// The columns that it is made of.
    pub fn columns(&self) -> &[String] {
        match self {
            Self::Columns(columns) => columns,
            Self::Content | Self::Client => &[],
        }
    }

    /// The form shown to clients: `column:<name>` (several with commas), `content` or `client`.
    pub fn describe(&self) -> String {
        match self {
            Self::Columns(columns) => format!("column:{}", columns.join(",")),
            Self::Content => "content".into(),
            Self::Client => "client".into(),
        }
    }
}
