//! A first look at a file before any work: its format, size, digest and encoding.

use std::{
    io::{self, Read},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use sha2::{Digest as _, Sha256};

use super::{Encoding, Format, Input, ReadError, decompress, lines::Lines, open_file};

/// Looks at `path` (`-`: standard input). Reads the file once, for its digest.
pub(in crate::cli::push) fn inspect(
    path: &Path,
    format: Option<Format>,
    encoding: Encoding,
) -> Result<Input, ReadError> {
    let name = path.display().to_string();
    if path == Path::new("-") {
        let format = format.unwrap_or(Format::Ndjson);
        let digest = String::new();
        let name = "standard input".to_owned();
        return Ok(Input { name, path: None, format, encoding, bytes: 0, digest });
    }
    let format = match format.or_else(|| from_name(path)) {
        Some(format) => format,
        None => {
            let hint = "the name does not tell the format; give --input-format csv, ndjson or \
                        parquet";
            return Err(ReadError::Content(name, hint.into()));
        }
    };
    let file = open_file(&name, path)?;
    let bytes = file.metadata().map_err(|error| ReadError::Io(name.clone(), error))?.len();
    let hasher = Arc::new(Mutex::new(Sha256::new()));
    let mut hashed = Hashed { inner: file, hasher: Arc::clone(&hasher) };
    let mut encoding = encoding;
    if format == Format::Csv && encoding == Encoding::Auto {
        encoding = detect(&name, hashed.try_clone().map_err(|e| ReadError::Io(name.clone(), e))?);
    }
    io::copy(&mut hashed, &mut io::sink()).map_err(|error| ReadError::Io(name.clone(), error))?;
    let digest = hasher.lock().unwrap_or_else(PoisonError::into_inner).clone().finalize();
    let digest = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Input { name, path: Some(path.to_owned()), format, encoding, bytes, digest })
}

fn from_name(path: &Path) -> Option<Format> {
    let name = path.file_name()?.to_str()?.to_ascii_lowercase();
    let name = name.strip_suffix(".gz").or_else(|| name.strip_suffix(".zst")).unwrap_or(&name);
    match name.rsplit_once('.')?.1 {
        "csv" => Some(Format::Csv),
        "ndjson" | "jsonl" | "json" => Some(Format::Ndjson),
        "parquet" => Some(Format::Parquet),
        _ => None,
    }
}

/// UTF-8 unless more lines break it than use it: one damaged line does not make a UTF-8 file
/// Latin-1.
fn detect(name: &str, file: Hashed) -> Encoding {
    let Ok(plain) = decompress(file) else { return Encoding::Utf8 };
    let mut lines = Lines::new(name.to_owned(), plain);
    let (mut multibyte, mut broken) = (0_u64, 0_u64);
    // What cannot be read is reported when the rows are.
    while let Ok(Some(line)) = lines.next() {
        match std::str::from_utf8(&line.bytes) {
            Ok(text) if text.is_ascii() => {}
            Ok(_) => multibyte += 1,
            Err(_) => broken += 1,
        }
    }
    if broken > multibyte { Encoding::Latin1 } else { Encoding::Utf8 }
}

/// Hashes what passes through. Clones share the file's position and the digest, so the file is
/// read once, by whichever clone.
struct Hashed {
    inner: std::fs::File,
    hasher: Arc<Mutex<Sha256>>,
}

impl Hashed {
    fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { inner: self.inner.try_clone()?, hasher: Arc::clone(&self.hasher) })
    }
}

impl Read for Hashed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.lock().unwrap_or_else(PoisonError::into_inner).update(&buffer[..count]);
        Ok(count)
    }
}
