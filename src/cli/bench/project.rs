//! The project that is measured: one stream, one append model, one aggregate; and its
//! events.

use std::path::Path;

use bytes::Bytes;

use crate::cli::{Failure, example};

pub(super) const STREAM: &str = "events";
/// The kinds that the load has; samples have one of their own.
const KINDS: [&str; 4] = ["view", "search", "buy", "leave"];
pub(super) const SAMPLE: &str = "sample";

const SILVER: (&str, &str) = (
    "models/silver/events.sql",
    "SELECT id, ts, user_id, kind, amount, note FROM {{ source('bronze', 'events') }}\n",
);
const GOLD: (&str, &str) = (
    "models/gold/amount_by_kind.sql",
    "SELECT kind, count(*) AS events, sum(amount) AS amount\n\
     FROM {{ ref('events') }}\n\
     GROUP BY kind\n",
);

/// How much of the project there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Upto {
    Bronze,
    Silver,
    Gold,
}

/// The contract of the stream. On Kafka, `topic` is the name of its topic.
fn contract(partitions: u32, topic: Option<&str>) -> String {
    let topic = topic.map_or_else(String::new, |name| format!("topic: {{name: {name}}}\n"));
    format!(
        "name: {STREAM}\n\
         format: json\n\
         partitions: {partitions}\n\
         {topic}key: user_id\n\
         event_id: id\n\
         event_time: ts\n\
         fields:\n\
         \x20 - {{name: id, type: text, required: true}}\n\
         \x20 - {{name: ts, type: timestamp, required: true}}\n\
         \x20 - {{name: user_id, type: int, required: true}}\n\
         \x20 - {{name: kind, type: text, required: true}}\n\
         \x20 - {{name: amount, type: float, required: true}}\n\
         \x20 - {{name: note, type: text}}\n"
    )
}

/// Writes the project into `folder`.
pub(super) fn unpack(
    folder: &Path,
    upto: Upto,
    partitions: u32,
    topic: Option<&str>,
) -> Result<(), Failure> {
    let contract = contract(partitions, topic);
    let mut files =
        vec![("sluice.yml", "name: bench\nversion: 1\n"), ("streams/events.yml", &contract)];
    if upto != Upto::Bronze {
        files.push(SILVER);
    }
    if upto == Upto::Gold {
        files.push(GOLD);
    }
    files.into_iter().try_for_each(|(name, text)| example::write(folder, name, text.as_bytes()))
}

/// A name that makes the ids of a run its own: a folder may be used again.
pub(super) fn new_run() -> String {
    let mut run = uuid::Uuid::new_v4().simple().to_string();
    run.truncate(8);
    run
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
    let mut event = head.into_bytes();
    let padding = size.saturating_sub(event.len() + 2);
    event.extend(text(number).take(padding));
    event.extend_from_slice(b"\"}");
    Bytes::from(event)
}

/// Words of seven letters, which compress about as words do, not as a run of one letter would.
fn text(seed: u64) -> impl Iterator<Item = u8> {
    const LETTERS: &[u8; 16] = b"etaoinshrdlucmfw";
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    std::iter::repeat_with(move || {
        // xorshift64 (Marsaglia, 2003)
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    })
    .flat_map(|word| {
        let letter = move |at| LETTERS[(word >> (4 * at)) as usize & 15];
        (0..7).map(letter).chain(std::iter::once(b' '))
    })
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
        assert_ne!(
            value["note"],
            serde_json::from_slice::<serde_json::Value>(&first).expect("json")["note"]
        );
        assert_eq!((value["kind"].as_str(), value["amount"].as_f64()), (Some("buy"), Some(0.02)));
    }

    #[test]
    fn the_project_is_kept_in_the_ways_that_are_measured() {
        let dir = tempfile::tempdir().expect("dir");
        let all = ["silver.events append", "gold.amount_by_kind aggregate"];
        for (upto, wanted) in
            [(Upto::Gold, &all[..]), (Upto::Silver, &all[..1]), (Upto::Bronze, &[])]
        {
            let folder = dir.path().join(format!("{upto:?}"));
            unpack(&folder, upto, 3, Some("bench-7")).expect("unpacked");
            let planned = check::load(&folder).expect("a project without errors");
            let kept: Vec<String> =
                planned.plans.iter().map(|p| format!("{} {}", p.model.name, p.class)).collect();
            assert_eq!(kept, wanted);
            let contract = planned.judges[0].contract();
            assert_eq!((contract.partitions, contract.topic.name.as_deref()), (3, Some("bench-7")));
        }
    }
}
