//! What is wrong with the log of a table that cannot be loaded: which file, and where in it.
//!
//! The libraries that read the log say what they met, and not in which file. So after a failure all
//! that they may have met is looked at.

use std::collections::BTreeMap;

use deltalake::{DeltaTable, DeltaTableError, logstore::LogStoreRef};
use futures::TryStreamExt as _;
use object_store::{ObjectStoreExt as _, path::Path};
use serde::de::IgnoredAny;

use crate::{
    domain::{TableName, chain},
    lake::{
        audit::rows_of,
        table::{LakeError, Table},
    },
};

pub(super) const LOG: &str = "_delta_log";
const HINT: &str = "_last_checkpoint";

/// Why a table cannot be loaded: the file at fault where there is one, else what the reader said.
pub(super) async fn unloadable(
    delta: &DeltaTable,
    table: &TableName,
    source: DeltaTableError,
) -> LakeError {
    let table = table.clone();
    match (Damage { log: delta.log_store() }).find().await {
        Ok(Some(reason)) => LakeError::Log { table, reason },
        Ok(None) => LakeError::Table { table, action: "load", source: Box::new(source) },
        Err(error) => LakeError::Log { table, reason: chain(&error) },
    }
}

/// The complete path of a file of a table's log.
pub(super) fn path_of(log: &LogStoreRef, file: &str) -> String {
    log.to_uri(&Path::from(LOG).join(file))
}

/// The file of a version.
pub(super) fn entry(version: u64) -> String {
    format!("{version:020}.json")
}

impl Table {
    /// Which commit is missing, of a table that has less than others say of it.
    pub async fn missing_commit(&self) -> String {
        let log = self.delta().log_store();
        let newest = entry(self.version());
        let found = log.object_store(None).head(&Path::from(LOG).join(newest.as_str())).await;
        if found.is_ok_and(|found| found.size == 0) {
            return format!("{} is empty", path_of(&log, &newest));
        }
        format!("{} is not there", path_of(&log, &entry(self.version() + 1)))
    }
}

struct Damage {
    log: LogStoreRef,
}

impl Damage {
    /// Looks at the checkpoint that counts, then at every commit after it.
    async fn find(&self) -> Result<Option<String>, object_store::Error> {
        let listed = self.log.object_store(None).list(Some(&Path::from(LOG)));
        let listed: Vec<_> = listed.try_collect().await?;
        let files: BTreeMap<&str, u64> =
            listed.iter().filter_map(|file| Some((file.location.filename()?, file.size))).collect();
        let hinted = self.hinted(&files).await?;
        let newest = files.keys().rfind(|name| is_checkpoint(name));
        let checkpoint = hinted.clone().or_else(|| newest.map(|name| (*name).to_owned()));
        if let Some(name) = &checkpoint {
            let what = match files.get(name.as_str()) {
                None => Some(format!("is not there, and {HINT} names it")),
                Some(0) => Some("is empty".to_owned()),
                Some(_) => {
                    let rows = rows_of(self.log.object_store(None), &format!("{LOG}/{name}")).await;
                    rows.err().map(|reason| format!("is damaged: {reason}"))
                }
            };
            if let Some(what) = what {
                return Ok(Some(format!("{} {what}", path_of(&self.log, name))));
            }
        }
        self.commit_after(checkpoint.as_deref().and_then(version_of), &files).await
    }

    /// The checkpoint of the version that the hint names; one that cannot be read names none.
    async fn hinted(
        &self,
        files: &BTreeMap<&str, u64>,
    ) -> Result<Option<String>, object_store::Error> {
        if !files.contains_key(HINT) {
            return Ok(None);
        }
        let bytes = self.read(HINT).await?;
        let hint: Option<serde_json::Value> = serde_json::from_slice(&bytes).ok();
        let version = hint.and_then(|hint| hint.get("version")?.as_u64());
        Ok(version.map(|version| {
            let of_version =
                |name: &&&str| is_checkpoint(name) && version_of(name) == Some(version);
            let found = files.keys().find(of_version);
            match found {
                Some(name) => (*name).to_owned(),
                None => format!("{version:020}.checkpoint.parquet"),
            }
        }))
    }

    async fn commit_after(
        &self,
        checkpoint: Option<u64>,
        files: &BTreeMap<&str, u64>,
    ) -> Result<Option<String>, object_store::Error> {
        let mut expected = checkpoint.map(|version| version + 1);
        for name in files.keys().filter(|name| is_commit(name)) {
            let Some(version) = version_of(name).filter(|v| expected.is_none_or(|e| *v >= e))
            else {
                continue;
            };
            if let Some(gone) = expected.filter(|expected| *expected < version) {
                let path = path_of(&self.log, &entry(gone));
                return Ok(Some(format!("{path} is not there, and later versions are")));
            }
            let bytes = self.read(name).await?;
            if let Some(what) = not_json(&bytes) {
                let path = path_of(&self.log, name);
                return Ok(Some(format!("{path} is damaged: {what}")));
            }
            expected = Some(version + 1);
        }
        Ok(None)
    }

    async fn read(&self, name: &str) -> Result<bytes::Bytes, object_store::Error> {
        self.log.object_store(None).get(&Path::from(LOG).join(name)).await?.bytes().await
    }
}

fn not_json(bytes: &[u8]) -> Option<String> {
    let values = serde_json::Deserializer::from_slice(bytes).into_iter::<IgnoredAny>();
    values.filter_map(Result::err).next().map(|error| error.to_string())
}

/// The version that a file of the log is of.
pub(super) fn version_of(file: &str) -> Option<u64> {
    let digits = file.split('.').next().filter(|digits| digits.len() == 20)?;
    digits.parse().ok()
}

pub(super) fn is_commit(file: &str) -> bool {
    version_of(file).is_some_and(|version| entry(version) == file)
}

pub(super) fn is_checkpoint(file: &str) -> bool {
    let named = file.contains(".checkpoint.") && file.ends_with(".parquet");
    named && version_of(file).is_some()
}
