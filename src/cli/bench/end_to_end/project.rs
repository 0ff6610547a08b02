//! The project that is measured: one stream, one append model, one recomputed aggregate.

use std::path::Path;

use bytes::Bytes;

use crate::cli::Failure;

pub(super) const STREAM: &str = "events";
/// The kinds that the load has; samples have one of their own.
const KINDS: [&str; 4] = ["view", "search", "buy", "leave"];
pub(super) const SAMPLE: &str = "sample";

const FILES: [(&str, &str); 4] = [
    ("sluice.yml", "name: bench\nversion: 1\n"),
    (
        "streams/events.yml",
        "name: events\n\
         format: json\n\
         partitions: 4\n\
         key: user_id\n\
         event_id: id\n\
         event_time: ts\n\
         fields:\n\
         \x20 - {name: id, type: text, required: true}\n\
         \x20 - {name: ts, type: timestamp, required: true}\n\
         \x20 - {name: user_id, type: int, required: true}\n\
         \x20 - {name: kind, type: text, required: true}\n\
         \x20 - {name: amount, type: float, required: true}\n\
         \x20 - {name: note, type: text}\n",
    ),
    (
        "models/silver/events.sql",
        "SELECT id, ts, user_id, kind, amount, note FROM {{ source('bronze', 'events') }}\n",
    ),
    (
        "models/gold/amount_by_kind.sql",
        "SELECT kind, count(*) AS events, sum(amount) AS amount\n\
         FROM {{ ref('events') }}\n\
         GROUP BY kind\n",
    ),
];

/// Writes the project into `folder`.
pub(super) fn unpack(folder: &Path) -> Result<(), Failure> {
    for (name, text) in FILES {
        let path = folder.join(name);
        let written = path
            .parent()
            .map_or(Ok(()), std::fs::create_dir_all)
            .and_then(|()| std::fs::write(&path, text));
        written.map_err(|e| {
            let hint = "choose another folder with --data-dir";
            Failure::unavailable(format!("{} cannot be written: {e}; {hint}", path.display()))
        })?;
    }
    Ok(())
}

/// The id of an event of this run.
pub(super) fn id(run: &str, number: u64) -> String {
    format!("{run}-{number:012}")
}

/// An event of the load, padded to `size` bytes.
pub(super) fn event(run: &str, number: u64, size: usize) -> Bytes {
    let index = usize::try_from(number % KINDS.len() as u64).unwrap_or_default();
    of_kind(&id(run, number), KINDS[index], number, size)
}

/// An event that is looked for.
pub(super) fn sample(id: &str, number: u64, size: usize) -> Bytes {
    of_kind(id, SAMPLE, number, size)
}

fn of_kind(id: &str, kind: &str, number: u64, size: usize) -> Bytes {
    let (second, millisecond) = (number / 1_000 % 60, number % 1_000);
    let (user, cents) = (number % 10_007, number % 10_000);
    let head = format!(
        "{{\"id\":\"{id}\",\"ts\":\"2026-03-02T18:00:{second:02}.{millisecond:03}Z\",\
         \"user_id\":{user},\"kind\":\"{kind}\",\"amount\":{}.{:02},\"note\":\"",
        cents / 100,
        cents % 100
    );
    let padding = size.saturating_sub(head.len() + 2);
    Bytes::from(format!("{head}{}\"}}", "n".repeat(padding)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::check;

    #[test]
    fn events_have_the_size_asked_for_and_differ() {
        let (first, second) = (event("r", 1, 256), event("r", 2, 256));
        assert_eq!((first.len(), second.len()), (256, 256));
        let value: serde_json::Value = serde_json::from_slice(&second).expect("json");
        assert_eq!(value["id"], "r-000000000002");
        assert_eq!((value["kind"].as_str(), value["amount"].as_f64()), (Some("buy"), Some(0.02)));
    }

    #[test]
    fn the_project_is_kept_in_the_ways_that_are_measured() {
        let dir = tempfile::tempdir().expect("dir");
        unpack(dir.path()).expect("unpacked");
        let planned = check::load(dir.path()).expect("a project without errors");
        let kept: Vec<String> =
            planned.plans.iter().map(|p| format!("{} {}", p.model.name, p.class)).collect();
        assert_eq!(kept, ["silver.events append", "gold.amount_by_kind recompute"]);
    }
}
