//! The folders of a server, each with its lock.

use std::{
    fs::{File, TryLockError},
    path::Path,
};

use crate::{
    cli::{Failure, chain},
    config::{Config, LogKind, Server},
    lake::Lake,
    ops::folders,
};

/// The data folder, which is one process's own, and the lake, which the processors of a group
/// share. Both stay so for as long as this lives.
pub(super) struct Folders {
    pub lake: Lake,
    _data: File,
    _lake: File,
}

impl Folders {
    /// Opens and locks both, or says in one clear sentence why they cannot be used.
    pub(super) fn open(config: &Config) -> Result<Self, Failure> {
        let (server, group) = (&config.server, &config.kafka.group);
        if !group.is_empty() && server.log == LogKind::Embedded {
            return Err(Failure::invalid(format!(
                "kafka.group is {group:?}, but the embedded log has one reader; use --log \
                 kafka://HOST:PORT, or no group"
            )));
        }
        let data = lock(&server.data_dir, "--data-dir", false)?;
        let folder = server.lake_dir();
        let shared = lock(&folder, "--lake", !group.is_empty())?;
        Ok(Self { lake: lake(server)?, _data: data, _lake: shared })
    }
}

/// A lake that no server uses while this lives, and that no other is let into.
pub(super) struct LakeFolder {
    pub lake: Lake,
    _lock: File,
}

impl LakeFolder {
    pub(super) fn open(server: &Server) -> Result<Self, Failure> {
        let lock = lock(&server.lake_dir(), "--lake", false)?;
        Ok(Self { lake: lake(server)?, _lock: lock })
    }
}

fn lake(server: &Server) -> Result<Lake, Failure> {
    let lake = Lake::local(&server.lake_dir(), server.durability);
    lake.map_err(|e| Failure::new(e.kind(), chain(&e)))
}

/// A lake that is there, to be read beside whoever writes it.
pub(super) fn existing_lake(server: &Server) -> Result<Lake, Failure> {
    let folder = server.lake_dir();
    if !folder.is_dir() {
        let message =
            format!("no lake at {}; say where with --data-dir or --lake", folder.display());
        return Err(Failure::invalid(message));
    }
    lake(server)
}

/// Locks a folder, for this process alone or with others that share it.
fn lock(folder: &Path, flag: &str, is_shared: bool) -> Result<File, Failure> {
    let failed = |what: String| {
        let hint = format!("choose another with {flag}");
        Failure::unavailable(format!("folder {} {what}; {hint}", folder.display()))
    };
    let file = folders::create(folder)
        .and_then(|()| File::create(folder.join("lock")))
        .map_err(|e| failed(format!("cannot be written: {e}")))?;
    match if is_shared { file.try_lock_shared() } else { file.try_lock() } {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) if is_shared => {
            Err(failed("is in use by a sluice outside of the group".to_owned()))
        }
        Err(TryLockError::WouldBlock) => Err(failed("is in use by another sluice".to_owned())),
        Err(TryLockError::Error(e)) => Err(failed(format!("cannot be locked: {e}"))),
    }
}
