//! A contract beside the one that a lake was filled by, as diagnostics at its file.

use std::path::{Path, PathBuf};

use crate::{
    domain::{
        compatibility::{At, Difference, RecordedContract, differences},
        contract::Contract,
    },
    project::{Diagnostic, Level, diagnostic::whole_word},
};

/// How a contract of the project in `root` differs from what a lake records of it.
pub fn compared(root: &Path, recorded: &RecordedContract, contract: &Contract) -> Vec<Diagnostic> {
    let (file, text) = file_of(root, &contract.name);
    let found = differences(recorded, contract).into_iter();
    found.map(|difference| placed(&file, &text, difference)).collect()
}

/// What is said of a stream that has tables in the lake and no contract any more.
pub fn vanished(root: &Path, stream: &str) -> Diagnostic {
    let message = format!("stream `{stream}` has tables in the lake and no contract any more");
    let diagnostic = Diagnostic::file(&file_of(root, stream).0, message).level(Level::Warning);
    diagnostic.hint("its tables stay as they are, and nobody reads its log")
}

fn file_of(root: &Path, stream: &str) -> (PathBuf, String) {
    let names = ["yml", "yaml"].map(|end| PathBuf::from(format!("streams/{stream}.{end}")));
    let [first, second] = names;
    let file = if root.join(&second).is_file() { second } else { first };
    let text = std::fs::read_to_string(root.join(&file)).unwrap_or_default();
    (file, text)
}

fn placed(file: &Path, text: &str, difference: Difference) -> Diagnostic {
    let level = if difference.is_refused { Level::Error } else { Level::Note };
    let diagnostic = Diagnostic::file(file, difference.message).level(level);
    let start = match &difference.at {
        At::Key(key) => key_at(text, key),
        At::Field(name) => field_at(text, name),
    };
    let diagnostic = match start {
        Some(start) => diagnostic.at_byte(text, start),
        None => diagnostic,
    };
    diagnostic.hint(difference.hint)
}

/// Where a key of the file itself stands.
fn key_at(text: &str, key: &str) -> Option<usize> {
    let mut start = 0;
    text.split_inclusive('\n').find_map(|line| {
        let here = start;
        start += line.len();
        line.strip_prefix(key)?.trim_start().starts_with(':').then_some(here)
    })
}

/// Where the name of a field stands: behind `name:`, below `fields:`.
fn field_at(text: &str, name: &str) -> Option<usize> {
    let mut from = key_at(text, "fields")?;
    while let Some(found) = whole_word(&text[from..], name) {
        let start = from + found;
        let before = text[..start].trim_end_matches(['"', '\'']).trim_end();
        if before.ends_with("name:") {
            return Some(start);
        }
        from = start + name.len();
    }
    None
}
