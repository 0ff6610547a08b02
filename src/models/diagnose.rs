//! What is wrong with a model, told at its place in the user's file.

use datafusion::error::DataFusionError;

use crate::{
    domain::{ACCEPTED, TableName},
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
    let message = as_written(&plain(&message));
    if let Some(diagnostic) = of_shape(model, &message) {
        return diagnostic;
    }
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
    if let Some(hint) = hint(&text, error) {
        return diagnostic.hint(hint);
    }
    let missing = message.split_once('\'').and_then(|(_, rest)| rest.split('\'').next());
    let hint = missing.and_then(|name| {
        let name = name.rsplit('.').next().unwrap_or(name).trim_matches('"');
        nearest(name, columns.iter().copied())
    });
    diagnostic.maybe_hint(hint)
}

/// A message with the names that users write.
fn as_written(message: &str) -> String {
    message.replace(&format!("{ACCEPTED}."), "bronze.")
}

/// A message of the engine without what it says of the engine.
pub fn plain(message: &str) -> String {
    const PREFIXES: [&str; 5] = [
        "Error during planning: ",
        "Schema error: ",
        "SQL error: ",
        "Internal error: ",
        "This feature is not implemented: ",
    ];
    let message = PREFIXES.iter().fold(message.to_owned(), |text, prefix| text.replace(prefix, ""));
    let inner = message.strip_prefix("ParserError(\"").and_then(|rest| rest.strip_suffix("\")"));
    let message = inner.map_or_else(|| message.clone(), str::to_owned);
    // The place in rendered SQL is none of the user's.
    match message.split_once(" at Line: ") {
        Some((before, _)) => before.to_owned(),
        None => message,
    }
}

/// Errors that the engine tells in its own terms, about a query as a whole.
fn of_shape(model: &Model, message: &str) -> Option<Diagnostic> {
    let file = |message: &str| Diagnostic::file(&model.file, message);
    if message.contains("only supports a single SQL statement") {
        let diagnostic = file("a model is one SELECT, this is more than one statement");
        let at = model.source.trim_end().trim_end_matches(';').find(';');
        return Some(at.map_or_else(
            || diagnostic.clone(),
            |at| diagnostic.clone().at_byte(&model.source, at),
        ));
    }
    if message == "sql is empty" {
        return Some(file("the model is empty").hint("a model is one SELECT"));
    }
    let twice = message.split_once("unqualified field name ");
    let twice = twice.filter(|(_, rest)| rest.contains("ambiguous"));
    if let Some(name) = twice.and_then(|(_, rest)| rest.split(' ').next()) {
        let diagnostic = file(&format!("column `{name}` stands twice"));
        let last = model.source.rmatch_indices(name).next().map(|(at, _)| at);
        let diagnostic = last
            .map_or_else(|| diagnostic.clone(), |at| diagnostic.clone().at_byte(&model.source, at));
        return Some(diagnostic.hint("give one of them another name: `AS name`"));
    }
    let constant = message
        .split_once(" is no value of type ")
        .map(|(constant, _)| constant)
        .or_else(|| message.strip_prefix("to_char with ")?.split(" would print").next());
    if let Some(constant) = constant {
        let at = model.source.find(constant);
        return Some(
            at.map_or_else(|| file(message), |at| file(message).at_byte(&model.source, at)),
        );
    }
    let unnamed =
        message.strip_prefix("column `").and_then(|rest| rest.split_once("` needs a plain"));
    let (name, _) = unnamed?;
    let at = model.source.to_lowercase().find(&name.to_lowercase());
    at.map(|at| file(message).at_byte(&model.source, at))
}

/// What the engine says would be right.
fn hint(text: &str, error: &DataFusionError) -> Option<String> {
    if let Some((_, rest)) = text.split_once("Invalid function '")
        && let Some(instead) = rest.split('\'').next().and_then(elsewhere)
    {
        return Some(instead.to_owned());
    }
    if let Some((_, name)) = text.split_once("Did you mean '") {
        let name = name.split('\'').next().and_then(|name| name.rsplit('.').next());
        return name.map(|name| format!("did you mean `{name}`?"));
    }
    let diagnostic = error.diagnostic()?;
    if diagnostic.message.ends_with("not found") {
        // What the model reads is known better here.
        let is_table = diagnostic.message.starts_with("table");
        let hint = "models and seeds are read with {{ ref('x') }}, streams with {{ source('bronze', 'x') }}";
        return is_table.then(|| hint.to_owned());
    }
    let helps = diagnostic.helps.iter().map(|help| &help.message);
    let all: Vec<&String> =
        helps.chain(diagnostic.notes.iter().map(|note| &note.message)).collect();
    let all: Vec<String> = all.into_iter().map(|text| text.trim().to_owned()).collect();
    (!all.is_empty()).then(|| as_written(&all.join("; ")))
}

/// What is written here for a function of another engine.
fn elsewhere(function: &str) -> Option<&'static str> {
    Some(match function.to_ascii_lowercase().as_str() {
        "datediff" | "date_diff" | "timestampdiff" => {
            "write {{ dbt.datediff('start', 'end', 'day') }}, or end_date - start_date"
        }
        "dateadd" | "date_add" | "timestampadd" => {
            "write {{ dbt.dateadd('day', 1, 'column') }}, or column + INTERVAL '1 day'"
        }
        "listagg" | "group_concat" => "write string_agg(column, ', ')",
        "iff" | "if" => "write CASE WHEN condition THEN a ELSE b END",
        "count_if" | "countif" => "write count(*) FILTER (WHERE condition)",
        "sum_if" | "sumif" => "write sum(column) FILTER (WHERE condition)",
        "zeroifnull" => "write coalesce(column, 0)",
        "nullifzero" => "write nullif(column, 0)",
        "convert_timezone" => "write column AT TIME ZONE 'Europe/Berlin'",
        "safe_cast" | "try_to_number" => "write TRY_CAST(column AS type)",
        "parse_json" => "a stream's fields are taken out of JSON by its contract, with `source:`",
        _ => return None,
    })
}

/// `… at Line: 3, Column: 7` of a parser error.
fn parser_place(text: &str) -> Option<(u64, u64)> {
    let (_, rest) = text.split_once("Line: ")?;
    let (line, rest) = rest.split_once(", Column: ")?;
    let digits = rest.chars().take_while(char::is_ascii_digit).collect::<String>();
    Some((line.trim().parse().ok()?, digits.parse().ok()?))
}
