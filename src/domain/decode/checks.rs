//! What single values break of a contract.

use super::{Value, read_text};
use crate::domain::contract::{Field, FieldType, Severity};

/// One rule that an event breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breach {
    /// Such as `not_null:user_id`.
    pub rule: String,
    pub kind: BreachKind,
    pub severity: Severity,
    /// The field at fault; empty when the whole event is.
    pub field: String,
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreachKind {
    /// The payload is not one JSON object.
    Malformed,
    MissingField,
    WrongType,
    NotAccepted,
    OutOfRange,
    /// A named SQL rule.
    Rule,
}

pub(super) fn wrong_type(field: &Field, found: &str) -> Breach {
    let message = format!("{:?} is not of type {}", found, field.data_type.name());
    breach(field, field.rule.as_deref(), "type", BreachKind::WrongType, message)
}

/// A breach of the rule `named`, which may be that of many fields; else of `<check>:<field>`.
fn breach(
    field: &Field,
    named: Option<&str>,
    check: &str,
    kind: BreachKind,
    message: String,
) -> Breach {
    let name = &field.name;
    let (rule, message) = match named {
        Some(rule) => (rule.to_owned(), format!("{name}: {message}")),
        None => (format!("{check}:{name}"), message),
    };
    Breach { rule, kind, severity: Severity::Error, field: name.clone(), message }
}

/// The row-level checks of one readable value.
pub(super) fn check(field: &Field, value: &Value<'_>) -> Option<Breach> {
    if *value == Value::Null {
        if !field.required {
            return None;
        }
        let message = "required, but missing, null or empty".to_owned();
        let (rule, kind) = (field.rule.as_deref(), BreachKind::MissingField);
        return Some(breach(field, rule, "not_null", kind, message));
    }
    if !field.accepted_values.is_empty() {
        let accepted = |text: &String| match value {
            Value::Text(found) => found == text,
            other => read_text(field.data_type, text).is_ok_and(|one| one == *other),
        };
        if !field.accepted_values.iter().any(accepted) {
            let text = display(value, field.data_type);
            let message = format!("{text:?} is not one of {}", field.accepted_values.join(", "));
            let (rule, kind) = (field.accepted_rule.as_deref(), BreachKind::NotAccepted);
            return Some(breach(field, rule, "accepted_values", kind, message));
        }
    }
    let (range, number) = (field.range.as_ref()?, as_number(value, field.data_type)?);
    let why = match (range.min, range.max) {
        (Some(min), Some(max)) if number < min || number > max => format!("outside {min}…{max}"),
        (Some(min), None) if number < min => format!("below {min}"),
        (None, Some(max)) if number > max => format!("above {max}"),
        _ => return None,
    };
    Some(Breach {
        rule: range.name.clone(),
        kind: BreachKind::OutOfRange,
        severity: Severity::Error,
        field: field.name.clone(),
        message: format!("{number} is {why}"),
    })
}

fn display(value: &Value<'_>, data_type: FieldType) -> String {
    match value {
        Value::Text(text) => text.to_string(),
        Value::Int(n) => n.to_string(),
        Value::Bool(b) => b.to_string(),
        Value::Timestamp(us) => format!("{us} µs since 1970"),
        Value::Date(days) => format!("{days} days since 1970"),
        other => as_number(other, data_type).map_or_else(String::new, |n| n.to_string()),
    }
}

fn as_number(value: &Value<'_>, data_type: FieldType) -> Option<f64> {
    match (value, data_type) {
        #[allow(clippy::cast_precision_loss)]
        (Value::Int(n), _) => Some(*n as f64),
        (Value::Float(n), _) => Some(*n),
        #[allow(clippy::cast_precision_loss)]
        (Value::Decimal(n), FieldType::Decimal(_, scale)) => {
            Some(*n as f64 / 10_f64.powi(i32::from(scale)))
        }
        _ => None,
    }
}
