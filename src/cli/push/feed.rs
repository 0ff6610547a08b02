//! Rows cut into batches, read in the background and handed on at the wished pace.
//!
//! The cut depends on nothing but the rows and the settings, so that a resumed push sends the same
//! batches.

use std::{
    io,
    path::Path,
    sync::{Arc, atomic::AtomicU64},
    thread,
};

use bytes::Bytes;
use tempfile::TempDir;
use tokio::sync::mpsc;

use super::{
    pace::Pacer,
    part::Part,
    read::{ReadError, Row, Rows},
    sort::{Finding, Sorted},
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
    /// Microseconds that the sort keys of a batch may span: what is replayed by time must not wait
    /// for a batch to fill.
    pub(super) span_us: Option<i64>,
}

impl Cut {
    /// The payload, if an event may be so large.
    pub(super) fn checked(&self, payload: Bytes) -> Result<Bytes, String> {
        let (bytes, limit) = (payload.len(), self.row_bytes_max);
        if bytes <= limit {
            return Ok(payload);
        }
        Err(format!("{bytes} bytes, but an event may have {limit}"))
    }
}

/// Where a row stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// Index of the file in its part.
    pub(super) file: usize,
    pub(super) line: u64,
}

/// A row, and which one it is.
pub(super) struct Numbered {
    /// Index of the file in its part.
    pub(super) file: usize,
    /// Number of the row in the file, from 0, refused rows included.
    pub(super) number: u64,
    /// What it is sorted by, times as microseconds; `None` for refused rows, and where rows are
    /// sent as they stand.
    pub(super) key: Option<i128>,
    pub(super) row: Row,
}

/// The rows of a part, in the order in which they are sent.
pub(super) trait Supply {
    /// The next row; `None` at the end.
    fn next_row(&mut self) -> Result<Option<Numbered>, ReadError>;
}

/// The rows of one file as they stand.
struct Unsorted {
    rows: Box<dyn Rows>,
    next_row: u64,
}

impl Supply for Unsorted {
    fn next_row(&mut self) -> Result<Option<Numbered>, ReadError> {
        let Some(row) = self.rows.next_row()? else { return Ok(None) };
        let number = self.next_row;
        self.next_row += 1;
        Ok(Some(Numbered { file: 0, number, key: None, row }))
    }
}

/// Consecutive rows of a part.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct FileBatch {
    /// Rows in this batch, refused ones included.
    pub(super) rows: u64,
    /// The line that the last row begins on.
    pub(super) last_line: u64,
    pub(super) events: Vec<Event>,
    /// Place and reason.
    pub(super) refused: Vec<(Place, String)>,
}

impl FileBatch {
    /// The first key.
    fn key(&self) -> Option<i128> {
        self.events.first().and_then(|event| event.key)
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Event {
    /// Number of the row in the file, from 0, refused rows included.
    pub(super) row: u64,
    pub(super) place: Place,
    /// See [`Numbered`].
    pub(super) key: Option<i128>,
    pub(super) payload: Bytes,
}

/// The batches of one part, from a given row on.
pub(super) struct Feed {
    name: String,
    batches: mpsc::Receiver<Handed>,
    held: Option<FileBatch>,
    /// Where a sort spills to. It is removed from here: the reader may be stuck, or end with the
    /// program.
    _spill: Option<TempDir>,
}

impl Feed {
    /// Starts to read. The reader is a thread of its own and not waited for: reading standard
    /// input may block for ever, and must not keep the program from ending.
    pub(super) fn start(
        part: Part,
        skip: u64,
        cut: Cut,
        read: Arc<AtomicU64>,
        found: Finding,
    ) -> io::Result<Self> {
        let (batches_out, batches) = mpsc::channel(READ_AHEAD);
        let name = part.name();
        let spill = match &part.sort {
            Some(_) => Some(spill_folder()?),
            None => None,
        };
        let folder = spill.as_ref().map(|dir| dir.path().to_owned()).unwrap_or_default();
        thread::Builder::new().name("push-read".into()).spawn(move || {
            let mut cutter = match open(part, cut, &folder, (read, found)) {
                Ok(rows) => Cutter { rows, cut, next_row: 0, skip, held: None },
                Err(error) => return hand_on(&batches_out, Err(error)),
            };
            while hand_on(&batches_out, cutter.next_batch()) {}
            false
        })?;
        Ok(Self { name, batches, held: None, _spill: spill })
    }

    /// The next batch as soon as the pace allows; `None` at the end of the part. Cancel-safe.
    pub(super) async fn next(&mut self, pacer: &mut Pacer) -> Result<Option<FileBatch>, ReadError> {
        if self.held.is_none() {
            let received = self.batches.recv().await;
            // The end of the file is told; without it the reader has failed.
            let stopped = || Err(ReadError::Content(self.name.clone(), "reading stopped".into()));
            self.held = received.unwrap_or_else(stopped)?;
        }
        if let Some(batch) = &self.held {
            pacer.wait(batch.events.len(), batch.key()).await;
        }
        Ok(self.held.take())
    }
}

fn spill_folder() -> io::Result<TempDir> {
    tempfile::Builder::new().prefix("sluice-push-").tempdir().map_err(|error| {
        let hint = "let $TMPDIR name a folder for what memory does not hold";
        io::Error::new(error.kind(), format!("{error}; {hint}"))
    })
}

fn open(
    mut part: Part,
    cut: Cut,
    spill: &Path,
    (read, found): (Arc<AtomicU64>, Finding),
) -> Result<Box<dyn Supply>, ReadError> {
    let name = part.name();
    match part.sort.take() {
        Some(sort) => {
            let sorted = Sorted::open(sort, name, part.inputs, cut, spill, (read, found))?;
            Ok(Box::new(sorted))
        }
        None => {
            let nothing = || ReadError::Content(name, "there is no file".into());
            let input = part.inputs.first().ok_or_else(nothing)?;
            Ok(Box::new(Unsorted { rows: input.open(read)?, next_row: 0 }))
        }
    }
}

type Handed = Result<Option<FileBatch>, ReadError>;

/// Whether there is more to read, and somebody to read it for.
fn hand_on(batches: &mpsc::Sender<Handed>, batch: Handed) -> bool {
    let is_last = !matches!(batch, Ok(Some(_)));
    batches.blocking_send(batch).is_ok() && !is_last
}

struct Cutter {
    rows: Box<dyn Supply>,
    cut: Cut,
    /// The place of the next row among those that are sent.
    next_row: u64,
    skip: u64,
    /// A row that did not fit into the batch before.
    held: Option<Numbered>,
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
            let length = row.row.content.as_ref().map_or(0, Bytes::len);
            let is_full = bytes > 0 && bytes + length > self.cut.bytes;
            if is_full || self.is_later(&batch, &row) {
                self.held = Some(row);
                break;
            }
            bytes += length;
            self.add(&mut batch, row);
        }
        Ok((batch.rows > 0).then_some(batch))
    }

    /// Whether a row is too far from the first one of the batch in time.
    fn is_later(&self, batch: &FileBatch, row: &Numbered) -> bool {
        match (self.cut.span_us, batch.key(), row.key) {
            (Some(span), Some(first), Some(key)) => key - first > span.into(),
            _ => false,
        }
    }

    fn add(&mut self, batch: &mut FileBatch, numbered: Numbered) {
        let Numbered { file, number, key, row } = numbered;
        let place = Place { file, line: row.line };
        match row.content.and_then(|payload| self.cut.checked(payload)) {
            Ok(payload) => batch.events.push(Event { row: number, place, key, payload }),
            Err(reason) => batch.refused.push((place, reason)),
        }
        batch.rows += 1;
        batch.last_line = row.line;
        self.next_row += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::push::{Encoding, Format, pace::Pace, read::Input};

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
        let rows = Box::new(Unsorted { rows: Box::new(Counted(0)), next_row: 0 });
        let mut cutter = Cutter { rows, cut, next_row: 0, skip, held: None };
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
        let part = Part { inputs: vec![input], sort: None };
        let mut feed = Feed::start(part, 0, CUT, Arc::default(), Arc::default()).expect("thread");
        let mut pacer = Pacer::new(Pace::Free);
        let error = feed.next(&mut pacer).await.expect_err("gone");
        assert!(error.to_string().starts_with("cannot read gone.csv: "), "{error}");
        let error = feed.next(&mut pacer).await.expect_err("no end was told");
        assert_eq!(error.to_string(), "gone.csv: reading stopped");
    }

    fn rows(batches: &[FileBatch]) -> Vec<Vec<u64>> {
        batches.iter().map(|b| b.events.iter().map(|event| event.row).collect()).collect()
    }

    const CUT: Cut = Cut { rows: 3, bytes: 1000, row_bytes_max: 1000, span_us: None };

    #[test]
    fn a_refused_row_keeps_its_number_and_its_place() {
        let batches = cut(0, CUT);
        assert_eq!(rows(&batches), [vec![0, 1], vec![3, 4, 5], vec![6]]);
        assert_eq!(batches[0].refused, [(Place { file: 0, line: 4 }, "broken".to_owned())]);
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
        assert_eq!(batches[0].refused[0].1, "7 bytes, but an event may have 6");
    }

    /// Rows with these keys.
    struct Keys(std::vec::IntoIter<i128>);

    impl Supply for Keys {
        fn next_row(&mut self) -> Result<Option<Numbered>, ReadError> {
            let row = Row { line: 1, content: Ok(Bytes::from_static(b"{}")) };
            Ok(self.0.next().map(|key| Numbered { file: 0, number: 0, key: Some(key), row }))
        }
    }

    #[test]
    fn time_bounds_a_batch_that_is_replayed_by_it() {
        let keys = Keys(vec![-5, 0, 5, 6, 7, 100].into_iter());
        let cut = Cut { span_us: Some(10), rows: 4, ..CUT };
        let mut cutter = Cutter { rows: Box::new(keys), cut, next_row: 0, skip: 0, held: None };
        let next = std::iter::from_fn(|| cutter.next_batch().expect("rows"));
        assert_eq!(next.map(|batch| batch.rows).collect::<Vec<_>>(), [3, 2, 1]);
    }
}
