//! Snapshots: the versions of what a query holds, per key, each with when it held.
//!
//! dbt compares a table with what it was at the run before, and dates the difference by the clock.
//! Here each version is an event, so that the versions, and when they held, are a function of the
//! events: a snapshot is a model of class `by key`, and equal to itself however often it is made.

use std::{collections::BTreeMap, path::PathBuf};

use serde_yaml_ng::Value;

use crate::{
    domain::{META_COLUMNS, contract::Deletes},
    project::config::shown,
};

/// Options of snapshots.
pub(super) const OPTIONS: [&str; 8] = [
    "strategy",
    "updated_at",
    "check_cols",
    "target_schema",
    "target_database",
    "hard_deletes",
    "invalidate_hard_deletes",
    "snapshot_meta_column_names",
];

/// The schema of snapshots, where none is configured.
pub(super) const SCHEMA: &str = "snapshots";

/// A snapshot as it stands in a file: its name, and the file's text with all but its query blanked,
/// so that every place in it stays what it is.
pub(super) fn blocks(text: &str) -> Result<Vec<(String, String)>, (usize, String)> {
    let mut found = Vec::new();
    let mut from = 0;
    while let Some((start, open, words)) = tag(text, from, "snapshot") {
        let name = words.split_whitespace().nth(1).unwrap_or_default().to_owned();
        let Some((close, end, _)) = tag(text, open, "endsnapshot") else {
            return Err((start, format!("snapshot `{name}` has no {{% endsnapshot %}}")));
        };
        let blank = |part: &str| -> String {
            part.chars()
                .map(|c| if c == '\n' { "\n".into() } else { " ".repeat(c.len_utf8()) })
                .collect()
        };
        let query =
            format!("{}{}{}", blank(&text[..open]), &text[open..close], blank(&text[close..]));
        found.push((name, query));
        from = end;
    }
    Ok(found)
}

/// The first `{% word … %}` behind `from`: where it begins and ends, and what stands in it.
fn tag<'a>(text: &'a str, from: usize, word: &str) -> Option<(usize, usize, &'a str)> {
    let mut at = from;
    loop {
        let start = at + text[at..].find("{%")?;
        let end = start + text[start..].find("%}")? + 2;
        let inside = text[start + 2..end - 2].trim_matches(['-', '+']).trim();
        if inside.split_whitespace().next() == Some(word) {
            return Some((start, end, inside));
        }
        at = end;
    }
}

/// What a snapshot is to know beside its options.
#[derive(Debug, Default)]
pub(super) struct Query<'a> {
    /// The columns of the query, once they are known.
    pub columns: Option<&'a [String]>,
    /// What tells deletes in the streams that it reads.
    pub deletes: Vec<&'a Deletes>,
}

/// Whether what stands around a query depends on its columns.
pub(super) fn asks_columns(options: &BTreeMap<String, Value>, query: &Query<'_>) -> bool {
    !query.deletes.is_empty() || list(options, "check_cols").is_ok_and(|columns| columns == ["all"])
}

/// What stands before and behind the query of a snapshot. An error has its hint behind U+0001.
pub(super) fn around(
    options: &BTreeMap<String, Value>,
    query: &Query<'_>,
) -> Result<(String, String), String> {
    let keys = list(options, "unique_key")?;
    if keys.is_empty() {
        let hint = "config(unique_key='id', strategy='timestamp', updated_at='changed_at')";
        return Err(format!("a snapshot needs a unique_key\u{1}{hint}"));
    }
    let gone = gone(options, query)?;
    let keys = keys.join(", ");
    let names = options.get("snapshot_meta_column_names");
    let name = |column: &str| {
        let given = names.and_then(|names| names.get(column)).and_then(Value::as_str);
        given.unwrap_or(column).to_owned()
    };
    let (moment, turn) = turn(options, query, &keys, gone.as_ref())?;
    let parts = keys.split(", ").chain([moment.as_str()]);
    let parts = parts.map(|part| format!("CAST({part} AS VARCHAR)")).collect::<Vec<_>>().join(", ");
    let shown = format!(
        "SELECT * EXCEPT (dbt_turn), md5(concat_ws('|', {parts})) AS {}, {moment} AS {}, {moment} AS \
         {}, lead({moment}) OVER (PARTITION BY {keys} ORDER BY {moment}) AS {}",
        name("dbt_scd_id"),
        name("dbt_updated_at"),
        name("dbt_valid_from"),
        name("dbt_valid_to")
    );
    let turns = format!("FROM (SELECT *, {turn} AS dbt_turn FROM (\n");
    let behind = "\n) AS snapshotted";
    Ok(match gone {
        None => (format!("{shown}\n{turns}"), format!("{behind}) AS turns WHERE dbt_turn = 1")),
        Some((Gone::Ignored, gone)) => (
            format!("{shown}\n{turns}"),
            format!("{behind} WHERE NOT ({gone})) AS turns WHERE dbt_turn = 1"),
        ),
        Some((Gone::Invalidates, gone)) => (
            format!("SELECT * EXCEPT (dbt_gone)\nFROM ({shown}, {gone} AS dbt_gone\n{turns}"),
            format!("{behind}) AS turns WHERE dbt_turn = 1) AS versions WHERE NOT dbt_gone"),
        ),
        Some((Gone::IsRecorded, gone)) => (
            format!(
                "{shown}, CASE WHEN {gone} THEN 'True' ELSE 'False' END AS {}\n{turns}",
                name("dbt_is_deleted")
            ),
            format!("{behind}) AS turns WHERE dbt_turn = 1"),
        ),
    })
}

/// What rows that delete are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Gone {
    /// No versions.
    Ignored,
    /// The end of the version before, and none themselves.
    Invalidates,
    /// Versions, marked as such.
    IsRecorded,
}

/// What rows that delete are, and the condition that holds of them; none where nothing tells them.
fn gone(
    options: &BTreeMap<String, Value>,
    query: &Query<'_>,
) -> Result<Option<(Gone, String)>, String> {
    let deletes = options.get("hard_deletes").and_then(Value::as_str);
    let invalidates = options.get("invalidate_hard_deletes").and_then(Value::as_bool);
    let gone = match (deletes, invalidates) {
        (Some("ignore"), _) | (None, None | Some(false)) => Gone::Ignored,
        (Some("invalidate"), _) | (None, Some(true)) => Gone::Invalidates,
        (Some("new_record"), _) => Gone::IsRecorded,
        (Some(other), _) => {
            let hint = "use 'invalidate', which ends the last version, 'new_record', which keeps \
                        the delete as one, or 'ignore'";
            return Err(format!("hard_deletes='{other}' is not known\u{1}{hint}"));
        }
    };
    if query.deletes.is_empty() && gone != Gone::Ignored {
        let hint = "name the deletes in the stream's contract: `deletes:`";
        return Err(format!("hard deletes: what goes is told by events\u{1}{hint}"));
    }
    let mut all = Vec::new();
    for Deletes { field, values, .. } in &query.deletes {
        if !query.columns.is_some_and(|columns| columns.contains(field)) {
            let hint = format!("select {field} too, which tells which events delete");
            return Err(format!("the query has no column `{field}`\u{1}{hint}"));
        }
        let values = values.iter().map(|value| format!("'{}'", value.replace('\'', "''")));
        let values = values.collect::<Vec<_>>().join(", ");
        all.push(format!("coalesce(CAST(\"{field}\" AS VARCHAR) IN ({values}), FALSE)"));
    }
    Ok((!all.is_empty()).then(|| (gone, all.join(" OR "))))
}

/// When a version began, and what is 1 for the rows that begin one.
fn turn(
    options: &BTreeMap<String, Value>,
    query: &Query<'_>,
    keys: &str,
    gone: Option<&(Gone, String)>,
) -> Result<(String, String), String> {
    let updated_at = options.get("updated_at").and_then(Value::as_str);
    match (options.get("strategy").and_then(Value::as_str), updated_at) {
        (Some("timestamp"), Some(updated_at)) => {
            // Of rows of one time the engine takes one, always the same.
            let turn = format!(
                "row_number() OVER (PARTITION BY {keys}, {updated_at} ORDER BY {updated_at})"
            );
            Ok((updated_at.to_owned(), turn))
        }
        (Some("check"), updated_at) => {
            let moment = updated_at.unwrap_or("_ts");
            let order = updated_at.unwrap_or("_ts, _partition, _offset");
            let checked = match list(options, "check_cols")? {
                columns if columns == ["all"] => {
                    // Where an event lies makes no version of it.
                    let own = query.columns.unwrap_or_default().iter();
                    own.filter(|name| !META_COLUMNS.contains(&name.as_str())).cloned().collect()
                }
                columns => columns,
            };
            if checked.is_empty() {
                let hint = "check_cols=['status', 'amount'], or check_cols='all'";
                return Err(format!("check_cols names the columns that count\u{1}{hint}"));
            }
            let checked = checked.iter().map(|column| match query.columns {
                Some(columns) if columns.contains(column) => format!("\"{column}\""),
                _ => column.clone(),
            });
            let gone = gone.filter(|(gone, _)| *gone != Gone::Ignored);
            let values = checked.chain(gone.map(|(_, gone)| format!("({gone})")));
            let values =
                values.map(|value| format!("coalesce('v' || CAST({value} AS VARCHAR), 'n')"));
            let now = format!("concat_ws(chr(1), {})", values.collect::<Vec<_>>().join(", "));
            let turn = format!(
                "CASE WHEN lag({now}) OVER (PARTITION BY {keys} ORDER BY {order}) = {now} THEN 0 ELSE 1 END"
            );
            Ok((moment.to_owned(), turn))
        }
        (Some("timestamp"), None) => {
            let hint = "the column that says when a row was changed";
            Err(format!("strategy='timestamp' needs updated_at\u{1}{hint}"))
        }
        (other, _) => {
            let hint = "use 'timestamp' or 'check'";
            Err(format!("strategy='{}' is not known\u{1}{hint}", other.unwrap_or("")))
        }
    }
}

/// An option that is a text, or a list of texts.
fn list(options: &BTreeMap<String, Value>, key: &str) -> Result<Vec<String>, String> {
    let text = |value: &Value| match value {
        Value::String(text) => Ok(text.clone()),
        other => Err(format!("{key} is a text or a list of texts, not {}\u{1}", shown(other))),
    };
    match options.get(key) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Sequence(all)) => all.iter().map(text).collect(),
        Some(one) => Ok(vec![text(one)?]),
    }
}

/// A snapshot that a properties file makes of a relation.
#[derive(Debug)]
pub(super) struct OfRelation {
    pub name: String,
    pub file: PathBuf,
    pub relation: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_around_a_block_is_blanked() {
        let text = "é {# c #}\n{% snapshot a %}\nselect 1\n{%- endsnapshot -%} x {% snapshot b %}select 2{% endsnapshot %}";
        let found = blocks(text).expect("blocks");
        let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        for (query, wanted) in [(&found[0].1, "select 1"), (&found[1].1, "select 2")] {
            assert_eq!((query.trim(), query.len()), (wanted, text.len()));
            assert_eq!(query.find(wanted), text.find(wanted));
        }
        let (at, message) = blocks("x {% snapshot a %} select 1").expect_err("no end");
        assert_eq!((at, message.as_str()), (2, "snapshot `a` has no {% endsnapshot %}"));
    }
}
