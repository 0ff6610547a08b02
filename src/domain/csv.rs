//! CSV as RFC 4180 has it: what a quote opens, a quote must close, and then the field is over.
//!
//! A lenient reader takes everything up to the next quote, however far that is, for one field, and
//! rows vanish without a word. A quote inside a field that does not begin with one is plain text.

/// The fields of one record, end to end.
#[derive(Debug, Default)]
pub struct Fields {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    state: State,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    FieldStart,
    Plain,
    Quoted,
    /// Behind a quote inside a quoted field: its end, or the first of two.
    QuoteSeen,
}

/// What a record wants after a line.
#[derive(Debug, PartialEq, Eq)]
pub enum Fed {
    /// The record ends with this line.
    Complete,
    /// A quoted field goes on in the next line.
    Open,
}

impl Fields {
    /// Begins a new record.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
        self.state = State::FieldStart;
    }

    /// Number of fields that are complete.
    pub fn count(&self) -> usize {
        self.ends.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| &self.bytes[start..*end])
    }

    /// Takes the next line of the record, with its line end. The error says what is wrong with it.
    pub fn feed(&mut self, line: &[u8]) -> Result<Fed, String> {
        let content = without_end(line);
        if self.state == State::FieldStart && !content.contains(&b'"') {
            for field in content.split(|byte| *byte == b',') {
                self.bytes.extend_from_slice(field);
                self.ends.push(self.bytes.len());
            }
            return Ok(Fed::Complete);
        }
        for byte in content {
            self.step(*byte)?;
        }
        if self.state == State::Quoted {
            self.bytes.extend_from_slice(&line[content.len()..]);
            return Ok(Fed::Open);
        }
        self.ends.push(self.bytes.len());
        Ok(Fed::Complete)
    }

    /// The error where the text ends inside a quoted field.
    pub fn never_closed(&self) -> String {
        format!("the quote that opens field {} is never closed", self.ends.len() + 1)
    }

    fn step(&mut self, byte: u8) -> Result<(), String> {
        self.state = match (self.state, byte) {
            (State::FieldStart, b'"') => State::Quoted,
            (State::FieldStart | State::Plain | State::QuoteSeen, b',') => {
                self.ends.push(self.bytes.len());
                State::FieldStart
            }
            (State::Quoted, b'"') => State::QuoteSeen,
            (State::QuoteSeen, b'"') | (State::Quoted, _) => {
                self.bytes.push(byte);
                State::Quoted
            }
            (State::QuoteSeen, _) => {
                let field = self.ends.len() + 1;
                return Err(format!("text follows the closing quote of field {field}"));
            }
            (State::FieldStart | State::Plain, _) => {
                self.bytes.push(byte);
                State::Plain
            }
        };
        Ok(())
    }
}

/// A line without its line end.
fn without_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// A record of a text: the line that it begins on, from 1, and its fields.
pub type TextRecord = (usize, Vec<String>);

/// All records of `text`, without blank lines; or the line of the first that is not CSV, and why.
pub fn read(text: &str) -> Result<Vec<TextRecord>, (usize, String)> {
    let mut records = Vec::new();
    let mut fields = Fields::default();
    let mut lines = (1..).zip(text.split_inclusive('\n'));
    while let Some((number, line)) = lines.next() {
        if line.trim().is_empty() {
            continue;
        }
        fields.clear();
        let mut fed = fields.feed(line.as_bytes());
        while fed == Ok(Fed::Open) {
            fed = match lines.next() {
                Some((_, line)) => fields.feed(line.as_bytes()),
                None => Err(fields.never_closed()),
            };
        }
        fed.map_err(|reason| (number, reason))?;
        // Cut at ASCII, so each field is text as the whole is.
        let texts = fields.iter().map(|field| String::from_utf8_lossy(field).into_owned());
        records.push((number, texts.collect()));
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Vec<String> {
        match read(text) {
            Ok(records) => records.iter().map(|(n, r)| format!("{n}: {}", r.join("|"))).collect(),
            Err((line, reason)) => vec![format!("{line}! {reason}")],
        }
    }

    #[test]
    fn records_keep_the_lines_they_begin_on() {
        let text = "a,b\r\n\r\n\"1,5\",\"say \"\"hi\"\"\"\n\"x\r\ny\n\",5\" pipe\n,\"\"\nlast,row";
        let expected =
            ["1: a|b", "3: 1,5|say \"hi\"", "4: x\r\ny\n|5\" pipe", "7: |", "8: last|row"];
        assert_eq!(shown(text), expected);
        assert_eq!(shown(""), [""; 0]);
        assert_eq!(shown("Jørn,æ\n"), ["1: Jørn|æ"]);
    }

    #[test]
    fn a_quote_that_swallows_rows_is_an_error() {
        for (text, expected) in [
            ("a,b\n1,2\n1,\"x\n3,4\n5,6\n", "3! the quote that opens field 2 is never closed"),
            ("a,b\n1,\"x\n3,4\n5,\"6\n", "2! text follows the closing quote of field 2"),
            ("a,b\n\"x\"y,2\n", "2! text follows the closing quote of field 1"),
            ("a,b\n\"x\" ,2\n", "2! text follows the closing quote of field 1"),
            ("\"", "1! the quote that opens field 1 is never closed"),
        ] {
            assert_eq!(shown(text), [expected], "{text:?}");
        }
    }
}
