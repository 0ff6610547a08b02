//! NDJSON: one JSON object per line. The bytes go as they are; a line that is not one JSON object
//! is refused here, where file and line are known.

use std::fmt;

use bytes::Bytes;
use serde::de::{self, Deserializer as _, IgnoredAny};

use super::{
    ReadError, Row, Rows,
    lines::{Lines, too_long},
};

pub(super) struct NdjsonRows {
    lines: Lines,
}

impl NdjsonRows {
    pub(super) fn new(lines: Lines) -> Self {
        Self { lines }
    }
}

impl Rows for NdjsonRows {
    fn next_row(&mut self) -> Result<Option<Row>, ReadError> {
        while let Some(line) = self.lines.next()? {
            if line.is_blank() {
                continue;
            }
            let content = if line.cut {
                Err(too_long())
            } else {
                let object = line.bytes.trim_ascii();
                check_object(object).map(|()| Bytes::copy_from_slice(object))
            };
            return Ok(Some(Row { line: line.number, content }));
        }
        Ok(None)
    }
}

fn check_object(line: &[u8]) -> Result<(), String> {
    let text = std::str::from_utf8(line).map_err(|error| {
        format!("not valid UTF-8 at byte {} of the line; JSON is UTF-8", error.valid_up_to() + 1)
    })?;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let read = deserializer.deserialize_map(ObjectVisitor).and_then(|()| deserializer.end());
    read.map_err(|error| describe(text, &error))
}

/// Names the usual culprits, which a JSON parser only calls an unexpected value.
fn describe(text: &str, error: &serde_json::Error) -> String {
    let column = error.column();
    // The parser stops at or just behind the first character that it cannot use.
    let near = text.get(column.saturating_sub(2)..).unwrap_or_default();
    let culprit = ["NaN", "Infinity"].into_iter().find(|word| {
        near.starts_with(word) || near.get(1..).is_some_and(|rest| rest.starts_with(word))
    });
    match culprit {
        Some(word) => format!("bare {word} at column {column} is not JSON; write null"),
        None if !text.starts_with('{') => "not a JSON object".to_owned(),
        None => {
            let message = error.to_string();
            let cause = message.split(" at line ").next().unwrap_or_default();
            format!("not one JSON object: {cause} at column {column}")
        }
    }
}

/// Walks over an object without keeping anything of it.
struct ObjectVisitor;

impl<'de> de::Visitor<'de> for ObjectVisitor {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(())
    }
}
