//! A local object store that is durable: file, then directory, before a write is reported.
//!
//! object_store's own local store never calls fsync (0.13), so a power failure could take a commit
//! that was already reported. A conditional put goes through a synced temporary file and a hard
//! link, so what other readers see under the final name is always whole and on disk.

use std::{
    fmt, fs, io,
    path::{Path as FsPath, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions,
    Result, UploadPart, local::LocalFileSystem, path::Path,
};

use crate::{domain::Durability, ops::folders};

/// The local file system as a durable object store, rooted at `/`.
#[derive(Debug)]
pub struct FsyncStore {
    inner: Arc<LocalFileSystem>,
    durability: Durability,
    /// Makes temporary names unique within the process.
    counter: AtomicU64,
}

impl FsyncStore {
    pub fn new(durability: Durability) -> Self {
        Self { inner: Arc::new(LocalFileSystem::new()), durability, counter: AtomicU64::new(0) }
    }

    fn path(&self, location: &Path) -> Result<PathBuf> {
        self.inner.path_to_filesystem(location)
    }
}

impl fmt::Display for FsyncStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FsyncStore({:?})", self.durability)
    }
}

#[async_trait]
impl ObjectStore for FsyncStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        if self.durability == Durability::Os || matches!(options.mode, PutMode::Update(_)) {
            return self.inner.put_opts(location, payload, options).await;
        }
        let path = self.path(location)?;
        let unique = self.counter.fetch_add(1, Ordering::Relaxed);
        let create = matches!(options.mode, PutMode::Create);
        let location = location.to_string();
        blocking(move || {
            let bytes: Bytes = payload.into();
            write_durably(&path, &bytes, create, unique).map_err(|source| match source.kind() {
                io::ErrorKind::AlreadyExists => {
                    Error::AlreadyExists { path: location, source: source.into() }
                }
                _ => failed("write", &path, source),
            })
        })
        .await?;
        Ok(PutResult { e_tag: None, version: None })
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let path = self.path(location)?;
        let created = path.parent().map(folders::missing).unwrap_or_default();
        let inner = self.inner.put_multipart_opts(location, options).await?;
        if self.durability == Durability::Os {
            return Ok(inner);
        }
        Ok(Box::new(SyncedUpload { inner, path, created }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(
        &self,
        location: &Path,
        ranges: &[std::ops::Range<u64>],
    ) -> Result<Vec<Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await?;
        self.sync(to).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.inner.rename_opts(from, to, options).await?;
        self.sync(to).await
    }
}

impl FsyncStore {
    async fn sync(&self, location: &Path) -> Result<()> {
        if self.durability == Durability::Os {
            return Ok(());
        }
        let path = self.path(location)?;
        blocking(move || {
            sync_file_and_directory(&path, &[]).map_err(|source| failed("sync", &path, source))
        })
        .await
    }
}

/// An upload whose file is synced before it counts as complete.
#[derive(Debug)]
struct SyncedUpload {
    inner: Box<dyn MultipartUpload>,
    path: PathBuf,
    created: Vec<PathBuf>,
}

#[async_trait]
impl MultipartUpload for SyncedUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.inner.put_part(data)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let result = self.inner.complete().await?;
        let (path, created) = (self.path.clone(), std::mem::take(&mut self.created));
        blocking(move || {
            sync_file_and_directory(&path, &created).map_err(|source| failed("sync", &path, source))
        })
        .await?;
        Ok(result)
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let joined = tokio::task::spawn_blocking(work).await;
    joined.map_err(|source| Error::JoinError { source })?
}

fn failed(what: &str, path: &FsPath, source: io::Error) -> Error {
    let source = io::Error::new(source.kind(), format!("{what} {}: {source}", path.display()));
    Error::Generic { store: "FsyncStore", source: source.into() }
}

/// Writes `bytes` under `path` so that the name only ever shows the whole, synced content.
fn write_durably(path: &FsPath, bytes: &[u8], create: bool, unique: u64) -> io::Result<()> {
    let folder = path.parent().unwrap_or(path);
    let created = folders::missing(folder);
    fs::create_dir_all(folder)?;
    // The form that the local store's listings leave out.
    let temporary = PathBuf::from(format!("{}#{}{unique}", path.display(), std::process::id()));
    let written = (|| {
        fs::write(&temporary, bytes)?;
        fs::File::open(&temporary)?.sync_all()?;
        if create { fs::hard_link(&temporary, path) } else { fs::rename(&temporary, path) }
    })();
    if create || written.is_err() {
        // A leftover is harmless: listings skip it.
        fs::remove_file(&temporary).ok();
    }
    written?;
    folders::sync_entry(path)?;
    folders::sync_entries(&created)
}

fn sync_file_and_directory(path: &FsPath, created: &[PathBuf]) -> io::Result<()> {
    fs::File::open(path)?.sync_all()?;
    folders::sync_entry(path)?;
    folders::sync_entries(created)
}

#[cfg(test)]
mod tests {
    use object_store::ObjectStoreExt as _;

    use super::*;

    #[tokio::test]
    async fn a_name_is_created_once_and_leaves_no_temporary_file() {
        let dir = tempfile::tempdir().expect("folder");
        let store = FsyncStore::new(Durability::Fsync);
        let location = Path::from_absolute_path(dir.path().join("a/b/0.json")).expect("path");
        let create = PutOptions::from(PutMode::Create);
        store.put_opts(&location, "one".into(), create.clone()).await.expect("first");
        let second = store.put_opts(&location, "two".into(), create).await;
        assert!(matches!(second, Err(Error::AlreadyExists { .. })), "{second:?}");
        let content = store.get(&location).await.expect("get").bytes().await.expect("bytes");
        assert_eq!(content, "one");
        let names: Vec<_> = fs::read_dir(dir.path().join("a/b")).expect("list").collect();
        assert_eq!(names.len(), 1);
    }
}
