//! Lines of a text, with their numbers, none longer than a limit.

use std::io::{BufRead, Read};

use super::{Plain, ReadError};

/// Longest line that is read; a longer one is refused and skipped.
pub(super) const LINE_BYTES_MAX: usize = 8 * 1024 * 1024;

pub(super) struct Lines {
    /// As the user named the file.
    pub(super) name: String,
    inner: Plain,
    number: u64,
}

pub(super) struct Line {
    pub(super) number: u64,
    /// With its line end; without the byte order mark.
    pub(super) bytes: Vec<u8>,
    /// It was longer than the limit; `bytes` holds its beginning.
    pub(super) cut: bool,
}

impl Line {
    pub(super) fn is_blank(&self) -> bool {
        self.bytes.trim_ascii().is_empty()
    }
}

/// The reason given for a line that is too long.
pub(super) fn too_long() -> String {
    format!("the line is longer than {LINE_BYTES_MAX} bytes")
}

impl Lines {
    pub(super) fn new(name: String, inner: Plain) -> Self {
        Self { name, inner, number: 0 }
    }

    pub(super) fn next(&mut self) -> Result<Option<Line>, ReadError> {
        let mut bytes = Vec::new();
        let mut limited = (&mut self.inner).take(LINE_BYTES_MAX as u64);
        limited.read_until(b'\n', &mut bytes).map_err(|error| self.failed(error))?;
        if bytes.is_empty() {
            return Ok(None);
        }
        let cut = bytes.len() == LINE_BYTES_MAX && !bytes.ends_with(b"\n");
        if cut {
            self.skip_line()?;
        }
        self.number += 1;
        if self.number == 1 {
            self.strip_mark(&mut bytes)?;
        }
        Ok(Some(Line { number: self.number, bytes, cut }))
    }

    /// Leaves out the rest of a line that is too long.
    fn skip_line(&mut self) -> Result<(), ReadError> {
        loop {
            let buffer = match self.inner.fill_buf() {
                Ok(buffer) => buffer,
                Err(error) => return Err(self.failed(error)),
            };
            let end = buffer.iter().position(|byte| *byte == b'\n');
            let (count, done) = match end {
                Some(end) => (end + 1, true),
                None => (buffer.len(), buffer.is_empty()),
            };
            self.inner.consume(count);
            if done {
                return Ok(());
            }
        }
    }

    fn strip_mark(&self, bytes: &mut Vec<u8>) -> Result<(), ReadError> {
        if bytes.starts_with(&[0xef, 0xbb, 0xbf]) {
            bytes.drain(..3);
        }
        if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
            let hint = "the file is UTF-16; convert it to UTF-8 first".to_owned();
            return Err(ReadError::Content(self.name.clone(), hint));
        }
        Ok(())
    }

    fn failed(&self, error: std::io::Error) -> ReadError {
        ReadError::Io(format!("{} after line {}", self.name, self.number), error)
    }
}
