//! The content hash: the identity of events that carry no id.
//!
//! It covers the stream, the field names and the cleaned values, not the bytes. The order of
//! members, blanks around text, CSV or JSON, `105`, `"105"` or `105.0` in a numeric field, and the
//! spelling of one instant make no difference; null and empty members count as absent. Persisted in identities: must stay stable.

use crate::domain::{
    contract::FieldType,
    decode::{clean_text, parse_bool, scalar_text},
    identity::{Fingerprint, fingerprint},
    timestamp::parse_timestamp,
};

/// Longest run of zeros that a number may be written out with.
const EXPONENT_LIMIT: i64 = 400;

/// The hash of an object's members: (name, raw JSON value, declared type).
pub fn of_members<'a>(
    stream: &str,
    members: impl Iterator<Item = (&'a str, &'a str, Option<FieldType>)>,
) -> Fingerprint {
    let mut parts: Vec<(String, String)> = members
        .filter_map(|(name, raw, declared)| Some((name.to_owned(), canonical(raw, declared)?)))
        .collect();
    parts.sort();
    let mut bytes = Vec::with_capacity(256);
    push(&mut bytes, stream);
    for (name, value) in &parts {
        push(&mut bytes, name);
        push(&mut bytes, value);
    }
    fingerprint(&bytes)
}

/// The hash of a payload that has no members to speak of.
pub fn of_bytes(stream: &str, payload: &[u8]) -> Fingerprint {
    let mut bytes = Vec::with_capacity(stream.len() + payload.len() + 8);
    push(&mut bytes, stream);
    bytes.extend_from_slice(payload.trim_ascii());
    fingerprint(&bytes)
}

fn push(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend_from_slice(&(text.len() as u64).to_be_bytes());
    bytes.extend_from_slice(text.as_bytes());
}

fn canonical(raw: &str, declared: Option<FieldType>) -> Option<String> {
    if raw == "null" {
        return None;
    }
    if raw.starts_with(['{', '[']) {
        let parsed: serde_json::Value = serde_json::from_str(raw).ok()?;
        return Some(parsed.to_string());
    }
    let text = scalar_text(raw);
    let text = clean_text(&text)?;
    let instant = match declared {
        Some(FieldType::Timestamp) => parse_timestamp(&text).map(|us| format!("{us}us")),
        Some(FieldType::Bool) => parse_bool(&text).map(|value| value.to_string()),
        _ => None,
    };
    if instant.is_some() {
        return instant;
    }
    let is_number = declared.is_some_and(FieldType::is_number);
    if (is_number || !raw.starts_with('"'))
        && let Some(number) = canonical_number(&text)
    {
        return Some(number);
    }
    Some(text.into_owned())
}

/// The one way to write a decimal number: no exponent, no `+`, no leading zeros, no zeros at the
/// end of a fraction, no negative zero. `None` where `text` is not a number or an absurd one.
pub fn canonical_number(text: &str) -> Option<String> {
    let (negative, digits) = match text.as_bytes() {
        [b'-', ..] => (true, &text[1..]),
        [b'+', ..] => (false, &text[1..]),
        _ => (false, text),
    };
    let (mantissa, exponent) = match digits.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i64>().ok()?),
        None => (digits, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all: String = [whole, fraction].concat();
    if all.is_empty() || !all.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    if exponent.abs() > EXPONENT_LIMIT || all.len() > 2 * usize::try_from(EXPONENT_LIMIT).ok()? {
        return None;
    }
    let point = i64::try_from(whole.len()).ok()? + exponent;
    let digit_count = i64::try_from(all.len()).ok()?;
    let (whole, fraction) = if point <= 0 {
        ("0".to_owned(), "0".repeat(usize::try_from(-point).ok()?) + &all)
    } else if point >= digit_count {
        (all + &"0".repeat(usize::try_from(point - digit_count).ok()?), String::new())
    } else {
        let (whole, fraction) = all.split_at(usize::try_from(point).ok()?);
        (whole.to_owned(), fraction.to_owned())
    };
    let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
    let whole = if whole.is_empty() { "0" } else { whole };
    let number = if fraction.is_empty() { whole.to_owned() } else { format!("{whole}.{fraction}") };
    Some(if negative && number != "0" { format!("-{number}") } else { number })
}
