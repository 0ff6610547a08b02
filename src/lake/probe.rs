//! Whether a folder can hold a lake: what commits rely on, tried out with files that are removed.

use std::{
    path::{Path as FsPath, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use futures::future::join_all;
use object_store::{
    Error, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload, path::Path,
};

use super::FsyncStore;
use crate::domain::Durability;

/// Writers that want the same name at once.
const RIVALS: usize = 8;
/// Writes that are timed.
const WRITES: usize = 9;

/// What was found in a folder where files can be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// How many of the writers that created the same name at once were told that they did. One,
    /// where the store can hold a table.
    pub winners: usize,
    /// How long a small file takes until it is synced, name included: the median.
    pub write: Duration,
    /// The time that the file system gives a new file.
    pub modified: Option<SystemTime>,
}

/// A step that failed.
#[derive(Debug, thiserror::Error)]
#[error("{step} in {}: {source}", .folder.display())]
pub struct ProbeError {
    step: &'static str,
    folder: PathBuf,
    source: Error,
}

/// Tries in `folder`, which must exist, what a commit does. Leaves nothing behind.
pub async fn probe(folder: &FsPath, durability: Durability) -> Result<Probe, ProbeError> {
    let place = folder.join(format!(".sluice-probe-{}", uuid::Uuid::new_v4().simple()));
    let probed = probe_in(&place, durability).await;
    // Absent where not even the first write succeeded.
    std::fs::remove_dir_all(&place).ok();
    probed.map_err(|(step, source)| ProbeError { step, folder: folder.to_path_buf(), source })
}

type Step<T> = Result<T, (&'static str, Error)>;

async fn probe_in(place: &FsPath, durability: Durability) -> Step<Probe> {
    let store = Arc::new(FsyncStore::new(durability));
    let at = |name: &str| {
        let path = Path::from_absolute_path(place.join(name));
        path.map_err(|error| ("name a file", error.into()))
    };
    let create = || PutOptions::from(PutMode::Create);
    let first = at("first")?;
    let put = store.put_opts(&first, "one".into(), create()).await;
    put.map_err(|e| ("create a file", e))?;
    let contested = at("contested")?;
    let rivals = (0..RIVALS).map(|n| {
        let payload = PutPayload::from(format!("{n}"));
        store.put_opts(&contested, payload, create())
    });
    let mut winners = 0;
    for outcome in join_all(rivals).await {
        match outcome {
            Ok(_) => winners += 1,
            Err(Error::AlreadyExists { .. }) => {}
            Err(error) => return Err(("create a file that exists", error)),
        }
    }
    let renamed = at("renamed")?;
    store.rename(&first, &renamed).await.map_err(|e| ("rename a file", e))?;
    let mut times = Vec::with_capacity(WRITES);
    for n in 0..WRITES {
        let (name, began) = (at(&format!("timed-{n}"))?, Instant::now());
        let put = store.put_opts(&name, "timed".into(), create()).await;
        put.map_err(|e| ("write a file", e))?;
        times.push(began.elapsed());
    }
    times.sort();
    let found = store.get(&renamed).await.map_err(|e| ("read a file", e))?;
    let content = found.bytes().await.map_err(|e| ("read a file", e))?;
    if content != "one" {
        let source = format!("3 bytes were written, {} others read", content.len()).into();
        return Err(("read a file back", Error::Generic { store: "probe", source }));
    }
    let modified = std::fs::metadata(place.join("renamed")).and_then(|meta| meta.modified()).ok();
    Ok(Probe { winners, write: times[WRITES / 2], modified })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_good_folder_has_one_winner_and_is_left_as_it_was() {
        let dir = tempfile::tempdir().expect("folder");
        for durability in [Durability::Fsync, Durability::Os] {
            let found = probe(dir.path(), durability).await.expect("a good folder");
            assert_eq!(found.winners, 1);
            assert!(found.write > Duration::ZERO && found.modified.is_some());
        }
        assert_eq!(std::fs::read_dir(dir.path()).expect("folder").count(), 0);
    }

    #[tokio::test]
    async fn a_step_that_fails_is_named() {
        let dir = tempfile::tempdir().expect("folder");
        let file = dir.path().join("file");
        std::fs::write(&file, b"").expect("file");
        let error = probe(&file, Durability::Fsync).await.expect_err("no folder").to_string();
        assert!(error.starts_with(&format!("create a file in {}: ", file.display())), "{error}");
    }
}
