//! Times and dates that are written in a form of their own.

use std::ops::RangeInclusive;

use chrono::{
    DateTime, Datelike as _, NaiveDate, NaiveDateTime,
    format::{Item, StrftimeItems},
};

use crate::domain::{
    contract::{Field, FieldType},
    decode::Value,
};

/// The years all of whose nanoseconds have a number, which the engine's functions count in. A year of
/// two digits, which `%Y` takes for one of the first century, is none of them.
const YEARS: RangeInclusive<i32> = 1678..=2261;

/// The time or date that cleaned text is in the format of a field, if it has one.
pub(in crate::domain) fn formatted(field: &Field, text: &str) -> Option<Value<'static>> {
    let format = field.format.as_deref()?;
    match field.data_type {
        FieldType::Timestamp => {
            let zoned = || DateTime::parse_from_str(text, format).map(|at| at.to_utc());
            let at = NaiveDateTime::parse_from_str(text, format).map(|at| at.and_utc());
            let at = zoned().or(at).ok().filter(|at| YEARS.contains(&at.year()))?;
            Some(Value::Timestamp(at.timestamp_micros()))
        }
        FieldType::Date => {
            let date = NaiveDate::parse_from_str(text, format).ok();
            let date = date.filter(|date| YEARS.contains(&date.year()))?;
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
        rule: None,
        accepted_values: Vec::new(),
        accepted_rule: None,
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
