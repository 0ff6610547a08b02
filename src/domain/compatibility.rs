//! Whether a contract can follow another over the same records.
//!
//! What the tables of a lake rest on is remembered; a contract that would make other events, other
//! identities or other values of records that count already is refused. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::domain::contract::{Contract, Field, FieldType, Range, Severity};

/// The one form of payloads.
const FORMAT: &str = "json";
/// Digits of the largest integer.
const INT_DIGITS: u8 = 19;

/// What is remembered of a contract. Persisted: fields may be added, none may change its meaning.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RecordedContract {
    pub stream: String,
    pub format: String,
    pub partitions: u32,
    /// As [`Contract::key_columns`] has it.
    pub key: Option<String>,
    /// As [`crate::domain::contract::EventId::describe`] has it.
    pub event_id: String,
    /// Whether a record may hold several events.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub takes_arrays: bool,
    /// What a record without a value is an event of, as `FIELD = VALUE`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tombstones: Option<String>,
    pub fields: Vec<RecordedField>,
    /// SQL by name.
    pub rules: BTreeMap<String, String>,
    /// Those of them that only warn.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub warnings: BTreeSet<String>,
}

/// One field of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RecordedField {
    pub name: String,
    #[serde(rename = "type")]
    pub data_type: FieldType,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    pub required: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    pub accepted_values: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted_rule: Option<String>,
    pub range: Option<Range>,
}

impl From<&Contract> for RecordedContract {
    fn from(contract: &Contract) -> Self {
        let field = |field: &Field| RecordedField {
            name: field.name.clone(),
            data_type: field.data_type,
            source: field.source.clone(),
            format: field.format.clone(),
            required: field.required,
            rule: field.rule.clone(),
            accepted_values: field.accepted_values.clone(),
            accepted_rule: field.accepted_rule.clone(),
            range: field.range.clone(),
        };
        Self {
            stream: contract.name.clone(),
            format: FORMAT.to_owned(),
            partitions: contract.partitions,
            key: contract.key_columns(),
            event_id: contract.event_id.describe(),
            takes_arrays: contract.takes_arrays,
            tombstones: tombstones(contract),
            fields: contract.fields.iter().map(field).collect(),
            rules: contract.rules.iter().map(|r| (r.name.clone(), r.sql.clone())).collect(),
            warnings: warnings(contract),
        }
    }
}

/// Where in a contract something differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum At {
    /// At a key of the file, such as `partitions`.
    Key(&'static str),
    /// At a field.
    Field(String),
}

/// One thing that differs from what is recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    pub at: At,
    /// Whether it cannot be.
    pub is_refused: bool,
    pub message: String,
    /// What would be right, or what follows.
    pub hint: String,
}

/// How `contract` differs from what is recorded of its stream.
pub fn differences(recorded: &RecordedContract, contract: &Contract) -> Vec<Difference> {
    let mut found = of_the_stream(recorded, contract);
    for field in &contract.fields {
        match recorded.fields.iter().find(|old| old.name == field.name) {
            Some(old) => found.extend(of_a_field(old, field, is_identifying(contract, field))),
            None if field.required => found.push(refused(
                At::Field(field.name.clone()),
                format!("new field `{}` is required", field.name),
                "records that count already do not have it: leave out `required`",
            )),
            None => found.push(note(
                At::Field(field.name.clone()),
                format!("new optional field `{}`", field.name),
                "older records show what stood in `_rescued`",
            )),
        }
    }
    for old in &recorded.fields {
        if contract.field_index(&old.name).is_none() {
            let message = format!("field `{}` was removed", old.name);
            found.push(note(
                At::Key("fields"),
                message,
                "its values stand in `_rescued` from now on",
            ));
        }
    }
    let warn = warnings(contract);
    let now =
        contract.rules.iter().map(|rule| (&rule.name, (&rule.sql, warn.contains(&rule.name))));
    let now: BTreeMap<&String, _> = now.collect();
    let then = recorded.rules.iter();
    let then = then.map(|(name, sql)| (name, (sql, recorded.warnings.contains(name)))).collect();
    if now != then {
        let names = now.keys().chain(then.keys()).filter(|name| now.get(*name) != then.get(*name));
        let names: BTreeSet<&str> = names.map(|name| name.as_str()).collect();
        let names: Vec<&str> = names.into_iter().collect();
        found.push(note(
            At::Key("rules"),
            format!("changed rules: {}", names.join(", ")),
            FROM_NOW,
        ));
    }
    found
}

/// What a record without a value is an event of.
fn tombstones(contract: &Contract) -> Option<String> {
    let deletes = contract.deletes.as_ref().filter(|deletes| deletes.tombstones)?;
    Some(format!("{} = {}", deletes.field, deletes.values.first()?))
}

/// The names of the rules that only warn.
fn warnings(contract: &Contract) -> BTreeSet<String> {
    let rules = contract.rules.iter().filter(|rule| rule.severity == Severity::Warn);
    rules.map(|rule| rule.name.clone()).collect()
}

const FROM_NOW: &str = "what is decided stays decided; it applies to new records and to replays";

fn refused(at: At, message: String, hint: impl Into<String>) -> Difference {
    Difference { at, is_refused: true, message, hint: hint.into() }
}

fn note(at: At, message: String, hint: impl Into<String>) -> Difference {
    Difference { at, is_refused: false, message, hint: hint.into() }
}

fn of_the_stream(recorded: &RecordedContract, contract: &Contract) -> Vec<Difference> {
    let key = |key: &Option<String>| key.clone().unwrap_or_else(|| "none".to_owned());
    let records = |arrays: bool| if arrays { "arrays" } else { "events" }.to_owned();
    let compared = [
        (
            "records",
            records(recorded.takes_arrays),
            records(contract.takes_arrays),
            "records that are there already would hold other events",
        ),
        ("format", recorded.format.clone(), FORMAT.to_owned(), "its records cannot be read"),
        (
            "partitions",
            recorded.partitions.to_string(),
            contract.partitions.to_string(),
            "events of one key would stand in two partitions",
        ),
        (
            "key",
            key(&recorded.key),
            key(&contract.key_columns()),
            "events of one key would stand in two partitions",
        ),
        (
            "event_id",
            recorded.event_id.clone(),
            contract.event_id.describe(),
            "events that count already would not be known again",
        ),
    ];
    // What came without a value before was set aside, and stays so.
    let deletes = recorded.tombstones.as_ref().map(|then| {
        let now = tombstones(contract).unwrap_or_else(|| "none".to_owned());
        (
            "tombstones",
            then.clone(),
            now,
            "records without a value that count already would be others",
        )
    });
    let changed = compared.into_iter().chain(deletes).filter(|(_, then, now, _)| then != now);
    changed
        .map(|(name, then, now, why)| {
            let message = format!("{name} was {then} and is now {now}: {why}");
            let hint = format!("keep {then}, or make a new stream");
            refused(At::Key(name), message, hint)
        })
        .collect()
}

/// Whether its text names the event or its partition.
fn is_identifying(contract: &Contract, field: &Field) -> bool {
    contract.event_id.columns().contains(&field.name) || contract.key.contains(&field.name)
}

fn of_a_field(old: &RecordedField, new: &Field, identifies: bool) -> Vec<Difference> {
    let at = || At::Field(new.name.clone());
    let name = &new.name;
    let mut found = Vec::new();
    let (was, is) = (old.data_type.name(), new.data_type.name());
    if old.data_type != new.data_type {
        if is_wider(old.data_type, new.data_type, identifies) {
            let message = format!("field `{name}`: {was} became the wider {is}");
            found.push(note(at(), message, "tables that read it have to be rebuilt"));
        } else {
            let message = format!("field `{name}`: {is} does not hold every {was}");
            found.push(refused(at(), message, wider_types(old.data_type, identifies)));
        }
    }
    let (was, is) = (old.source.as_deref().unwrap_or(name), new.member());
    if was != is {
        let message = format!("field `{name}` was read from `{was}` and is now from `{is}`");
        let hint = format!("records that count already have `{was}`: keep it, or add a field");
        found.push(refused(at(), message, hint));
    }
    if old.format != new.format {
        let shown = |format: &Option<String>| format.clone().unwrap_or_else(|| "ISO 8601".into());
        let (was, is) = (shown(&old.format), shown(&new.format));
        let message = format!("field `{name}`: its times were written as {was} and are now {is}");
        let hint = format!("records that count already are written as {was}: keep it");
        found.push(refused(at(), message, hint));
    }
    match (old.required, new.required) {
        (false, true) => found.push(refused(
            at(),
            format!("field `{name}` became required"),
            "records that count already may lack it: leave out `required`, or give a rule",
        )),
        (true, false) => {
            found.push(note(at(), format!("field `{name}` became optional"), FROM_NOW))
        }
        _ => {}
    }
    let changed = [
        (old.accepted_values != new.accepted_values, "accepted values"),
        (old.range != new.range, "range"),
        (old.rule != new.rule || old.accepted_rule != new.accepted_rule, "names of its rules"),
    ];
    for (_, what) in changed.into_iter().filter(|(is_changed, _)| *is_changed) {
        found.push(note(at(), format!("field `{name}`: changed {what}"), FROM_NOW));
    }
    found
}

/// Whether all that reads as `from` reads as `to`, without loss; where the field `identifies`
/// events or their partition, also with the same text.
fn is_wider(from: FieldType, to: FieldType, identifies: bool) -> bool {
    match (from, to) {
        (FieldType::Int, FieldType::Decimal(digits, scale)) => {
            i16::from(digits) - i16::from(scale) >= i16::from(INT_DIGITS)
        }
        (FieldType::Decimal(digits, scale), FieldType::Decimal(new_digits, new_scale)) => {
            let whole = |digits: u8, scale: i8| i16::from(digits) - i16::from(scale);
            let scales = if identifies { new_scale == scale } else { new_scale >= scale };
            scales && whole(new_digits, new_scale) >= whole(digits, scale)
        }
        // Text keeps every value as it was written: 7.0 is not 7 any more.
        (_, FieldType::Text) => !identifies,
        _ => false,
    }
}

fn wider_types(from: FieldType, identifies: bool) -> String {
    let number = match from {
        FieldType::Int => Some(format!("decimal({INT_DIGITS},0) or wider")),
        FieldType::Decimal(digits, scale) => {
            let whole = i16::from(digits) - i16::from(scale);
            let behind = if identifies { "" } else { "at least " };
            Some(format!(
                "a decimal with at least {whole} digits before the point and {behind}{scale} behind"
            ))
        }
        _ => None,
    };
    let text = (from != FieldType::Text && !identifies).then(|| "text".to_owned());
    let fine: Vec<String> = [Some(from.name()), number, text].into_iter().flatten().collect();
    let names = if identifies { "; its text names events or their partition" } else { "" };
    format!("fine would be {}{names}", fine.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::decode::{Value, read_text};

    const TYPES: [FieldType; 11] = [
        FieldType::Text,
        FieldType::Int,
        FieldType::Float,
        FieldType::Decimal(18, 0),
        FieldType::Decimal(19, 0),
        FieldType::Decimal(21, 2),
        FieldType::Decimal(5, 2),
        FieldType::Decimal(7, 3),
        FieldType::Bool,
        FieldType::Timestamp,
        FieldType::Date,
    ];

    const TEXTS: [&str; 26] = [
        "",
        " ",
        "7",
        "7.0",
        "7e0",
        "+7",
        "007",
        "-0",
        "7.5",
        "999.994",
        "999.995",
        "99.9994",
        "9223372036854775807",
        "-9223372036854775808",
        "99999999999999999999",
        "1e18",
        "1e300",
        "0.1",
        "true",
        "f",
        "1",
        "2026-03-02",
        "2026-03-02 18:00:19",
        "NaN",
        "x  y",
        "[1]",
    ];

    #[test]
    fn what_reads_as_a_type_reads_as_every_wider_one() {
        let mut pairs = Vec::new();
        for from in TYPES {
            for to in TYPES.into_iter().filter(|to| *to != from) {
                if !is_wider(from, to, false) {
                    continue;
                }
                pairs.push((from.name(), to.name()));
                for text in TEXTS {
                    let (narrow, wide) = (read_text(from, text), read_text(to, text));
                    let null = |read: &Result<Value<'_>, String>| *read == Ok(Value::Null);
                    assert!(narrow.is_err() || wide.is_ok(), "{text:?} {from:?} {to:?}");
                    assert!(narrow.is_err() || null(&narrow) == null(&wide), "{text:?}");
                }
            }
        }
        let numbers: Vec<_> = pairs.iter().filter(|(_, to)| to != "text").collect();
        let numbers: Vec<String> = numbers.iter().map(|(a, b)| format!("{a} {b}")).collect();
        assert_eq!(
            numbers,
            [
                "int decimal(19,0)",
                "int decimal(21,2)",
                "decimal(18,0) decimal(19,0)",
                "decimal(18,0) decimal(21,2)",
                "decimal(19,0) decimal(21,2)",
                "decimal(5,2) decimal(21,2)",
                "decimal(5,2) decimal(7,3)",
            ]
        );
        assert_eq!(pairs.len(), numbers.len() + TYPES.len() - 1);
    }

    #[test]
    fn what_names_events_keeps_its_text() {
        let identifies = |from, to| is_wider(from, to, true);
        assert!(identifies(FieldType::Int, FieldType::Decimal(19, 0)));
        assert!(identifies(FieldType::Decimal(5, 2), FieldType::Decimal(6, 2)));
        assert!(!identifies(FieldType::Decimal(5, 2), FieldType::Decimal(7, 3)));
        assert!(!identifies(FieldType::Int, FieldType::Text));
    }
}
