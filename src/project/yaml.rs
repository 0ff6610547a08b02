//! YAML files with errors that name file, line, key and the nearest valid key.

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, de::DeserializeOwned};

use crate::project::{Diagnostic, Diagnostics, nearest};

/// A key that says nothing to Sluice, whatever its value.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(transparent)]
pub(super) struct Ignored(#[schemars(with = "serde_json::Value")] serde::de::IgnoredAny);

/// Reads `root/file`; on an error reports it and returns `None`.
pub(super) fn read<T: DeserializeOwned>(
    root: &Path,
    file: &Path,
    found: &mut Diagnostics,
) -> Option<T> {
    let text = text(root, file, found)?;
    match serde_yaml_ng::from_str(&text) {
        Ok(value) => Some(value),
        Err(error) => {
            found.push(describe(file, &text, &error));
            None
        }
    }
}

/// The text of `root/file`.
pub(super) fn text(root: &Path, file: &Path, found: &mut Diagnostics) -> Option<String> {
    match std::fs::read_to_string(root.join(file)) {
        Ok(text) => Some(text),
        Err(error) => {
            found.push(Diagnostic::file(file, format!("cannot be read: {error}")));
            None
        }
    }
}

fn describe(file: &Path, text: &str, error: &serde_yaml_ng::Error) -> Diagnostic {
    let full = error.to_string();
    let message = full.split(" at line ").next().unwrap_or(&full).to_owned();
    let (told, choices) = match message.split_once(", expected one of ") {
        Some((before, choices)) => (before.to_owned(), Some(choices)),
        None => (message.clone(), None),
    };
    let told = told.replace("unknown variant", "unknown value");
    let mut diagnostic = Diagnostic::file(file, told);
    if let Some(place) = error.location() {
        diagnostic = diagnostic.at(text, place.line(), Some(place.column()));
    }
    let Some((_, rest)) = message.split_once("unknown field `") else {
        let given = message.split('`').nth(1).unwrap_or_default();
        return diagnostic.maybe_hint(choices.map(|choices| {
            let known: Vec<&str> = choices.split('`').skip(1).step_by(2).collect();
            let all = format!("values are {}", known.join(", "));
            nearest(given, known).map_or_else(|| all.clone(), |near| format!("{near} ({all})"))
        }));
    };
    let Some((field, expected)) = rest.split_once('`') else { return diagnostic };
    let known: Vec<&str> = expected.split('`').skip(1).step_by(2).collect();
    let keys = format!("valid keys here: {}", known.join(", "));
    let hint = nearest(field, known.iter().copied()).map(|near| format!("{near} ({keys})"));
    let at_key =
        text.lines().position(|line| line.trim_start_matches([' ', '-', '{']).starts_with(field));
    if let Some(line) = at_key {
        let column = text.lines().nth(line).and_then(|l| l.find(field)).map(|c| c + 1);
        diagnostic = diagnostic.at(text, line + 1, column);
    }
    diagnostic.hint(hint.unwrap_or(keys))
}
