//! What a row is sorted by: the value of one member of its event.

use std::collections::HashMap;

use serde_json::value::RawValue;

use crate::domain::{
    contract::FieldType,
    decode::{Value, read_text, scalar_text},
};

/// Numbers are compared with so many digits in all, and after the point.
pub(super) const NUMBER: (u8, i8) = (38, 9);

/// A place in the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    /// Microseconds since 1970, UTC.
    Time(i64),
    /// Unscaled, at the scale of [`NUMBER`].
    Number(i128),
}

/// Reads `member` of an event as the contracts read times and numbers; of a repeated name the last
/// one counts. `Err`: why the row cannot be sorted.
pub(super) fn read(event: &[u8], member: &str) -> Result<Key, String> {
    let text = text(event, member)?;
    if let Ok(Value::Timestamp(micros)) = read_text(FieldType::Timestamp, &text) {
        return Ok(Key::Time(micros));
    }
    match read_text(FieldType::Decimal(NUMBER.0, NUMBER.1), &text) {
        Ok(Value::Decimal(unscaled)) => Ok(Key::Number(unscaled)),
        Ok(_) => Err(format!("{member} is empty, so the row has no place in the order")),
        Err(found) => Err(format!(
            "{member} is {found:?}, neither a time (as 2024-05-25 15:46:52.42) nor a number"
        )),
    }
}

/// Why a row with a number has no place among rows with times.
pub(super) fn not_a_time(event: &[u8], member: &str) -> String {
    let found = text(event, member).unwrap_or_default();
    format!("{member} is {found:?}, not a time (as 2024-05-25 15:46:52.42) as in other rows")
}

fn text(event: &[u8], member: &str) -> Result<String, String> {
    let members: HashMap<String, &RawValue> =
        serde_json::from_slice(event).map_err(|error| format!("not one JSON object: {error}"))?;
    match members.get(member).map(|raw| raw.get()) {
        None => Err(format!("{member} is missing, so the row has no place in the order")),
        Some("null") => Err(format!("{member} is null, so the row has no place in the order")),
        Some(raw) => Ok(scalar_text(raw).into_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_numbers_are_read_like_those_of_contracts() {
        let read = |value: &str| read(format!("{{\"a\":1,\"t\":{value}}}").as_bytes(), "t");
        let micros = 1_772_474_419_456_000;
        for time in ["\"2026-03-02 18:00:19.456\"", "\" 2026-03-02T19:00:19.456+01:00 \""] {
            assert_eq!(read(time), Ok(Key::Time(micros)), "{time}");
        }
        for (number, unscaled) in [
            ("1.5", 1_500_000_000),
            ("\"-2\"", -2_000_000_000),
            ("9007199254740993", 9_007_199_254_740_993_000_000_000),
        ] {
            assert_eq!(read(number), Ok(Key::Number(unscaled)), "{number}");
        }
        assert_eq!(read("1,\"t\":2"), Ok(Key::Number(2_000_000_000)), "the last one counts");
    }

    #[test]
    fn a_row_without_a_place_says_why() {
        let reason = |event: &str| read(event.as_bytes(), "t").expect_err("no place");
        let nowhere = "so the row has no place in the order";
        assert_eq!(reason("{\"a\":1}"), format!("t is missing, {nowhere}"));
        assert_eq!(reason("{\"t\":null}"), format!("t is null, {nowhere}"));
        assert_eq!(reason("{\"t\":\" \"}"), format!("t is empty, {nowhere}"));
        for value in ["\"yesterday\"", "\"2024-13-01 00:00:00\"", "true", "[1]", "{}"] {
            let reason = reason(&format!("{{\"t\":{value}}}"));
            let told = "neither a time (as 2024-05-25 15:46:52.42) nor a number";
            assert!(reason.starts_with("t is \"") && reason.ends_with(told), "{reason}");
        }
    }
}
