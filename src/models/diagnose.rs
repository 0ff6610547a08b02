//! What is wrong with a model, told at its place in the user's file.

use datafusion::error::DataFusionError;

use crate::{
    domain::TableName,
    models::Plan,
    project::{Diagnostic, Model, byte_at, nearest},
};

/// A model that may not be recomputed, and cannot be kept otherwise.
pub(super) fn refused(plan: &Plan) -> Diagnostic {
    let Plan { model, reason, .. } = plan;
    let message = format!("the model can only be computed whole: {reason}");
    let diagnostic = Diagnostic::file(&model.file, message);
    let hint = "on_incremental_change='fallback' allows that";
    let diagnostic = diagnostic.find_after(&model.source, "config", "on_incremental_change");
    diagnostic.maybe_hint(Some(hint.to_owned()))
}

/// A stored model of what is in quarantine: records leave that when they are replayed or discarded.
pub(super) fn stores_quarantine(plan: &Plan, name: &TableName) -> Diagnostic {
    let model = &plan.model;
    let message = format!("only views read {name}: what is replayed or discarded leaves it");
    let diagnostic = Diagnostic::file(&model.file, message).find(&model.source, "quarantine");
    diagnostic.hint("add {{ config(materialized='view') }}")
}

/// An engine error as an error in the user's file. `columns`: all that the model can read.
pub(super) fn describe(model: &Model, error: &DataFusionError, columns: &[&str]) -> Diagnostic {
    let text = error.strip_backtrace();
    let message = match error.diagnostic() {
        Some(diagnostic) => diagnostic.message.clone(),
        None => text.lines().next().unwrap_or_default().to_owned(),
    };
    let message = ["Error during planning: ", "Schema error: ", "SQL error: ", "Internal error: "]
        .iter()
        .fold(message, |message, prefix| message.replace(prefix, ""));
    let mut diagnostic = Diagnostic::file(&model.file, message.clone());
    let span = error.diagnostic().and_then(|d| d.span);
    let place =
        span.map(|span| (span.start.line, span.start.column)).or_else(|| parser_place(&text));
    if let Some((line, column)) = place {
        let (line, column) = (usize::try_from(line).unwrap_or(1), usize::try_from(column));
        let at = byte_at(&model.sql, line, column.unwrap_or(1));
        let at = model.places.source_byte(at).unwrap_or(at);
        diagnostic = diagnostic.at_byte(&model.source, at);
    }
    let missing = message.split_once('\'').and_then(|(_, rest)| rest.split('\'').next());
    let hint = missing.and_then(|name| {
        let name = name.rsplit('.').next().unwrap_or(name).trim_matches('"');
        nearest(name, columns.iter().copied())
    });
    diagnostic.maybe_hint(hint)
}

/// `… at Line: 3, Column: 7` of a parser error.
fn parser_place(text: &str) -> Option<(u64, u64)> {
    let (_, rest) = text.split_once("Line: ")?;
    let (line, rest) = rest.split_once(", Column: ")?;
    let digits = rest.chars().take_while(char::is_ascii_digit).collect::<String>();
    Some((line.trim().parse().ok()?, digits.parse().ok()?))
}
