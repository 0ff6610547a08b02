//! CSV with a header row: every row becomes a JSON object of strings, an empty field null.
//!
//! Quoted fields may hold separators, doubled quotes and line ends. A quote that is never closed
//! costs the line it stands on, not the rest of the file: reading goes on with the next line.

use std::collections::{HashSet, VecDeque};

use bytes::Bytes;

use super::{
    Encoding, ReadError, Row, Rows,
    lines::{Line, Lines, too_long},
};
use crate::domain::csv::{Fed, Fields};

/// How much text a quoted field may span before its quote counts as never closed.
const RECORD_BYTES_MAX: usize = 1024 * 1024;

pub(super) struct CsvRows {
    lines: Lines,
    /// Lines that were read ahead in search of a closing quote.
    ahead: VecDeque<Line>,
    encoding: Encoding,
    /// Column names as JSON, each with its colon; `None` before the header is read.
    columns: Option<Vec<String>>,
    fields: Fields,
}

/// The line that a record begins on, and what is wrong with it.
type Record = (u64, Result<(), String>);

impl CsvRows {
    pub(super) fn new(lines: Lines, encoding: Encoding) -> Self {
        Self { lines, ahead: VecDeque::new(), encoding, columns: None, fields: Fields::default() }
    }

    fn next_line(&mut self) -> Result<Option<Line>, ReadError> {
        match self.ahead.pop_front() {
            Some(line) => Ok(Some(line)),
            None => self.lines.next(),
        }
    }

    /// Reads one record into `self.fields`; the line it begins on, and what is wrong with it.
    fn next_record(&mut self) -> Result<Option<Record>, ReadError> {
        let first = loop {
            match self.next_line()? {
                None => return Ok(None),
                Some(line) if line.is_blank() => {}
                Some(line) => break line,
            }
        };
        if first.cut {
            return Ok(Some((first.number, Err(too_long()))));
        }
        self.fields.clear();
        let number = first.number;
        let mut taken = Vec::new();
        let mut spanned = first.bytes.len();
        let mut read = self.fields.feed(&first.bytes);
        while read == Ok(Fed::Open) {
            match self.next_line()? {
                Some(line) if spanned + line.bytes.len() <= RECORD_BYTES_MAX => {
                    spanned += line.bytes.len();
                    read = self.fields.feed(&line.bytes);
                    taken.push(line);
                }
                other => {
                    taken.extend(other);
                    read = Err(self.fields.never_closed());
                }
            }
        }
        if let Err(reason) = read {
            for line in taken.into_iter().rev() {
                self.ahead.push_front(line);
            }
            return Ok(Some((number, Err(reason))));
        }
        Ok(Some((number, Ok(()))))
    }

    fn read_header(&mut self) -> Result<Option<Vec<String>>, ReadError> {
        let Some((line, read)) = self.next_record()? else { return Ok(None) };
        let place = format!("{}:{line}", self.lines.name);
        let failed = |reason: String| ReadError::Content(place.clone(), reason);
        read.map_err(&failed)?;
        let mut names = HashSet::new();
        let mut columns = Vec::new();
        for field in self.fields.iter() {
            let name = self.encoding.decode(field).ok_or_else(|| failed(not_utf8()))?;
            let name = name.trim();
            if !names.insert(name.to_owned()) {
                return Err(failed(format!("the header names column {name:?} twice")));
            }
            columns.push(format!("{}:", serde_json::Value::from(name)));
        }
        Ok(Some(columns))
    }
}

impl Rows for CsvRows {
    fn next_row(&mut self) -> Result<Option<Row>, ReadError> {
        if self.columns.is_none() {
            self.columns = self.read_header()?;
        }
        let Some((line, read)) = self.next_record()? else { return Ok(None) };
        let columns = self.columns.as_deref().unwrap_or_default();
        let content = read.and_then(|()| to_json(columns, &self.fields, self.encoding));
        Ok(Some(Row { line, content }))
    }
}

fn to_json(columns: &[String], fields: &Fields, encoding: Encoding) -> Result<Bytes, String> {
    let found = fields.count();
    if found != columns.len() {
        let expected = columns.len();
        let what = if found < expected { "too few" } else { "too many" };
        return Err(format!("{what} fields: {found}, but the header has {expected}"));
    }
    let mut json = String::with_capacity(columns.len() * 40);
    for (column, field) in columns.iter().zip(fields.iter()) {
        json.push(if json.is_empty() { '{' } else { ',' });
        json.push_str(column);
        let text = encoding.decode(field).ok_or_else(not_utf8)?;
        if text.is_empty() {
            json.push_str("null");
        } else {
            json.push_str(&serde_json::Value::from(text).to_string());
        }
    }
    json.push('}');
    Ok(Bytes::from(json))
}

fn not_utf8() -> String {
    "not valid UTF-8; is the file in Latin-1 (--encoding latin-1)?".to_owned()
}
