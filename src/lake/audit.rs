//! A table as an auditor reads it: every version of its log and every file, nothing taken on trust.
//!
//! Reads only. The log is read entry by entry, as the Delta protocol lays it down
//! (<https://github.com/delta-io/delta/blob/master/PROTOCOL.md>), so that what is found does not
//! rest on the code that wrote it.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use datafusion::catalog::TableProvider;
use deltalake::logstore::LogStoreRef;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, future::BoxFuture};
use object_store::{ObjectStore, ObjectStoreExt as _, path::Path};
use parquet::{
    arrow::async_reader::MetadataFetch, errors::ParquetError, file::metadata::ParquetMetaDataReader,
};
use serde::Deserialize;

use crate::{
    domain::{TableName, chain},
    lake::{
        checkpoint,
        damage::{LOG, is_checkpoint, is_commit, path_of, version_of},
        table::{Lake, LakeError, Table, TableSpec},
    },
};

/// Files whose ends are read side by side.
const PARALLEL: usize = 16;

/// One version of a table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditedVersion {
    pub version: u64,
    /// The positions that it moves, by app id.
    pub positions: Vec<(String, i64)>,
    /// Paths of the files that it adds and removes.
    pub added: Vec<String>,
    pub removed: Vec<String>,
}

/// A data file that some version adds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditedFile {
    pub path: String,
    /// The version that adds it first.
    pub version: u64,
    /// Rows that the log says it has, where it says so.
    pub claimed: Option<u64>,
    /// Rows that the file has, or why it cannot be read.
    pub found: Result<u64, String>,
}

/// A table with its whole history.
pub struct Audited {
    table: Table,
    /// In order. Where older entries were cleaned up, the first is what a checkpoint says.
    pub versions: Vec<AuditedVersion>,
    /// By path.
    pub files: Vec<AuditedFile>,
    /// The definition that built it.
    pub fingerprint: String,
}

impl Lake {
    /// Reads everything about a table; `None` where there is none.
    pub async fn audit(&self, name: &TableName) -> Result<Option<Audited>, LakeError> {
        let Some(table) = self.open_stored(name).await? else { return Ok(None) };
        let store = table.delta().log_store().object_store(None);
        let unreadable = |reason: String| LakeError::Log { table: name.clone(), reason };
        let (versions, claimed) =
            read_log(&table.delta().log_store(), table.version()).await.map_err(unreadable)?;
        let files = futures::stream::iter(claimed)
            .map(|(path, (version, claimed))| {
                let store = Arc::clone(&store);
                async move {
                    let found = rows_of(store, &path).await;
                    AuditedFile { path, version, claimed, found }
                }
            })
            .buffered(PARALLEL)
            .collect()
            .await;
        let fingerprint = table.fingerprint()?;
        Ok(Some(Audited { table, versions, files, fingerprint }))
    }

    /// Whether there is such a table.
    pub async fn has(&self, name: &TableName) -> Result<bool, LakeError> {
        Ok(self.open_stored(name).await?.is_some())
    }

    /// Opens a table as it is stored, where there is one.
    pub(super) async fn open_stored(&self, name: &TableName) -> Result<Option<Table>, LakeError> {
        let delta = self.locate(name)?;
        let failed = |action| {
            let table = name.clone();
            move |source| LakeError::Table { table, action, source: Box::new(source) }
        };
        if !delta.verify_deltatable_existence().await.map_err(failed("look for its log"))? {
            return Ok(None);
        }
        let spec = TableSpec {
            name: name.clone(),
            schema: Arc::new(arrow::datatypes::Schema::empty()),
            fingerprint: String::new(),
            description: String::new(),
        };
        self.open(&spec, []).await.map(Some)
    }
}

impl Audited {
    /// Names the table in its readers' positions.
    pub fn id(&self) -> Result<String, LakeError> {
        self.table.id()
    }

    /// The newest version.
    pub fn version(&self) -> u64 {
        self.table.version()
    }

    pub fn schema(&self) -> &SchemaRef {
        self.table.schema()
    }

    /// The newest value of every position.
    pub fn positions(&self) -> BTreeMap<String, i64> {
        self.versions.iter().flat_map(|version| version.positions.iter().cloned()).collect()
    }

    /// The rows of `version`, or of the newest.
    pub async fn rows_at(&self, version: Option<u64>) -> Result<Arc<dyn TableProvider>, LakeError> {
        let snapshot = match version {
            Some(version) if version != self.version() => self.table.snapshot_at(version).await?,
            _ => self.table.snapshot()?.clone(),
        };
        self.table.scan(Arc::new(snapshot), None).await
    }
}

/// Version and claimed rows of a file.
type Claims = BTreeMap<String, (u64, Option<u64>)>;

/// Every entry of the log up to `last`: from the first, or from the checkpoint behind which older
/// ones were cleaned up.
pub(super) async fn read_log(
    log: &LogStoreRef,
    last: u64,
) -> Result<(Vec<AuditedVersion>, Claims), String> {
    let store = log.object_store(None);
    let listed = store.list(Some(&Path::from(LOG)));
    let listed: Vec<_> = listed.try_collect().await.map_err(|e| chain(&e))?;
    let names = || listed.iter().filter_map(|entry| entry.location.filename());
    let entries = names().filter(|name| is_commit(name));
    let entries = entries.filter_map(|name| Some((version_of(name)?, name)));
    let mut entries: BTreeMap<u64, &str> =
        entries.filter(|(version, _)| *version <= last).collect();
    let checkpoints = names().filter(|name| is_checkpoint(name)).filter_map(version_of);
    let (mut versions, mut claims) = (Vec::new(), Claims::new());
    if let Some(version) = base(&entries, last, checkpoints) {
        versions.push(read_checkpoint(log, version, &mut claims).await?);
        entries.retain(|entry, _| *entry > version);
    }
    for (version, name) in entries {
        let path = path_of(log, name);
        let read = async { store.get(&Path::from(LOG).join(name)).await?.bytes().await };
        let entry = read.await.map_err(|e| chain(&e))?;
        let read = read_entry(version, &entry, &mut claims);
        versions.push(read.map_err(|e| format!("{path} is damaged: {e}"))?);
    }
    Ok((versions, claims))
}

/// What holds at `version`, as if it had come with it.
async fn read_checkpoint(
    log: &LogStoreRef,
    version: u64,
    claims: &mut Claims,
) -> Result<AuditedVersion, String> {
    let name = format!("{version:020}.checkpoint.parquet");
    let path = path_of(log, &name);
    let damaged = |e: &dyn std::fmt::Display| format!("{path} is damaged: {e}");
    let store = log.object_store(None);
    let read = async { store.get(&Path::from(LOG).join(name.as_str())).await?.bytes().await };
    let found = checkpoint::read(read.await.map_err(|e| chain(&e))?).map_err(|e| damaged(&e))?;
    let mut start = AuditedVersion { version, ..AuditedVersion::default() };
    start.positions = found.positions;
    for (path, stats) in found.files {
        let claimed = rows_claimed(stats.as_deref()).map_err(|e| damaged(&e))?;
        claims.insert(path.clone(), (version, claimed));
        start.added.push(path);
    }
    Ok(start)
}

/// The oldest checkpoint behind which no entry is missing, where the first ones are.
pub(super) fn base(
    entries: &BTreeMap<u64, &str>,
    last: u64,
    checkpoints: impl Iterator<Item = u64>,
) -> Option<u64> {
    let unbroken = (0..=last).rev().take_while(|version| entries.contains_key(version)).last()?;
    if unbroken == 0 {
        return None;
    }
    checkpoints.filter(|version| *version + 1 >= unbroken && *version <= last).min()
}

fn rows_claimed(stats: Option<&str>) -> Result<Option<u64>, serde_json::Error> {
    let stats = stats.map(serde_json::from_str::<Stats>).transpose()?;
    Ok(stats.and_then(|stats| stats.num_records))
}

/// A line of an entry; of each action only what is looked at.
#[derive(Deserialize)]
struct Line {
    txn: Option<Txn>,
    add: Option<Added>,
    remove: Option<Removed>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Txn {
    app_id: String,
    version: i64,
}

#[derive(Deserialize)]
struct Added {
    path: String,
    stats: Option<String>,
}

#[derive(Deserialize)]
struct Removed {
    path: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stats {
    num_records: Option<u64>,
}

fn read_entry(
    version: u64,
    entry: &[u8],
    claims: &mut Claims,
) -> Result<AuditedVersion, serde_json::Error> {
    let mut found = AuditedVersion { version, ..AuditedVersion::default() };
    for line in entry.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let line: Line = serde_json::from_slice(line)?;
        if let Some(txn) = line.txn {
            found.positions.push((txn.app_id, txn.version));
        }
        if let Some(added) = line.add {
            let claimed = rows_claimed(added.stats.as_deref())?;
            claims.entry(added.path.clone()).or_insert((version, claimed));
            found.added.push(added.path);
        }
        if let Some(removed) = line.remove {
            found.removed.push(removed.path);
        }
    }
    Ok(found)
}

/// Rows of a data file, from its own footer.
pub(super) async fn rows_of(store: Arc<dyn ObjectStore>, path: &str) -> Result<u64, String> {
    let path = Path::from_url_path(path).map_err(|e| e.to_string())?;
    let size = store.head(&path).await.map_err(|e| e.to_string())?.size;
    let file = File { store, path };
    let metadata = ParquetMetaDataReader::new().load_and_finish(file, size).await;
    let metadata = metadata.map_err(|e| e.to_string())?;
    Ok(u64::try_from(metadata.file_metadata().num_rows()).unwrap_or_default())
}

struct File {
    store: Arc<dyn ObjectStore>,
    path: Path,
}

impl MetadataFetch for File {
    fn fetch(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ParquetError>> {
        let read = async move {
            let bytes = self.store.get_range(&self.path, range).await;
            bytes.map_err(|e| ParquetError::External(Box::new(e)))
        };
        read.boxed()
    }
}
