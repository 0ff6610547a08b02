//! Files to push: rows as JSON objects, one by one, in constant memory.
//!
//! A row that cannot be read is handed on with its reason and the next one follows; only a file
//! that cannot be read any further is an error. Rows come in the same order on every reading, so
//! that (file digest, row number) identifies a row.

mod csv;
mod encoding;
mod inspect;
mod lines;
mod ndjson;
mod parquet;

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Stdin},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use clap::ValueEnum;

pub use encoding::Encoding;
pub(super) use inspect::inspect;

/// One row of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Row {
    /// The line it begins on, from 1; of a Parquet file its row number.
    pub line: u64,
    /// One JSON object, or why the row is refused.
    pub content: Result<Bytes, String>,
}

/// The rows of one file, in order.
pub(super) trait Rows: Send {
    /// The next row; `None` at the end of the file.
    fn next_row(&mut self) -> Result<Option<Row>, ReadError>;
}

/// Why a file cannot be read (any further).
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error("cannot read {0}: {1}")]
    Io(String, #[source] io::Error),
    #[error("cannot read {0}: {1}")]
    Parquet(String, #[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("cannot sort {0}: {1}; $TMPDIR names the folder for what memory does not hold")]
    Sort(String, #[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("{0}: {1}")]
    Content(String, String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Csv,
    Ndjson,
    Parquet,
}

/// A file that was looked at before any work, ready to be opened.
#[derive(Debug, Clone)]
pub(super) struct Input {
    /// As the user named it.
    pub name: String,
    /// `None`: standard input.
    pub path: Option<PathBuf>,
    pub format: Format,
    pub encoding: Encoding,
    /// Size on disk; 0 where it is not known.
    pub bytes: u64,
    /// SHA-256 of the file as it lies on disk, in hex; empty for standard input.
    pub digest: String,
}

impl Input {
    /// Opens the file; `read` counts the bytes taken from the disk.
    pub(super) fn open(&self, read: Arc<AtomicU64>) -> Result<Box<dyn Rows>, ReadError> {
        let name = self.name.clone();
        if self.format == Format::Parquet {
            let Some(path) = &self.path else {
                let hint = "parquet cannot be read from standard input; give a file".into();
                return Err(ReadError::Content(name, hint));
            };
            return Ok(Box::new(parquet::ParquetRows::open(name, path, read)?));
        }
        let source = match &self.path {
            None => Source::Stdin(io::stdin()),
            Some(path) => Source::File(open_file(&self.name, path)?),
        };
        let plain = decompress(Counted { source, read })
            .map_err(|error| ReadError::Io(name.clone(), error))?;
        let lines = lines::Lines::new(name, plain);
        Ok(match self.format {
            Format::Csv => Box::new(csv::CsvRows::new(lines, self.encoding)),
            _ => Box::new(ndjson::NdjsonRows::new(lines)),
        })
    }
}

fn open_file(name: &str, path: &Path) -> Result<File, ReadError> {
    File::open(path).map_err(|error| ReadError::Io(name.to_owned(), error))
}

enum Source {
    File(File),
    Stdin(Stdin),
}

/// Counts what is read, for the progress shown.
struct Counted {
    source: Source,
    read: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = match &mut self.source {
            Source::File(file) => file.read(buffer)?,
            Source::Stdin(stdin) => stdin.read(buffer)?,
        };
        self.read.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

type Plain = Box<dyn BufRead + Send>;

/// Undoes gzip or zstd, which are recognised by their first bytes.
fn decompress<R: Read + Send + 'static>(source: R) -> io::Result<Plain> {
    let mut buffered = BufReader::with_capacity(64 * 1024, source);
    let start = buffered.fill_buf()?;
    if start.starts_with(&[0x1f, 0x8b]) {
        let decoder = flate2::bufread::MultiGzDecoder::new(buffered);
        return Ok(Box::new(BufReader::with_capacity(64 * 1024, decoder)));
    }
    if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        let decoder = zstd::stream::read::Decoder::with_buffer(buffered)?;
        return Ok(Box::new(BufReader::with_capacity(64 * 1024, decoder)));
    }
    Ok(Box::new(buffered))
}

#[cfg(test)]
mod tests;
