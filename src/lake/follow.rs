//! Following what other writers commit to a table: the snapshot and the positions it records.
//!
//! Reading a position from a snapshot replays the log back to its last checkpoint; the new entries
//! alone say the same at the cost of reading them.

use std::ops::RangeInclusive;

use deltalake::{DeltaTable, DeltaTableError};
use serde::Deserialize;

use crate::lake::{
    commit::{self, CommitError, Recorded},
    table::Table,
};

/// A line of a log entry, of which only the position matters here.
#[derive(Deserialize)]
struct Line {
    txn: Option<Moved>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Moved {
    app_id: String,
    version: i64,
}

impl Table {
    /// Takes over what was committed since. Whether anything was.
    pub async fn follow(&mut self) -> Result<bool, CommitError> {
        let (name, delta, recorded) = self.parts();
        let before = delta.version().unwrap_or_default();
        let unknown =
            |source| CommitError::Unknown { table: name.clone(), source: Box::new(source) };
        let mut newer = delta.clone();
        newer.update_incremental(None).await.map_err(unknown)?;
        let now = newer.version().unwrap_or_default();
        if now == before {
            return Ok(false);
        }
        let mut positions = recorded.clone();
        take_over(&newer, &mut positions, before + 1..=now).await.map_err(unknown)?;
        // Both change together or not at all.
        (*delta, *recorded) = (newer, positions);
        Ok(true)
    }
}

/// Brings `recorded` up to date with the entries of `versions`, the last of which is the version of
/// `delta`.
pub(super) async fn take_over(
    delta: &DeltaTable,
    recorded: &mut Recorded,
    versions: RangeInclusive<u64>,
) -> Result<(), DeltaTableError> {
    let log_store = delta.log_store();
    for version in versions {
        let Some(entry) = log_store.read_commit_entry(version).await? else {
            // It went into a checkpoint and was cleaned up.
            *recorded = commit::recorded_in(delta, recorded.keys().cloned()).await?;
            return Ok(());
        };
        for line in entry.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let line: Line = serde_json::from_slice(line)
                .map_err(|e| DeltaTableError::Generic(format!("version {version}: {e}")))?;
            if let Some(Moved { app_id, version }) = line.txn
                && let Some(position) = recorded.get_mut(&app_id)
            {
                *position = Some(version);
            }
        }
    }
    Ok(())
}
