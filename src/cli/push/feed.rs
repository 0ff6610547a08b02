//! Rows cut into batches, read in the background and handed on at the wished rate.
//!
//! The cut depends on nothing but the rows and the settings, so that a resumed push sends the same
//! batches.

use std::{
    io,
    sync::{Arc, atomic::AtomicU64},
    thread,
};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::{
    pace::Pacer,
    read::{Input, ReadError, Row, Rows},
};

/// Batches read ahead of sending.
const READ_AHEAD: usize = 4;

/// How rows are cut into batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cut {
    pub(super) rows: usize,
    pub(super) bytes: usize,
    /// A longer row is refused here; the server would refuse it anyway, and maybe the batch too.
    pub(super) row_bytes_max: usize,
}

/// Consecutive rows of a file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct FileBatch {
    /// Rows in this batch, refused ones included.
    pub(super) rows: u64,
    /// The line that the last row begins on.
    pub(super) last_line: u64,
    pub(super) events: Vec<Event>,
    /// Line and reason.
    pub(super) refused: Vec<(u64, String)>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Event {
    /// Number of the row in the file, from 0, refused rows included.
    pub(super) row: u64,
    pub(super) line: u64,
    pub(super) payload: Bytes,
}

/// The batches of one file, from a given row on.
pub(super) struct Feed {
    name: String,
    batches: mpsc::Receiver<Handed>,
    held: Option<FileBatch>,
}

impl Feed {
    /// Starts to read. The reader is a thread of its own and not waited for: reading standard
    /// input may block for ever, and must not keep the program from ending.
    pub(super) fn start(
        input: Input,
        skip: u64,
        cut: Cut,
        read: Arc<AtomicU64>,
    ) -> io::Result<Self> {
        let (batches_out, batches) = mpsc::channel(READ_AHEAD);
        let name = input.name.clone();
        thread::Builder::new().name("push-read".into()).spawn(move || {
            let mut cutter = match input.open(read) {
                Ok(rows) => Cutter { rows, cut, next_row: 0, skip, held: None },
                Err(error) => return hand_on(&batches_out, Err(error)),
            };
            while hand_on(&batches_out, cutter.next_batch()) {}
            false
        })?;
        Ok(Self { name, batches, held: None })
    }

    /// The next batch as soon as the rate allows; `None` at the end of the file. Cancel-safe.
    pub(super) async fn next(&mut self, pacer: &mut Pacer) -> Result<Option<FileBatch>, ReadError> {
        if self.held.is_none() {
            let received = self.batches.recv().await;
            // The end of the file is told; without it the reader has failed.
            let stopped = || Err(ReadError::Content(self.name.clone(), "reading stopped".into()));
            self.held = received.unwrap_or_else(stopped)?;
        }
        if let Some(batch) = &self.held {
            pacer.wait(batch.events.len()).await;
        }
        Ok(self.held.take())
    }
}

type Handed = Result<Option<FileBatch>, ReadError>;

/// Whether there is more to read, and somebody to read it for.
fn hand_on(batches: &mpsc::Sender<Handed>, batch: Handed) -> bool {
    let is_last = !matches!(batch, Ok(Some(_)));
    batches.blocking_send(batch).is_ok() && !is_last
}

struct Cutter {
    rows: Box<dyn Rows>,
    cut: Cut,
    next_row: u64,
    skip: u64,
    /// A row that did not fit into the batch before.
    held: Option<Row>,
}

impl Cutter {
    fn next_batch(&mut self) -> Result<Option<FileBatch>, ReadError> {
        while self.next_row < self.skip {
            if self.rows.next_row()?.is_none() {
                return Ok(None);
            }
            self.next_row += 1;
        }
        let mut batch = FileBatch::default();
        let mut bytes = 0;
        while batch.rows < self.cut.rows as u64 {
            let row = match self.held.take() {
                Some(row) => row,
                None => match self.rows.next_row()? {
                    Some(row) => row,
                    None => break,
                },
            };
            let length = row.content.as_ref().map_or(0, Bytes::len);
            if bytes > 0 && bytes + length > self.cut.bytes {
                self.held = Some(row);
                break;
            }
            bytes += length;
            self.add(&mut batch, row);
        }
        Ok((batch.rows > 0).then_some(batch))
    }

    fn add(&mut self, batch: &mut FileBatch, row: Row) {
        let limit = self.cut.row_bytes_max;
        match row.content {
            Ok(payload) if payload.len() <= limit => {
                batch.events.push(Event { row: self.next_row, line: row.line, payload });
            }
            Ok(payload) => {
                let reason = format!("{} bytes, but an event may have {limit}", payload.len());
                batch.refused.push((row.line, reason));
            }
            Err(reason) => batch.refused.push((row.line, reason)),
        }
        batch.rows += 1;
        batch.last_line = row.line;
        self.next_row += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::push::{Encoding, Format};

    struct Counted(u64);

    impl Rows for Counted {
        fn next_row(&mut self) -> Result<Option<Row>, ReadError> {
            self.0 += 1;
            let content = match self.0 {
                3 => Err("broken".to_owned()),
                n => Ok(Bytes::from(format!("{{\"n\":{n}}}"))),
            };
            Ok((self.0 <= 7).then_some(Row { line: self.0 + 1, content }))
        }
    }

    fn cut(skip: u64, cut: Cut) -> Vec<FileBatch> {
        let mut cutter = Cutter { rows: Box::new(Counted(0)), cut, next_row: 0, skip, held: None };
        let next = std::iter::from_fn(|| cutter.next_batch().expect("rows"));
        next.collect()
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_opened_is_an_error_of_its_own() {
        let input = Input {
            name: "gone.csv".into(),
            path: Some("gone.csv".into()),
            format: Format::Csv,
            encoding: Encoding::Utf8,
            bytes: 0,
            digest: String::new(),
        };
        let mut feed = Feed::start(input, 0, CUT, Arc::default()).expect("thread");
        let mut pacer = Pacer::new(None);
        let error = feed.next(&mut pacer).await.expect_err("gone");
        assert!(error.to_string().starts_with("cannot read gone.csv: "), "{error}");
        let error = feed.next(&mut pacer).await.expect_err("no end was told");
        assert_eq!(error.to_string(), "gone.csv: reading stopped");
    }

    fn rows(batches: &[FileBatch]) -> Vec<Vec<u64>> {
        batches.iter().map(|b| b.events.iter().map(|event| event.row).collect()).collect()
    }

    const CUT: Cut = Cut { rows: 3, bytes: 1000, row_bytes_max: 1000 };

    #[test]
    fn a_refused_row_keeps_its_number_and_its_place() {
        let batches = cut(0, CUT);
        assert_eq!(rows(&batches), [vec![0, 1], vec![3, 4, 5], vec![6]]);
        assert_eq!(batches[0].refused, [(4, "broken".to_owned())]);
        assert_eq!(batches.iter().map(|b| b.last_line).collect::<Vec<_>>(), [4, 7, 8]);
    }

    #[test]
    fn a_resumed_file_is_cut_like_before() {
        assert_eq!(rows(&cut(3, CUT)), [vec![3, 4, 5], vec![6]]);
        assert_eq!(cut(7, CUT), []);
        assert_eq!(cut(9, CUT), []);
    }

    #[test]
    fn bytes_bound_a_batch_and_an_event() {
        assert_eq!(rows(&cut(0, Cut { bytes: 14, ..CUT })), [vec![0, 1], vec![3, 4], vec![5, 6]]);
        let batches = cut(0, Cut { row_bytes_max: 6, ..CUT });
        assert_eq!(batches[0].refused[0], (2, "7 bytes, but an event may have 6".to_owned()));
    }
}
