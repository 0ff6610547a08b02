//! `streams/<name>.yml`: the contracts.

use std::{collections::BTreeMap, path::Path};

use serde::Deserialize;

use crate::{
    domain::{
        contract::{Contract, EventId, Field, FieldType, OnError, Range, Rule, Topic, Validation},
        decode::{MALFORMED, check_format, read_text},
        identity::fingerprint,
    },
    project::{Diagnostic, Diagnostics, files, is_identifier, nearest, yaml},
};

const DEFAULT_PARTITIONS: u32 = 4;
const MAX_PARTITIONS: u32 = 1024;
/// Names that the decoded view gives to columns of its own.
const RESERVED_PREFIX: char = '_';

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct StreamFile {
    name: String,
    #[serde(default)]
    description: String,
    #[serde(default = "json")]
    format: String,
    #[serde(default = "default_partitions")]
    partitions: u32,
    #[serde(default)]
    topic: TopicEntry,
    key: Option<serde_yaml_ng::Value>,
    event_id: Option<String>,
    event_time: Option<String>,
    #[serde(default)]
    on_error: OnErrorName,
    #[serde(default)]
    validation: ValidationName,
    fields: Vec<FieldEntry>,
    #[serde(default)]
    rules: BTreeMap<String, String>,
}

fn json() -> String {
    "json".to_owned()
}

fn default_partitions() -> u32 {
    DEFAULT_PARTITIONS
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct TopicEntry {
    name: Option<String>,
    #[serde(default)]
    mode: TopicMode,
    replication: Option<u16>,
    retention: Option<String>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum TopicMode {
    #[default]
    Create,
    External,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FieldEntry {
    name: String,
    #[serde(rename = "type")]
    data_type: String,
    source: Option<String>,
    format: Option<String>,
    #[serde(default)]
    required: bool,
    #[serde(default)]
    accepted_values: Vec<serde_yaml_ng::Value>,
    range: Option<RangeEntry>,
    #[serde(default)]
    description: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RangeEntry {
    name: Option<String>,
    min: Option<f64>,
    max: Option<f64>,
}

#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum OnErrorName {
    RejectBatch,
    RejectEvent,
    #[default]
    Quarantine,
}

#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ValidationName {
    None,
    Wire,
    #[default]
    Schema,
}

pub(super) fn read(root: &Path, found: &mut Diagnostics) -> Vec<Contract> {
    let mut contracts = Vec::new();
    for file in files(root, "streams", &[".yml", ".yaml"], found) {
        let Some(text) = yaml::text(root, &file, found) else { continue };
        let Some(entry) = yaml::read::<StreamFile>(root, &file, found) else { continue };
        let Some(contract) = (Reader { file: &file, text: &text, found }).contract(entry) else {
            continue;
        };
        if contracts.iter().any(|other: &Contract| other.name == contract.name) {
            let message = format!("stream `{}` stands in two files", contract.name);
            found.push(Diagnostic::file(&file, message).find(&text, "name"));
        }
        contracts.push(contract);
    }
    contracts
}

struct Reader<'a> {
    file: &'a Path,
    text: &'a str,
    found: &'a mut Diagnostics,
}

impl Reader<'_> {
    fn contract(&mut self, entry: StreamFile) -> Option<Contract> {
        let stem = self.file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if entry.name != stem {
            let message = format!("stream `{}` stands in a file named `{stem}`", entry.name);
            self.report("name", message, Some("give file and stream the same name".into()));
        }
        if !is_identifier(&entry.name) {
            let message = format!("`{}` cannot be a stream name", entry.name);
            self.report("name", message, Some("use a-z, 0-9 and _".into()));
        }
        if entry.format != "json" {
            let message = format!("format `{}` is not supported", entry.format);
            self.report("format", message, Some("use `json`".into()));
        }
        if !(1..=MAX_PARTITIONS).contains(&entry.partitions) {
            let message = format!("{} partitions", entry.partitions);
            self.report("partitions", message, Some(format!("use 1 to {MAX_PARTITIONS}")));
        }
        let fields: Vec<Field> = entry.fields.iter().filter_map(|f| self.field(f)).collect();
        self.duplicates(&fields);
        let event_id = match entry.event_id.as_deref() {
            None | Some("none") => EventId::Client,
            Some("content") => EventId::Content,
            Some(column) => EventId::Column(column.to_owned()),
        };
        let id_column = if let EventId::Column(name) = &event_id { Some(name) } else { None };
        let key = self.key(entry.key);
        let named = [("event_id", id_column), ("event_time", entry.event_time.as_ref())];
        let named = named.into_iter().filter_map(|(key, column)| Some((key, column?)));
        for (key, column) in named.chain(key.iter().map(|column| ("key", column))) {
            self.column_exists(key, column, &fields);
        }
        if let Some(twice) = key.iter().enumerate().find(|(i, c)| key[..*i].contains(c)) {
            self.report("key", format!("key: `{}` stands twice", twice.1), None);
        }
        let topic = self.topic(&entry.topic);
        self.rule_names(&fields, &entry.rules);
        let rules = entry.rules.into_iter().map(|(name, sql)| Rule { name, sql }).collect();
        let mut contract = Contract {
            name: entry.name,
            description: entry.description,
            fields,
            key,
            event_id,
            event_time: entry.event_time,
            rules,
            on_error: entry.on_error.into(),
            validation: entry.validation.into(),
            partitions: entry.partitions,
            topic,
            version: String::new(),
        };
        contract.version = version(&contract);
        Some(contract)
    }

    fn topic(&mut self, entry: &TopicEntry) -> Topic {
        if let Some(name) = &entry.name
            && !is_topic_name(name)
        {
            let message = format!("`{name}` cannot be a topic name");
            let hint = "use 1 to 249 of a-z, A-Z, 0-9, `.`, `_` and `-`, not `.` or `..`";
            self.report(name, message, Some(hint.into()));
        }
        let is_external = entry.mode == TopicMode::External;
        if is_external && (entry.replication.is_some() || entry.retention.is_some()) {
            let message = "an external topic is never created or changed".to_owned();
            let hint = "leave `replication` and `retention` to those who made it";
            self.report("mode", message, Some(hint.into()));
        }
        if entry.replication == Some(0) {
            self.report("replication", "0 copies".to_owned(), Some("use 1 or more".into()));
        }
        let retention_ms = entry.retention.as_deref().and_then(|text| {
            let parsed = retention_ms(text);
            if parsed.is_none() {
                let message = format!("retention `{text}` is no time");
                let hint = "use a number with s, m, h or d such as 7d, or forever";
                self.report("retention", message, Some(hint.into()));
            }
            parsed
        });
        Topic {
            name: entry.name.clone(),
            is_external,
            replication: entry.replication,
            retention_ms,
        }
    }

    fn field(&mut self, entry: &FieldEntry) -> Option<Field> {
        if !is_identifier(&entry.name) || entry.name.starts_with(RESERVED_PREFIX) {
            let message = format!("`{}` cannot be a field name", entry.name);
            let hint = "use a-z, 0-9 and _, not beginning with _, which Sluice keeps for itself";
            self.report(&entry.name, message, Some(hint.into()));
        }
        let Some(data_type) = field_type(&entry.data_type) else {
            let message = format!("field `{}`: unknown type `{}`", entry.name, entry.data_type);
            let hint = "use text, int, float, decimal(p,s), bool, timestamp or date";
            self.report(&entry.data_type, message, Some(hint.into()));
            return None;
        };
        if entry.range.is_some() && !data_type.is_number() {
            let message = format!("field `{}`: a range needs a numeric type", entry.name);
            self.report(&entry.name, message, None);
        }
        for value in &entry.accepted_values {
            if read_text(data_type, &scalar(value)).is_err() {
                let (value, name) = (scalar(value), data_type.name());
                let message =
                    format!("field `{}`: accepted value {value:?} is no {name}", entry.name);
                self.report(&entry.name, message, None);
            }
        }
        if let Some(range) = &entry.range
            && !range.min.zip(range.max).is_none_or(|(min, max)| min <= max)
        {
            let message = format!("field `{}`: the range holds no value", entry.name);
            self.report(&entry.name, message, Some("give min below max".into()));
        }
        let range = entry.range.as_ref().map(|range| Range {
            name: range.name.clone().unwrap_or_else(|| format!("{}_range", entry.name)),
            min: range.min,
            max: range.max,
        });
        let accepted_values = entry.accepted_values.iter().map(scalar).collect();
        self.format(entry, data_type);
        Some(Field {
            name: entry.name.clone(),
            source: entry.source.clone().filter(|source| *source != entry.name),
            format: entry.format.clone(),
            data_type,
            required: entry.required,
            accepted_values,
            range,
            description: entry.description.clone(),
        })
    }

    /// Times written in a form of their own must be whole in that form.
    fn format(&mut self, entry: &FieldEntry, data_type: FieldType) {
        let Some(format) = &entry.format else { return };
        let (name, hint) = (&entry.name, "such as \"%m/%d/%Y %H:%M\"");
        let message = match data_type {
            FieldType::Timestamp | FieldType::Date => {
                let Err(reason) = check_format(data_type, format) else { return };
                format!("field `{name}`: format {format:?} {reason}")
            }
            _ => format!("field `{name}`: only a timestamp or date has a format"),
        };
        self.report(format, message, Some(hint.into()));
    }

    /// A verdict lists the names of the rules broken, so each means one rule.
    fn rule_names(&mut self, fields: &[Field], rules: &BTreeMap<String, String>) {
        let ranges = fields.iter().filter_map(|field| field.range.as_ref());
        let mut taken = vec![MALFORMED];
        for name in ranges.map(|range| &range.name).chain(rules.keys()) {
            let problem = if !is_identifier(name) {
                let hint = "use a-z, 0-9 and _; names such as type:a are those of built-in rules";
                Some((format!("`{name}` cannot be a rule name"), hint))
            } else if taken.contains(&name.as_str()) {
                let hint = "give each rule and each range a name of its own";
                Some((format!("two rules are named `{name}`"), hint))
            } else {
                None
            };
            taken.push(name.as_str());
            if let Some((message, hint)) = problem {
                let section = if rules.contains_key(name) { "rules:" } else { "fields:" };
                let at = Diagnostic::file(self.file, message).hint(hint);
                self.found.push(at.find_after(self.text, section, name));
            }
        }
    }

    fn duplicates(&mut self, fields: &[Field]) {
        for (i, field) in fields.iter().enumerate() {
            if fields[..i].iter().any(|other| other.name == field.name) {
                let message = format!("field `{}` is declared twice", field.name);
                self.report(&field.name, message, None);
            }
            let mut others = fields[..i].iter().filter(|other| other.name != field.name);
            if let Some(other) = others.find(|other| other.member() == field.member()) {
                let member = field.member();
                let message =
                    format!("fields `{}` and `{}` both read `{member}`", other.name, field.name);
                self.report(member, message, Some("give each a `source` of its own".into()));
            }
        }
    }

    /// The columns of the key: one, or a list of them.
    fn key(&mut self, entry: Option<serde_yaml_ng::Value>) -> Vec<String> {
        use serde_yaml_ng::Value;
        let text = |value: Value| if let Value::String(text) = value { Some(text) } else { None };
        let columns = match entry {
            None | Some(Value::Null) => Some(Vec::new()),
            Some(Value::Sequence(columns)) => columns.into_iter().map(text).collect(),
            Some(one) => text(one).map(|column| vec![column]),
        };
        columns.unwrap_or_else(|| {
            let hint = "use a field, or a list of fields".to_owned();
            self.report("key", "key: these are no fields".to_owned(), Some(hint));
            Vec::new()
        })
    }

    fn column_exists(&mut self, key: &str, column: &String, fields: &[Field]) {
        if fields.iter().all(|field| field.name != *column) {
            let message = format!("{key}: `{column}` is not a field of this stream");
            let hint = nearest(column, fields.iter().map(|field| field.name.as_str()));
            self.report(key, message, hint);
        }
    }

    fn report(&mut self, needle: &str, message: String, hint: Option<String>) {
        let diagnostic = Diagnostic::file(self.file, message).find(self.text, needle);
        self.found.push(diagnostic.maybe_hint(hint));
    }
}

/// What Kafka takes as the name of a topic (`org.apache.kafka.common.internals.Topic`).
fn is_topic_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    (1..=249).contains(&name.len()) && name.chars().all(allowed) && name != "." && name != ".."
}

/// Milliseconds of `7d`, `12h`, `30m`, `90s`; -1, Kafka's word for it, of `forever`.
fn retention_ms(text: &str) -> Option<i64> {
    let text = text.trim();
    if text == "forever" {
        return Some(-1);
    }
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return None,
    };
    let number: i64 = number.trim().parse().ok().filter(|n| *n > 0)?;
    number.checked_mul(seconds)?.checked_mul(1_000)
}

/// The type that a contract or a seed's `column_types` names.
pub(super) fn field_type(name: &str) -> Option<FieldType> {
    let name = name.trim().to_ascii_lowercase();
    let (base, arguments) = match name.split_once('(') {
        Some((base, rest)) => (base.trim(), rest.strip_suffix(')')?),
        None => (name.as_str(), ""),
    };
    Some(match base {
        "text" | "string" | "varchar" | "char" => FieldType::Text,
        "int" | "integer" | "bigint" | "smallint" | "int64" | "int32" => FieldType::Int,
        "float" | "double" | "real" | "float64" | "double precision" => FieldType::Float,
        "bool" | "boolean" => FieldType::Bool,
        "timestamp" | "timestamptz" | "datetime" => FieldType::Timestamp,
        "date" => FieldType::Date,
        "decimal" | "numeric" => {
            let (precision, scale) = arguments.split_once(',').unwrap_or((arguments, "0"));
            let (precision, scale) =
                (precision.trim().parse::<u8>().ok()?, scale.trim().parse::<i8>().ok()?);
            let fits = (1..=38).contains(&precision) && (0..=38).contains(&scale);
            return (fits && i16::from(precision) >= i16::from(scale))
                .then_some(FieldType::Decimal(precision, scale));
        }
        _ => return None,
    })
}

fn scalar(value: &serde_yaml_ng::Value) -> String {
    match value {
        serde_yaml_ng::Value::String(text) => text.trim().to_owned(),
        other => serde_yaml_ng::to_string(other).unwrap_or_default().trim().to_owned(),
    }
}

/// Digest of what decides how a payload is decoded and judged.
fn version(contract: &Contract) -> String {
    let fields: Vec<String> = contract
        .fields
        .iter()
        .map(|f| {
            let values = f.accepted_values.join("\u{1}");
            let read = f.source.iter().map(|source| format!(" from {source}"));
            let read = read.chain(f.format.iter().map(|format| format!(" as {format}")));
            let (name, read) = (&f.name, read.collect::<String>());
            format!("{name} {} {} {values} {:?}{read}", f.data_type.name(), f.required, f.range)
        })
        .collect();
    let meaning = format!("{fields:?} {:?} {:?}", contract.event_id, contract.rules);
    fingerprint(meaning.as_bytes())[..6].iter().map(|byte| format!("{byte:02x}")).collect()
}

impl From<OnErrorName> for OnError {
    fn from(name: OnErrorName) -> Self {
        match name {
            OnErrorName::RejectBatch => Self::RejectBatch,
            OnErrorName::RejectEvent => Self::RejectEvent,
            OnErrorName::Quarantine => Self::Quarantine,
        }
    }
}

impl From<ValidationName> for Validation {
    fn from(name: ValidationName) -> Self {
        match name {
            ValidationName::None => Self::None,
            ValidationName::Wire => Self::Wire,
            ValidationName::Schema => Self::Schema,
        }
    }
}
