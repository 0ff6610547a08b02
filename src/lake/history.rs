//! The versions of a table: what each changed, and the rows as they were at one of them.
//!
//! A version is one commit of the table's Delta log. Its time is what the writer noted in the
//! commit. Older entries are cleaned up behind a checkpoint (`upkeep.rs`); what is left is what can
//! be read.

use std::{collections::BTreeMap, sync::Arc};

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use deltalake::{delta_datafusion::DeltaScanNext, kernel::EagerSnapshot, logstore::LogStoreRef};
use futures::TryStreamExt as _;
use object_store::{ObjectStore as _, ObjectStoreExt as _, path::Path};
use serde::{Deserialize, Serialize};

use crate::{
    domain::{TableName, chain},
    lake::{
        audit::base,
        damage::{LOG, is_checkpoint, is_commit, version_of},
        table::{Lake, LakeError},
        upkeep::UPKEEP,
    },
};

/// Microseconds in a millisecond, in which a commit notes its time.
const US_OF_MS: i64 = 1_000;

/// What a commit did to a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// The table was made.
    Created,
    /// Its definition changed, and with it the whole content.
    Redefined,
    /// Rows came.
    Appended,
    /// Rows took the place of others, or went.
    Replaced,
    /// Small files became larger ones; the rows are the same.
    Compacted,
    /// The inputs moved without changing the rows.
    Advanced,
}

/// One version of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Version {
    pub version: u64,
    /// When it was committed, in microseconds since 1970.
    pub committed_us: Option<i64>,
    pub change: Change,
    pub files_added: u64,
    pub files_removed: u64,
    /// Rows in the files that came.
    pub rows_added: u64,
    /// The positions that it moved, by app id.
    pub positions: BTreeMap<String, i64>,
}

/// The versions of one table.
#[derive(Clone)]
pub struct History {
    table: TableName,
    log: LogStoreRef,
}

impl std::fmt::Debug for History {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("History").field("table", &self.table).finish_non_exhaustive()
    }
}

impl Lake {
    /// The versions of a table; `None` where there is no such table.
    pub async fn history(&self, name: &TableName) -> Result<Option<History>, LakeError> {
        let table = self.open_stored(name).await?;
        Ok(table.map(|table| History::new(name.clone(), table.delta().log_store())))
    }
}

impl History {
    pub(super) fn new(table: TableName, log: LogStoreRef) -> Self {
        Self { table, log }
    }

    /// Every version that is kept, the oldest first.
    pub async fn versions(&self) -> Result<Vec<Version>, LakeError> {
        let mut versions = Vec::new();
        for version in self.kept().await?.entries {
            let entry = self.entry(version).await?;
            versions.push(entry.told(version));
        }
        Ok(versions)
    }

    /// The newest version.
    pub async fn newest(&self) -> Result<Option<Version>, LakeError> {
        let Some(version) = self.kept().await?.entries.last().copied() else { return Ok(None) };
        Ok(Some(self.entry(version).await?.told(version)))
    }

    /// The newest version that is not younger than `at_us`, microseconds since 1970. An error where
    /// none that old is kept.
    pub async fn version_at(&self, at_us: i64) -> Result<u64, LakeError> {
        let kept = self.kept().await?;
        let (mut low, mut high) = (0, kept.entries.len());
        let mut oldest = None;
        while low < high {
            let middle = usize::midpoint(low, high);
            let Some(version) = kept.entries.get(middle) else { break };
            let committed = self.entry(*version).await?.committed_us();
            if middle == 0 {
                oldest = committed;
            }
            if committed.is_some_and(|us| us <= at_us) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let found = low.checked_sub(1).and_then(|index| kept.entries.get(index));
        let not_kept = || LakeError::NotKept {
            table: self.table.clone(),
            asked: format!("from {}", shown(at_us)),
            kept: match oldest {
                Some(us) => format!("the oldest that is kept is from {}", shown(us)),
                None => "it has none".to_owned(),
            },
        };
        found.copied().filter(|found| *found >= kept.readable_from).ok_or_else(not_kept)
    }

    /// The rows as they were at `version`, with their columns.
    pub async fn rows_at(
        &self,
        version: u64,
    ) -> Result<(SchemaRef, Arc<dyn TableProvider>), LakeError> {
        let kept = self.kept().await?;
        let newest = kept.entries.last().copied().unwrap_or_default();
        if version < kept.readable_from || version > newest {
            return Err(LakeError::NotKept {
                table: self.table.clone(),
                asked: version.to_string(),
                kept: format!("versions {} to {newest} are kept", kept.readable_from),
            });
        }
        let failed = |source| LakeError::Table {
            table: self.table.clone(),
            action: "load an older version",
            source: Box::new(source),
        };
        let snapshot = EagerSnapshot::try_new(self.log.as_ref(), Some(version)).await;
        let builder = DeltaScanNext::builder()
            .with_eager_snapshot(Arc::new(snapshot.map_err(failed)?))
            .with_log_store(Arc::clone(&self.log));
        let scan = builder.build().await.map_err(|error| LakeError::Read {
            table: self.table.clone(),
            reason: crate::lake::reason_of(&error),
        })?;
        let provider: Arc<dyn TableProvider> = Arc::new(scan);
        Ok((plain(&provider.schema()), provider))
    }

    async fn kept(&self) -> Result<Kept, LakeError> {
        let store = self.log.object_store(None);
        let listed: Result<Vec<_>, _> = store.list(Some(&Path::from(LOG))).try_collect().await;
        let listed = listed.map_err(|error| self.unreadable(chain(&error)))?;
        let names = || listed.iter().filter_map(|entry| entry.location.filename());
        let commits = names().filter(|name| is_commit(name));
        let entries: BTreeMap<u64, &str> =
            commits.filter_map(|name| Some((version_of(name)?, name))).collect();
        let last = entries.keys().next_back().copied().unwrap_or_default();
        let checkpoints = names().filter(|name| is_checkpoint(name)).filter_map(version_of);
        let readable_from = base(&entries, last, checkpoints).unwrap_or_default();
        let entries = entries.into_keys().filter(|version| *version >= readable_from);
        Ok(Kept { entries: entries.collect(), readable_from })
    }

    async fn entry(&self, version: u64) -> Result<Entry, LakeError> {
        let name = format!("{version:020}.json");
        let store = self.log.object_store(None);
        let path = Path::from(LOG).join(name.as_str());
        let read = async { store.get(&path).await?.bytes().await };
        let bytes = read.await.map_err(|error| self.unreadable(chain(&error)))?;
        let mut entry = Entry::default();
        for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let line = serde_json::from_slice(line);
            entry.add(line.map_err(|e| self.unreadable(format!("{name} is damaged: {e}")))?);
        }
        Ok(entry)
    }

    fn unreadable(&self, reason: String) -> LakeError {
        LakeError::Log { table: self.table.clone(), reason }
    }
}

/// Which versions a log still tells of.
struct Kept {
    entries: Vec<u64>,
    /// The oldest whose rows can be read.
    readable_from: u64,
}

/// A point in time for people: to the second, in UTC.
fn shown(us: i64) -> String {
    let time = chrono::DateTime::from_timestamp_micros(us);
    time.map_or_else(|| us.to_string(), |time| time.format("%Y-%m-%d %H:%M:%SZ").to_string())
}

/// Arrow's plain types in the place of those that only a scan uses.
fn plain(schema: &Schema) -> SchemaRef {
    let field = |field: &Arc<Field>| match field.data_type() {
        DataType::Utf8View => Arc::new(field.as_ref().clone().with_data_type(DataType::Utf8)),
        DataType::BinaryView => Arc::new(field.as_ref().clone().with_data_type(DataType::Binary)),
        _ => Arc::clone(field),
    };
    Arc::new(Schema::new(schema.fields().iter().map(field).collect::<Vec<_>>()))
}

/// What is looked at in one commit.
#[derive(Default)]
struct Entry {
    timestamp_ms: Option<i64>,
    has_metadata: bool,
    has_protocol: bool,
    files_added: u64,
    files_removed: u64,
    rows_added: u64,
    positions: BTreeMap<String, i64>,
}

impl Entry {
    fn add(&mut self, line: Line) {
        if let Some(info) = line.commit_info {
            self.timestamp_ms = info.timestamp;
        }
        self.has_metadata |= line.meta_data.is_some();
        self.has_protocol |= line.protocol.is_some();
        if let Some(added) = line.add {
            self.files_added += 1;
            let stats = added.stats.and_then(|stats| serde_json::from_str::<Stats>(&stats).ok());
            self.rows_added += stats.and_then(|stats| stats.num_records).unwrap_or_default();
        }
        self.files_removed += u64::from(line.remove.is_some());
        if let Some(moved) = line.txn {
            self.positions.insert(moved.app_id, moved.version);
        }
    }

    fn committed_us(&self) -> Option<i64> {
        self.timestamp_ms.map(|ms| ms.saturating_mul(US_OF_MS))
    }

    fn told(self, version: u64) -> Version {
        let change = if self.has_protocol && version == 0 {
            Change::Created
        } else if self.has_metadata {
            Change::Redefined
        } else if self.positions.contains_key(UPKEEP) {
            Change::Compacted
        } else if self.files_removed > 0 {
            Change::Replaced
        } else if self.files_added > 0 {
            Change::Appended
        } else {
            Change::Advanced
        };
        Version {
            version,
            committed_us: self.committed_us(),
            change,
            files_added: self.files_added,
            files_removed: self.files_removed,
            rows_added: self.rows_added,
            positions: self.positions,
        }
    }
}

/// A line of a commit; of each action only what is looked at.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    commit_info: Option<CommitInfo>,
    meta_data: Option<serde::de::IgnoredAny>,
    protocol: Option<serde::de::IgnoredAny>,
    add: Option<Added>,
    remove: Option<serde::de::IgnoredAny>,
    txn: Option<Moved>,
}

#[derive(Deserialize)]
struct CommitInfo {
    timestamp: Option<i64>,
}

#[derive(Deserialize)]
struct Added {
    stats: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stats {
    num_records: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Moved {
    app_id: String,
    version: i64,
}
