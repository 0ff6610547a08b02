//! `streams/<name>.yml`: the contracts.

mod file;

use std::{collections::BTreeSet, path::Path};

use crate::{
    domain::{
        contract::{Contract, Deletes, EventId, Field, FieldType, Range, Rule, Severity, Topic},
        decode::{MALFORMED, check_format, read_text},
        identity::fingerprint,
    },
    project::{Diagnostic, Diagnostics, files, is_identifier, nearest, yaml},
};

use file::{
    AcceptedEntry, DeletesEntry, FieldEntry, OnErrorName, RecordsName, RuleEntry, TopicEntry,
    TopicMode,
};

pub(in crate::project) use file::StreamFile;

const MAX_PARTITIONS: u32 = 1024;
/// Names that the decoded view gives to columns of its own.
const RESERVED_PREFIX: char = '_';

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
        let field_rule = entry.field_rule.as_ref();
        let fields = entry.fields.iter().filter_map(|field| self.field(field, field_rule));
        let fields: Vec<Field> = fields.collect();
        self.duplicates(&fields);
        let event_id = self.event_id(entry.event_id);
        let key = self.columns("key", entry.key);
        for (name, columns) in [("key", key.as_slice()), ("event_id", event_id.columns())] {
            self.columns_exist(name, columns, &fields);
        }
        self.columns_exist("event_time", entry.event_time.as_slice(), &fields);
        let topic = self.topic(&entry.topic);
        let deletes = entry.deletes.as_ref().map(|deletes| self.deletes(deletes, &fields, &key));
        let takes_arrays = entry.records == RecordsName::Arrays;
        if takes_arrays && entry.on_error == OnErrorName::RejectEvent {
            let message = "reject_event cannot take one event out of an array".to_owned();
            let hint = "use quarantine, which sets it aside alone, or reject_batch";
            self.report("reject_event", message, Some(hint.into()));
        }
        let rules = entry.rules.into_iter();
        let rules: Vec<Rule> = rules.filter_map(|(name, rule)| self.rule(name, rule)).collect();
        self.rule_names(&fields, field_rule, &rules);
        let mut contract = Contract {
            name: entry.name,
            description: entry.description,
            fields,
            key,
            event_id,
            deletes,
            takes_arrays,
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

    fn field(&mut self, entry: &FieldEntry, field_rule: Option<&String>) -> Option<Field> {
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
        let accepted = self.accepted(entry);
        for value in &accepted.values {
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
        let accepted_values = accepted.values.iter().map(scalar).collect();
        self.format(entry, data_type);
        Some(Field {
            name: entry.name.clone(),
            source: entry.source.clone().filter(|source| *source != entry.name),
            format: entry.format.clone(),
            data_type,
            required: entry.required,
            rule: entry.rule.as_ref().or(field_rule).cloned(),
            accepted_values,
            accepted_rule: accepted.name,
            range,
            description: entry.description.clone(),
        })
    }

    /// The values that a field may have: a list, or one with a name.
    fn accepted(&mut self, entry: &FieldEntry) -> AcceptedEntry {
        use serde_yaml_ng::Value;
        let unnamed = |values| AcceptedEntry { name: None, values };
        let read = match entry.accepted_values.clone() {
            None | Some(Value::Null) => Ok(unnamed(Vec::new())),
            Some(Value::Sequence(values)) => Ok(unnamed(values)),
            Some(named @ Value::Mapping(_)) => {
                let named = serde_yaml_ng::from_value(named).map_err(|error| error.to_string());
                named.and_then(|named: AcceptedEntry| {
                    let is_empty = named.values.is_empty();
                    if is_empty { Err("`values` is empty".to_owned()) } else { Ok(named) }
                })
            }
            Some(_) => Err("this is no list".to_owned()),
        };
        read.unwrap_or_else(|problem| {
            let message = format!("field `{}`: accepted_values: {problem}", entry.name);
            let hint = "use [a, b], or {name: a_rule, values: [a, b]}";
            self.report("accepted_values", message, Some(hint.into()));
            unnamed(Vec::new())
        })
    }

    /// What deletes: values of a field, and records without a value, whose key has to name the row.
    fn deletes(&mut self, entry: &DeletesEntry, fields: &[Field], key: &[String]) -> Deletes {
        self.columns_exist("deletes", std::slice::from_ref(&entry.field), fields);
        let values: Vec<String> = entry.values.iter().map(scalar).collect();
        if values.is_empty() {
            let hint = "name the values that mean a delete, such as [d]";
            self.report("deletes", "deletes: `values` is empty".to_owned(), Some(hint.into()));
        }
        if let Some(field) = fields.iter().find(|field| field.name == entry.field) {
            for value in values.iter().filter(|value| read_text(field.data_type, value).is_err()) {
                let (name, of) = (&field.name, field.data_type.name());
                let message = format!("deletes: {value:?} is no {of}, which `{name}` is");
                self.report("deletes", message, None);
            }
        }
        let problem = match key {
            [] => Some("deletes: a record without a value names its row by its key"),
            key if key.contains(&entry.field) => Some("deletes: the field is part of the key"),
            _ => None,
        };
        if let Some(problem) = problem.filter(|_| entry.tombstones) {
            let hint = "give `key` the field or fields that name a row";
            self.report("tombstones", problem.to_owned(), Some(hint.into()));
        }
        Deletes { field: entry.field.clone(), values, tombstones: entry.tombstones }
    }

    /// A rule: its SQL, or that and more.
    fn rule(&mut self, name: String, entry: serde_yaml_ng::Value) -> Option<Rule> {
        use serde_yaml_ng::Value;
        let read = match entry {
            entry @ Value::Mapping(_) => serde_yaml_ng::from_value(entry)
                .map(|entry: RuleEntry| (entry.sql, entry.severity.into()))
                .map_err(|error| error.to_string()),
            Value::Null => Err("there is no SQL".to_owned()),
            Value::Sequence(_) | Value::Tagged(_) => Err("this is no SQL".to_owned()),
            sql => Ok((scalar(&sql), Severity::Error)),
        };
        match read {
            Ok((sql, severity)) => Some(Rule { name, sql, severity }),
            Err(error) => {
                let hint = "use SQL, or {sql: \"…\", severity: warn}; severity is error or warn";
                let at = Diagnostic::file(self.file, format!("rule `{name}`: {error}"));
                self.found.push(at.hint(hint).find_after(self.text, "rules:", &name));
                None
            }
        }
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

    /// A verdict lists the names of the rules broken, so each means one rule; but that of fields'
    /// checks may say more of them in SQL.
    fn rule_names(&mut self, fields: &[Field], field_rule: Option<&String>, rules: &[Rule]) {
        let checks = fields.iter().flat_map(|f| [f.rule.as_ref(), f.accepted_rule.as_ref()]);
        let checks: BTreeSet<&String> = checks.flatten().chain(field_rule).collect();
        let section = |name| if Some(name) == field_rule { "field_rule:" } else { "fields:" };
        let checks = checks.into_iter().map(|name| (section(name), name, false));
        let ranges = fields.iter().filter_map(|field| Some(&field.range.as_ref()?.name));
        let ranges = ranges.map(|name| ("fields:", name, true));
        let rules = rules.iter().map(|rule| ("rules:", &rule.name, true));
        let all: Vec<(&str, &String, bool)> = checks.chain(ranges).chain(rules).collect();
        let mut taken = vec![MALFORMED];
        for (section, name, is_alone) in all {
            let problem = if !is_rule_name(name) {
                let hint =
                    "use letters, digits and _; names such as type:a are those of built-in rules";
                Some((format!("`{name}` cannot be a rule name"), hint))
            } else if taken.contains(&name.as_str()) {
                let hint = "give each rule and each range a name of its own";
                Some((format!("two rules are named `{name}`"), hint))
            } else {
                None
            };
            if is_alone {
                taken.push(name.as_str());
            }
            if let Some((message, hint)) = problem {
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

    /// How events are identified: by one field or a list of them, or as a word says.
    fn event_id(&mut self, entry: Option<serde_yaml_ng::Value>) -> EventId {
        match entry.as_ref().and_then(serde_yaml_ng::Value::as_str) {
            Some("none") => return EventId::Client,
            Some("content") => return EventId::Content,
            _ if entry.is_none() => return EventId::Client,
            _ => {}
        }
        let columns = self.columns("event_id", entry);
        if columns.is_empty() {
            let hint = "use a field, a list of fields, content or none".to_owned();
            self.report("event_id", "event_id: no field".to_owned(), Some(hint));
        }
        EventId::Columns(columns)
    }

    /// The columns that the option `name` lists: one, or a list of them.
    fn columns(&mut self, name: &str, entry: Option<serde_yaml_ng::Value>) -> Vec<String> {
        use serde_yaml_ng::Value;
        let text = |value: Value| if let Value::String(text) = value { Some(text) } else { None };
        let columns = match entry {
            None | Some(Value::Null) => Some(Vec::new()),
            Some(Value::Sequence(columns)) => columns.into_iter().map(text).collect(),
            Some(one) => text(one).map(|column| vec![column]),
        };
        columns.unwrap_or_else(|| {
            let hint = "use a field, or a list of fields".to_owned();
            self.report(name, format!("{name}: these are no fields"), Some(hint));
            Vec::new()
        })
    }

    /// What the option `name` lists must be fields, each once.
    fn columns_exist(&mut self, name: &str, columns: &[String], fields: &[Field]) {
        for (i, column) in columns.iter().enumerate() {
            if fields.iter().all(|field| field.name != *column) {
                let message = format!("{name}: `{column}` is not a field of this stream");
                let hint = nearest(column, fields.iter().map(|field| field.name.as_str()));
                self.report(name, message, hint);
            }
            if columns[..i].contains(column) {
                self.report(name, format!("{name}: `{column}` stands twice"), None);
            }
        }
    }

    fn report(&mut self, needle: &str, message: String, hint: Option<String>) {
        let diagnostic = Diagnostic::file(self.file, message).find(self.text, needle);
        self.found.push(diagnostic.maybe_hint(hint));
    }
}

/// Whether `name` can be the name of a rule.
fn is_rule_name(name: &str) -> bool {
    is_identifier(&name.to_ascii_lowercase())
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
        "text" | "string" | "varchar" | "char" | "character varying" | "character" | "uuid"
        | "json" => FieldType::Text,
        "int" | "integer" | "bigint" | "smallint" | "int64" | "int32" | "int8" | "int4" => {
            FieldType::Int
        }
        "float" | "double" | "real" | "float64" | "float8" | "float4" | "double precision" => {
            FieldType::Float
        }
        "bool" | "boolean" => FieldType::Bool,
        "timestamp"
        | "timestamptz"
        | "datetime"
        | "timestamp_ntz"
        | "timestamp_tz"
        | "timestamp without time zone"
        | "timestamp with time zone" => FieldType::Timestamp,
        "date" => FieldType::Date,
        "decimal" | "numeric" | "number" if arguments.is_empty() => FieldType::Decimal(38, 9),
        "decimal" | "numeric" | "number" => {
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
            let rules = [&f.rule, &f.accepted_rule].into_iter().flatten();
            let read = read.chain(rules.map(|rule| format!(" breaks {rule}")));
            let (name, read) = (&f.name, read.collect::<String>());
            format!("{name} {} {} {values} {:?}{read}", f.data_type.name(), f.required, f.range)
        })
        .collect();
    let meaning = format!("{fields:?} {:?} {:?}", contract.event_id, contract.rules);
    let arrays = if contract.takes_arrays { " arrays" } else { "" };
    let deletes = contract.deletes.as_ref().map(|deletes| format!(" {deletes:?}"));
    let meaning = format!("{meaning}{arrays}{}", deletes.unwrap_or_default());
    fingerprint(meaning.as_bytes())[..6].iter().map(|byte| format!("{byte:02x}")).collect()
}
