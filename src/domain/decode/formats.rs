//! Times and dates that are written in a form of their own.

use chrono::{
    DateTime, NaiveDate, NaiveDateTime,
    format::{Item, StrftimeItems},
};

use crate::domain::{
    contract::{Field, FieldType},
    decode::Value,
};

/// The time or date that cleaned text is in the format of a field, if it has one.
pub(in crate::domain) fn formatted(field: &Field, text: &str) -> Option<Value<'static>> {
    let format = field.format.as_deref()?;
    match field.data_type {
        FieldType::Timestamp => {
            let zoned = || DateTime::parse_from_str(text, format).map(|at| at.to_utc());
            let at = NaiveDateTime::parse_from_str(text, format).map(|at| at.and_utc());
            Some(Value::Timestamp(zoned().or(at).ok()?.timestamp_micros()))
        }
        FieldType::Date => {
            let date = NaiveDate::parse_from_str(text, format).ok()?;
            let days = date.signed_duration_since(NaiveDate::default()).num_days();
            Some(Value::Date(i32::try_from(days).ok()?))
        }
        _ => None,
    }
}

/// Whether a format can be read as such a type; or what is wrong with it.
pub fn check_format(data_type: FieldType, format: &str) -> Result<(), &'static str> {
    let items: Vec<Item<'_>> = StrftimeItems::new(format).collect();
    if items.contains(&Item::Error) {
        return Err("holds what strftime does not know");
    }
    let field = Field {
        name: String::new(),
        source: None,
        format: Some(format.to_owned()),
        data_type,
        required: false,
        accepted_values: Vec::new(),
        range: None,
        description: String::new(),
    };
    // What it writes it must read.
    let sample = DateTime::from_timestamp(1_790_000_000, 0).unwrap_or_default();
    let text = sample.format_with_items(items.iter()).to_string();
    match formatted(&field, &text) {
        Some(_) => Ok(()),
        None => Err("does not name a whole date or time"),
    }
}
