//! The content hash: the identity of events that carry no id.
//!
//! It covers the stream, the field names and the cleaned values, not the bytes. The order of
//! members, blanks around text, CSV or JSON, `105`, `"105"` or `105.0` in a numeric field, and the
//! spelling of one instant make no difference; null and empty members count as absent. Nested values
//! are compared by their text, so that no number is too large and no nesting too deep to tell two
//! apart. Persisted in identities: must stay stable.

use crate::domain::{
    contract::{Field, FieldType},
    decode::{Value, clean_text, formatted, parse_bool, scalar_text},
    identity::{Fingerprint, fingerprint},
    timestamp::parse_timestamp,
};

/// Longest run of zeros that a number may be written out with.
const EXPONENT_LIMIT: i64 = 400;

/// The hash of an object's members: (name, raw JSON value, field that is read from it).
pub fn of_members<'a>(
    stream: &str,
    members: impl Iterator<Item = (&'a str, &'a str, Option<&'a Field>)>,
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

fn canonical(raw: &str, field: Option<&Field>) -> Option<String> {
    if raw == "null" {
        return None;
    }
    if raw.starts_with(['{', '[']) {
        return Some(canonical_json(raw));
    }
    let text = scalar_text(raw);
    let text = clean_text(&text)?;
    let declared = field.map(|field| field.data_type);
    let instant = match declared {
        Some(FieldType::Timestamp) => {
            let at = match field.and_then(|field| formatted(field, &text)) {
                Some(Value::Timestamp(at)) => Some(at),
                _ => parse_timestamp(&text),
            };
            at.map(|us| format!("{us}us"))
        }
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

/// A value of a document. An array or object is followed by what is in it: an array by its values,
/// an object by name and value in turn.
struct Node<'a> {
    /// Of an array or object the first character.
    token: &'a str,
    /// Where the next value beside this one stands.
    end: usize,
}

/// An array or object that is being written.
enum Open {
    Array {
        next: usize,
        end: usize,
    },
    /// Names and values that are left, the next one last.
    Object(Vec<(String, usize)>),
}

impl Open {
    fn object(nodes: &[Node<'_>], at: usize) -> Self {
        let mut members = Vec::new();
        let mut name = at + 1;
        while name < nodes[at].end {
            let value = nodes[name].end;
            members.push((canonical_string(nodes[name].token), value));
            name = nodes[value].end;
        }
        // The sort is stable: of a repeated name the last member stands first, and that one counts.
        members.reverse();
        members.sort_by(|a, b| a.0.cmp(&b.0));
        members.dedup_by(|later, first| later.0 == first.0);
        members.reverse();
        Self::Object(members)
    }

    /// The next value, with its name where it is an object's.
    fn next(&mut self, nodes: &[Node<'_>]) -> Option<(Option<String>, usize)> {
        match self {
            Self::Array { next, end } => (*next < *end).then(|| {
                let at = *next;
                *next = nodes[at].end;
                (None, at)
            }),
            Self::Object(left) => left.pop().map(|(name, at)| (Some(name), at)),
        }
    }

    fn end(&self) -> char {
        match self {
            Self::Array { .. } => ']',
            Self::Object(_) => '}',
        }
    }
}

/// The one way to write a JSON value: no blanks, members by name, numbers as
/// [`canonical_number`] writes them. `raw` is a valid JSON array or object; no number is parsed, so
/// nothing is lost, and depth costs no stack: text is written once, however deep it stands.
fn canonical_json(raw: &str) -> String {
    let nodes = nodes(raw);
    let mut text = String::with_capacity(raw.len());
    let mut open: Vec<Open> = Vec::new();
    let mut at = 0;
    loop {
        match nodes[at].token {
            "[" => {
                text.push('[');
                open.push(Open::Array { next: at + 1, end: nodes[at].end });
            }
            "{" => {
                text.push('{');
                open.push(Open::object(&nodes, at));
            }
            string if string.starts_with('"') => text.push_str(&canonical_string(string)),
            token => match canonical_number(token) {
                Some(number) => text.push_str(&number),
                None => text.push_str(token),
            },
        }
        let (name, value) = loop {
            let Some(innermost) = open.last_mut() else { return text };
            if let Some(next) = innermost.next(&nodes) {
                break next;
            }
            text.push(innermost.end());
            open.pop();
        };
        if !text.ends_with(['[', '{']) {
            text.push(',');
        }
        if let Some(name) = name {
            text.push_str(&name);
            text.push(':');
        }
        at = value;
    }
}

/// The values of a valid JSON array or object, the outermost first.
fn nodes(raw: &str) -> Vec<Node<'_>> {
    let mut nodes = Vec::new();
    let mut open = Vec::new();
    let mut rest = raw;
    while let Some(first) = rest.chars().next() {
        let (token, after) = rest.split_at(token_length(rest, first));
        rest = after;
        match first {
            '{' | '[' => {
                open.push(nodes.len());
                nodes.push(Node { token, end: usize::MAX });
            }
            '}' | ']' => {
                let end = nodes.len();
                if let Some(closed) = open.pop().and_then(|at: usize| nodes.get_mut(at)) {
                    closed.end = end;
                }
            }
            c if c == ',' || c == ':' || c.is_ascii_whitespace() => {}
            _ => nodes.push(Node { token, end: nodes.len() + 1 }),
        }
    }
    nodes
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
    use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

    use super::*;

    fn hash(raw: &str) -> Fingerprint {
        of_members("s", [("doc", raw, None)].into_iter())
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

    /// The canonical form as it was first written, at a cost that grows with the square of the
    /// depth: identities that are stored hold it.
    fn first_written(raw: &str) -> String {
        enum Part {
            Array(Vec<String>),
            Object(Vec<(String, String)>, Option<String>),
        }
        let mut open: Vec<Part> = Vec::new();
        let mut rest = raw;
        while let Some(first) = rest.chars().next() {
            let (token, after) = rest.split_at(token_length(rest, first));
            rest = after;
            let value = match first {
                '{' => {
                    open.push(Part::Object(Vec::new(), None));
                    continue;
                }
                '[' => {
                    open.push(Part::Array(Vec::new()));
                    continue;
                }
                '}' | ']' => match open.pop().expect("valid JSON") {
                    Part::Array(values) => format!("[{}]", values.join(",")),
                    Part::Object(members, _) => {
                        // Of a repeated name the last one counts.
                        let members: std::collections::BTreeMap<_, _> =
                            members.into_iter().collect();
                        let members: Vec<String> =
                            members.into_iter().map(|(n, v)| format!("{n}:{v}")).collect();
                        format!("{{{}}}", members.join(","))
                    }
                },
                '"' => canonical_string(token),
                c if c == ',' || c == ':' || c.is_ascii_whitespace() => continue,
                _ => canonical_number(token).unwrap_or_else(|| token.to_owned()),
            };
            match open.last_mut() {
                Some(Part::Array(values)) => values.push(value),
                Some(Part::Object(members, name)) => match name.take() {
                    None => *name = Some(value),
                    Some(name) => members.push((name, value)),
                },
                None => return value,
            }
        }
        unreachable!("valid JSON")
    }

    /// A JSON document of few names, so that they repeat, with odd spellings and blanks.
    fn document(made: &mut StdRng, depth: usize) -> String {
        const SCALARS: [&str; 16] = [
            "0",
            "-0",
            "1.50",
            "1e2",
            "1E-3",
            "18446744073709551617",
            "1e999",
            "true",
            "null",
            r#""""#,
            r#""a b""#,
            r#""\u0041\/\n""#,
            r#""\ud800""#,
            r#""}],:{[""#,
            r#""é\"\\""#,
            "false",
        ];
        const NAMES: [&str; 8] = [
            r#""a""#,
            r#""a ""#,
            r#""a!""#,
            r#""\u0061""#,
            r#""""#,
            r#""\ud800""#,
            r#""é""#,
            r#""b\"""#,
        ];
        let pick =
            |made: &mut StdRng, from: &[&str]| from[made.random_range(0..from.len())].to_owned();
        let blank = |made: &mut StdRng| pick(made, &["", "", "", " ", "\n\t"]);
        let shape = if depth == 0 { 0 } else { made.random_range(0..3) };
        if shape == 0 {
            return pick(made, &SCALARS);
        }
        let parts: Vec<String> = (0..made.random_range(0..5))
            .map(|_| {
                let (before, value, after) = (blank(made), document(made, depth - 1), blank(made));
                if shape == 1 {
                    return format!("{before}{value}{after}");
                }
                format!("{before}{}{}:{before}{value}{after}", pick(made, &NAMES), blank(made))
            })
            .collect();
        let inner = parts.join(",");
        if shape == 1 { format!("[{inner}]") } else { format!("{{{inner}}}") }
    }

    #[test]
    fn the_canonical_form_stays_as_it_was_first_written() {
        let mut made = StdRng::seed_from_u64(1);
        let mut longest = 0;
        for _ in 0..20_000 {
            let document = format!("[{}]", document(&mut made, 6));
            let raw: &serde_json::value::RawValue =
                serde_json::from_str(&document).expect(&document);
            let canonical = canonical_json(raw.get());
            assert_eq!(canonical, first_written(raw.get()), "{document}");
            assert_eq!(canonical_json(&canonical), canonical, "{document}");
            longest = longest.max(canonical.len());
        }
        assert!(longest > 1_000, "no document of any size: {longest}");
    }

    #[test]
    fn a_digest_stays_what_it_was() {
        let raw = r#"{"b":[1.0,{"z":null,"a":"\u0041"}],"a ":1e2,"a":{},"c":[[]],"c":7}"#;
        assert_eq!(u128::from_be_bytes(hash(raw)), 0xe95570d355349f62636bec7b702bc7bb);
    }

    /// A mebibyte of brackets: each level of it written anew would be 137 GB.
    #[test]
    fn depth_costs_no_more_than_its_bytes() {
        const DEPTH: usize = 170_000;
        let nested = |open: &str, close: &str| open.repeat(DEPTH) + "0" + &close.repeat(DEPTH);
        for (raw, canonical) in [
            (nested("[", "]"), nested("[", "]")),
            (nested("{\"\":", "}"), nested("{\"\":", "}")),
            (nested("{\"b\":", ",\"a\":1}"), nested("{\"a\":1,\"b\":", "}")),
        ] {
            assert!(canonical_json(&raw) == canonical);
        }
    }
}
