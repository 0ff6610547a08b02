//! An event's payload, read by its contract: typed values, what the contract does not know, and
//! every rule the event breaks. One implementation for the gateway and for Bronze.

mod checks;
mod deletes;
mod formats;

pub use checks::{Breach, BreachKind};
use checks::{check, wrong_type};
pub use formats::check_format;
pub(super) use formats::formatted;

use std::{borrow::Cow, collections::HashMap, fmt};

use foldhash::fast::RandomState;
use serde::{Deserializer as _, de};
use serde_json::value::RawValue;

use crate::domain::{
    array, content,
    contract::{Contract, EventId, Field, FieldType, Severity},
    identity::Fingerprint,
    timestamp::{parse_date, parse_timestamp},
};

/// A typed value; the variant is that of the field's declared type, or `Null`.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'a> {
    Null,
    Text(Cow<'a, str>),
    Int(i64),
    Float(f64),
    /// Unscaled, at the declared scale.
    Decimal(i128),
    Bool(bool),
    /// Microseconds since 1970, UTC.
    Timestamp(i64),
    /// Days since 1970.
    Date(i32),
}

impl Value<'_> {
    /// The same value, whatever happens to the payload.
    pub fn into_owned(self) -> Value<'static> {
        match self {
            Self::Null => Value::Null,
            Self::Text(text) => Value::Text(Cow::Owned(text.into_owned())),
            Self::Int(number) => Value::Int(number),
            Self::Float(number) => Value::Float(number),
            Self::Decimal(unscaled) => Value::Decimal(unscaled),
            Self::Bool(value) => Value::Bool(value),
            Self::Timestamp(micros) => Value::Timestamp(micros),
            Self::Date(days) => Value::Date(days),
        }
    }
}

/// What a contract makes of a payload, from which text is borrowed where it stands as it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded<'a> {
    /// One per field of the contract, in its order.
    pub values: Vec<Value<'a>>,
    /// The fields that the contract does not know, as a JSON object.
    pub rescued: Option<String>,
    pub breaches: Vec<Breach>,
    /// Whether it takes the row of its key away.
    pub is_delete: bool,
    /// The content hash. Present where the contract identifies events by content, and for every
    /// event that breaks a rule.
    pub content: Option<Fingerprint>,
}

/// Reads payloads by one contract.
pub struct Decoder<'a> {
    contract: &'a Contract,
    /// By the names that events give them.
    index: HashMap<&'a str, usize, RandomState>,
    always_hash: bool,
}

/// The rule that a payload breaks which is not one JSON object.
pub const MALFORMED: &str = "malformed";

/// An event with more members than this is no event.
const MEMBERS_MAX: usize = 10_000;
/// Up to so many members, a repeated name is looked for one by one.
const SCANNED_MEMBERS: usize = 64;

impl<'a> Decoder<'a> {
    pub fn new(contract: &'a Contract) -> Self {
        let names = contract.fields.iter().enumerate();
        Self {
            contract,
            index: names.map(|(i, field)| (field.member(), i)).collect(),
            always_hash: contract.event_id == EventId::Content,
        }
    }

    /// Never fails: a payload that is not JSON is a breach like any other.
    pub fn decode<'b>(&self, payload: &'b [u8]) -> Decoded<'b> {
        match self.read(payload) {
            Ok(members) => self.judge(&members),
            Err(error) => Decoded {
                content: Some(content::of_bytes(&self.contract.name, payload)),
                ..self.malformed(self.reason(payload, &error))
            },
        }
    }

    /// Why a payload is not one JSON object.
    fn reason(&self, payload: &[u8], error: &serde_json::Error) -> String {
        match self.contract.takes_arrays.then(|| array::events(payload)) {
            Some(Err(reason)) => format!("not a JSON array of events: {reason}"),
            Some(Ok(Some(_))) => "not one JSON object: an array in the place of an event".into(),
            _ => format!("not one JSON object: {error}"),
        }
    }

    fn malformed(&self, message: String) -> Decoded<'static> {
        let breach = Breach {
            rule: MALFORMED.to_owned(),
            kind: BreachKind::Malformed,
            severity: Severity::Error,
            field: String::new(),
            message,
        };
        Decoded {
            values: vec![Value::Null; self.contract.fields.len()],
            rescued: None,
            breaches: vec![breach],
            is_delete: false,
            content: None,
        }
    }

    /// The id that the contract's columns give an event; `None` where it has no value in one of
    /// them. Between the values of several stands `|`, and before one of theirs or a `\` a `\`.
    pub fn given_id(&self, decoded: &Decoded<'_>) -> Option<String> {
        match self.contract.event_id.columns() {
            [] => None,
            [column] => self.column_text(column, decoded),
            columns => {
                let values = columns.iter().map(|column| self.column_text(column, decoded));
                let escaped = values.map(|v| Some(v?.replace('\\', r"\\").replace('|', r"\|")));
                Some(escaped.collect::<Option<Vec<_>>>()?.join("|"))
            }
        }
    }

    /// A column's value as text, the form in which it identifies an event; numbers in their one
    /// canonical form. `None` where the event has none.
    pub fn column_text(&self, column: &str, decoded: &Decoded<'_>) -> Option<String> {
        let column = self.contract.field_index(column)?;
        let text = match decoded.values.get(column)? {
            Value::Null => return None,
            Value::Text(text) => text.to_string(),
            Value::Int(number) => number.to_string(),
            Value::Float(number) => {
                let text = number.to_string();
                content::canonical_number(&text).unwrap_or(text)
            }
            Value::Decimal(unscaled) => {
                let FieldType::Decimal(_, scale) = self.contract.fields[column].data_type else {
                    return Some(unscaled.to_string());
                };
                let text = format!("{unscaled}e-{scale}");
                content::canonical_number(&text).unwrap_or(text)
            }
            Value::Bool(value) => value.to_string(),
            Value::Timestamp(micros) => micros.to_string(),
            Value::Date(days) => days.to_string(),
        };
        Some(text)
    }

    fn judge<'b>(&self, members: &Members<'b>) -> Decoded<'b> {
        let mut values = vec![Value::Null; self.contract.fields.len()];
        let mut unreadable = HashMap::new();
        let mut rescued = Vec::new();
        for (name, raw) in members {
            match self.index.get(name.as_ref()) {
                None => rescued.push((name, *raw)),
                Some(&i) => match read_value(&self.contract.fields[i], raw.get()) {
                    Ok(value) => values[i] = value,
                    Err(found) => drop(unreadable.insert(i, found)),
                },
            }
        }
        let is_delete = self.deletes(&values);
        let mut breaches = Vec::new();
        for (i, field) in self.contract.fields.iter().enumerate() {
            if !self.is_judged(field, is_delete) {
                continue;
            }
            match unreadable.get(&i) {
                Some(found) => breaches.push(wrong_type(field, found)),
                None => breaches.extend(check(field, &values[i])),
            }
        }
        let content = (self.always_hash || !breaches.is_empty())
            .then(|| self.content_of(members.iter().map(|(name, raw)| (name.as_ref(), raw.get()))));
        Decoded { values, rescued: rescued_json(&rescued), breaches, is_delete, content }
    }

    /// The content hash of a payload (see [`content`]).
    pub fn content(&self, payload: &[u8]) -> Fingerprint {
        match self.read(payload) {
            Ok(members) => {
                self.content_of(members.iter().map(|(name, raw)| (name.as_ref(), raw.get())))
            }
            Err(_) => content::of_bytes(&self.contract.name, payload),
        }
    }

    fn content_of<'b>(&self, members: impl Iterator<Item = (&'b str, &'b str)>) -> Fingerprint {
        let typed = members.map(|(name, raw)| {
            let field = self.index.get(name).map(|&i| &self.contract.fields[i]);
            (name, raw, field)
        });
        content::of_members(&self.contract.name, typed)
    }

    fn read<'b>(&self, payload: &'b [u8]) -> Result<Members<'b>, serde_json::Error> {
        let mut deserializer = serde_json::Deserializer::from_slice(payload);
        let members = deserializer.deserialize_map(MembersVisitor(self.contract.fields.len()))?;
        deserializer.end()?;
        Ok(members)
    }
}

type Members<'a> = Vec<(Cow<'a, str>, &'a RawValue)>;

/// The members of an object as they stand; of a repeated name the last one counts.
struct MembersVisitor(usize);

impl<'de> de::Visitor<'de> for MembersVisitor {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
        let mut members: Members<'de> = Vec::with_capacity(self.0);
        let mut repeated = false;
        while let Some(name) = map.next_key::<Name<'de>>()? {
            if members.len() == MEMBERS_MAX {
                return Err(de::Error::custom(format_args!("more than {MEMBERS_MAX} members")));
            }
            let raw = map.next_value::<&'de RawValue>()?;
            let looked_at = &members[..members.len().min(SCANNED_MEMBERS)];
            repeated |= looked_at.len() < members.len()
                || looked_at.iter().any(|(known, _)| *known == name.0);
            members.push((name.0, raw));
        }
        Ok(if repeated { last_of_each(members) } else { members })
    }
}

/// Of every name its last member.
fn last_of_each(members: Members<'_>) -> Members<'_> {
    let mut last: HashMap<Cow<'_, str>, (usize, &RawValue)> = HashMap::new();
    for (at, (name, raw)) in members.into_iter().enumerate() {
        let place = last.get(&name).map_or(at, |(first, _)| *first);
        last.insert(name, (place, raw));
    }
    let mut members: Vec<_> = last.into_iter().collect();
    members.sort_unstable_by_key(|(_, (place, _))| *place);
    members.into_iter().map(|(name, (_, raw))| (name, raw)).collect()
}

/// A member name, borrowed where it holds no escapes.
struct Name<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> de::Deserialize<'de> for Name<'a> {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameVisitor;
        impl<'de> de::Visitor<'de> for NameVisitor {
            type Value = Name<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a member name")
            }
            fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Borrowed(name)))
            }
            fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Owned(name.to_owned())))
            }
        }
        deserializer.deserialize_str(NameVisitor)
    }
}

/// Text as the typed columns hold it: trimmed, inner runs of blanks made one; empty text and the
/// literal `NaN` are null.
pub fn clean_text(text: &str) -> Option<Cow<'_, str>> {
    let trimmed = text.trim();
    if trimmed.is_empty() || trimmed == "NaN" {
        return None;
    }
    if is_single_spaced(trimmed) {
        return Some(Cow::Borrowed(trimmed));
    }
    let mut cleaned = String::with_capacity(trimmed.len());
    for word in trimmed.split_whitespace() {
        if !cleaned.is_empty() {
            cleaned.push(' ');
        }
        cleaned.push_str(word);
    }
    Some(Cow::Owned(cleaned))
}

/// Whether all blanks of a text are single spaces.
fn is_single_spaced(text: &str) -> bool {
    if text.is_ascii() {
        // Without early ends, which the compiler turns into a few wide instructions.
        let bytes = text.as_bytes();
        let odd = bytes.iter().fold(false, |odd, byte| odd | (0x09..=0x0d).contains(byte));
        let pairs = bytes.iter().zip(bytes.get(1..).unwrap_or_default());
        return !pairs.fold(odd, |run, (one, next)| run | ((*one == b' ') & (*next == b' ')));
    }
    let mut previous_blank = false;
    text.chars().all(|c| {
        let run = c.is_whitespace() && (previous_blank || c != ' ');
        previous_blank = c.is_whitespace();
        !run
    })
}

/// The text inside a JSON string literal, or the literal itself for any other scalar.
pub fn scalar_text(raw: &str) -> Cow<'_, str> {
    let Some(inner) = raw.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else {
        return Cow::Borrowed(raw);
    };
    if !inner.contains('\\') {
        return Cow::Borrowed(inner);
    }
    serde_json::from_str::<String>(raw).map_or(Cow::Borrowed(raw), Cow::Owned)
}

/// Reads one JSON value as that of `field`; `Err` holds what was found instead.
fn read_value<'b>(field: &Field, raw: &'b str) -> Result<Value<'b>, String> {
    let data_type = field.data_type;
    if raw == "null" {
        return Ok(Value::Null);
    }
    if data_type == FieldType::Text && raw.starts_with(['{', '[']) {
        return Ok(Value::Text(Cow::Borrowed(raw)));
    }
    if raw.starts_with('"') && raw.contains('\\') && serde_json::from_str::<String>(raw).is_err() {
        return Err(raw.chars().take(60).collect());
    }
    match scalar_text(raw) {
        text if field.format.is_some() => {
            let Some(text) = clean_text(&text) else { return Ok(Value::Null) };
            let value = formatted(field, &text);
            value.ok_or_else(|| text.chars().take(60).collect())
        }
        Cow::Borrowed(text) => read_text(data_type, text),
        Cow::Owned(text) => read_text(data_type, &text).map(Value::into_owned),
    }
}

/// Reads text as `data_type`, strictly; `Err` holds what was found instead.
pub fn read_text(data_type: FieldType, text: &str) -> Result<Value<'_>, String> {
    let Some(text) = clean_text(text) else { return Ok(Value::Null) };
    let value = match data_type {
        FieldType::Text => return Ok(Value::Text(text)),
        FieldType::Int => parse_int(&text).map(Value::Int),
        FieldType::Float => text.parse().ok().filter(|n: &f64| n.is_finite()).map(Value::Float),
        FieldType::Decimal(precision, scale) => {
            parse_decimal(&text, precision, scale).map(Value::Decimal)
        }
        FieldType::Bool => parse_bool(&text).map(Value::Bool),
        FieldType::Timestamp => parse_timestamp(&text).map(Value::Timestamp),
        FieldType::Date => parse_date(&text).map(Value::Date),
    };
    value.ok_or_else(|| text.chars().take(60).collect())
}

/// 7 and 7.0 and 7e0 are integers, 7.5 is not.
fn parse_int(text: &str) -> Option<i64> {
    text.parse().ok().or_else(|| i64::try_from(parse_decimal_exact(text)?).ok())
}

fn parse_decimal_exact(text: &str) -> Option<i128> {
    let canonical = content::canonical_number(text)?;
    canonical.parse().ok()
}

/// The unscaled value at `scale`, rounded half away from zero from the text itself.
pub fn parse_decimal(text: &str, precision: u8, scale: i8) -> Option<i128> {
    let canonical = content::canonical_number(text)?;
    let (sign, digits) = match canonical.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, canonical.as_str()),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let scale = usize::try_from(scale).ok()?;
    let kept = fraction.get(..scale).unwrap_or(fraction);
    let padding = scale - kept.len();
    let mut unscaled: i128 = format!("{whole}{kept}").parse().ok()?;
    unscaled = unscaled.checked_mul(10_i128.checked_pow(u32::try_from(padding).ok()?)?)?;
    if fraction.as_bytes().get(scale).is_some_and(|digit| *digit >= b'5') {
        unscaled += 1;
    }
    let limit = 10_i128.checked_pow(u32::from(precision))?;
    (unscaled < limit).then_some(sign * unscaled)
}

/// The spellings of a boolean.
pub(super) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "true" | "True" | "TRUE" | "t" | "1" => Some(true),
        "false" | "False" | "FALSE" | "f" | "0" => Some(false),
        _ => None,
    }
}

fn rescued_json(members: &[(&Cow<'_, str>, &RawValue)]) -> Option<String> {
    if members.is_empty() {
        return None;
    }
    let object: Vec<String> = members
        .iter()
        .map(|(name, raw)| format!("{}:{}", serde_json::Value::from(name.as_ref()), raw.get()))
        .collect();
    Some(format!("{{{}}}", object.join(",")))
}

#[cfg(test)]
mod tests;
