//! The content hash: the identity of events that carry no id.
//!
//! It covers the stream, the field names and the cleaned values, not the bytes. The order of
//! members, blanks around text, CSV or JSON, `105`, `"105"` or `105.0` in a numeric field, and the
//! spelling of one instant make no difference; null and empty members count as absent. Nested values
//! are compared by their text, so that no number is too large and no nesting too deep to tell two
//! apart. Persisted in identities: must stay stable.

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
        return Some(canonical_json(raw));
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

/// An array or object that is being read.
enum Open {
    Array(Vec<String>),
    Object { members: Vec<(String, String)>, name: Option<String> },
}

impl Open {
    fn put(&mut self, value: String) {
        match self {
            Self::Array(values) => values.push(value),
            Self::Object { members, name } => match name.take() {
                None => *name = Some(value),
                Some(name) => members.push((name, value)),
            },
        }
    }

    /// Members by name; of a repeated name the last one counts.
    fn close(self) -> String {
        match self {
            Self::Array(values) => format!("[{}]", values.join(",")),
            Self::Object { mut members, .. } => {
                members.reverse();
                members.sort_by(|a, b| a.0.cmp(&b.0));
                members.dedup_by(|later, first| later.0 == first.0);
                let members: Vec<String> =
                    members.into_iter().map(|(name, value)| format!("{name}:{value}")).collect();
                format!("{{{}}}", members.join(","))
            }
        }
    }
}

/// The one way to write a JSON value: no blanks, members by name, numbers as
/// [`canonical_number`] writes them. `raw` is valid JSON; nothing is parsed into a number or a
/// tree, so nothing is lost and depth costs no stack.
fn canonical_json(raw: &str) -> String {
    let mut open: Vec<Open> = Vec::new();
    let mut rest = raw;
    while let Some(first) = rest.chars().next() {
        let length = token_length(rest, first);
        let (token, after) = rest.split_at(length);
        rest = after;
        let value = match first {
            '{' => {
                open.push(Open::Object { members: Vec::new(), name: None });
                continue;
            }
            '[' => {
                open.push(Open::Array(Vec::new()));
                continue;
            }
            '}' | ']' => match open.pop() {
                Some(closed) => closed.close(),
                None => break,
            },
            '"' => canonical_string(token),
            c if c == ',' || c == ':' || c.is_ascii_whitespace() => continue,
            _ => canonical_number(token).unwrap_or_else(|| token.to_owned()),
        };
        match open.last_mut() {
            Some(parent) => parent.put(value),
            None => return value,
        }
    }
    raw.to_owned()
}

fn token_length(text: &str, first: char) -> usize {
    match first {
        '"' => {
            let mut escaped = false;
            let end = text.char_indices().skip(1).find(|(_, c)| {
                let ends = *c == '"' && !escaped;
                escaped = *c == '\\' && !escaped;
                ends
            });
            end.map_or(text.len(), |(at, _)| at + 1)
        }
        c if "{}[],:".contains(c) || c.is_ascii_whitespace() => c.len_utf8(),
        _ => {
            let ends = |c: char| "{}[],:\"".contains(c) || c.is_ascii_whitespace();
            text.find(ends).unwrap_or(text.len())
        }
    }
}

/// One way to escape; a string that holds half a character stays as it is.
fn canonical_string(token: &str) -> String {
    let text = serde_json::from_str::<String>(token);
    text.and_then(|text| serde_json::to_string(&text)).unwrap_or_else(|_| token.to_owned())
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

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(raw: &str) -> Fingerprint {
        of_members("s", [("doc", raw, Some(FieldType::Text))].into_iter())
    }

    #[test]
    fn nested_values_that_differ_are_told_apart() {
        let deep = |inner: &str| format!("{}{inner}{}", "[".repeat(200), "]".repeat(200));
        let groups: [&[String]; 6] = [
            &[r#"{"id":18446744073709551617}"#.into(), r#"{"id":18446744073709551618}"#.into()],
            &[r#"{"a":12345678901234567.12}"#.into(), r#"{"a":12345678901234567.13}"#.into()],
            &["[1e400]".into(), "[2e400]".into(), "[1e999]".into(), "[2e999]".into()],
            &[deep("0"), deep("1"), deep("[]")],
            &[r#"{"x":"a","y":"\ud800"}"#.into(), r#"{"x":"b","y":"\ud800"}"#.into()],
            &[r#"{"a":"1"}"#.into(), r#"{"a":1}"#.into(), r#"{"a":null}"#.into(), "{}".into()],
        ];
        for group in groups {
            for (i, a) in group.iter().enumerate() {
                for b in &group[i + 1..] {
                    assert_ne!(hash(a), hash(b), "{a} {b}");
                }
            }
        }
    }

    #[test]
    fn spelling_makes_no_difference() {
        for (raw, canonical) in [
            (r#" { "b" : [1.0, 1e1 ,-0] , "a":"\u0041\/" } "#, r#"{"a":"A/","b":[1,10,0]}"#),
            (r#"{"a":1,"b":2,"a":3}"#, r#"{"a":3,"b":2}"#),
            (r#"["\"}",{}, [ ],true]"#, r#"["\"}",{},[],true]"#),
        ] {
            assert_eq!(canonical_json(raw), canonical);
        }
    }
}
