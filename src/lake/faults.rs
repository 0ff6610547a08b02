//! A store whose writes fail on demand: for tests of what happens then.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
    path::Path,
};

/// What happens to a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is not done, and says so.
    Refused,
    /// It is done, and says that it was not.
    ReplyLost,
}

/// Decides by path, and by how many such writes were attempted before.
type Plan = Box<dyn FnMut(&str) -> Option<Fault> + Send>;

/// Passes everything on to another store but the writes that its plan picks.
pub(crate) struct FaultStore {
    inner: Arc<dyn ObjectStore>,
    plan: Mutex<Plan>,
}

impl FaultStore {
    pub(crate) fn new(
        inner: Arc<dyn ObjectStore>,
        plan: impl FnMut(&str) -> Option<Fault> + Send + 'static,
    ) -> Self {
        Self { inner, plan: Mutex::new(Box::new(plan)) }
    }
}

impl fmt::Debug for FaultStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FaultStore")
    }
}

impl fmt::Display for FaultStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FaultStore")
    }
}

fn injected() -> Error {
    Error::Generic { store: "FaultStore", source: "injected fault".into() }
}

#[async_trait]
impl ObjectStore for FaultStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let fault = {
            let mut plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
            (*plan)(location.as_ref())
        };
        match fault {
            None => self.inner.put_opts(location, payload, options).await,
            Some(Fault::Refused) => Err(injected()),
            Some(Fault::ReplyLost) => {
                self.inner.put_opts(location, payload, options).await?;
                Err(injected())
            }
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
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

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.inner.rename_opts(from, to, options).await
    }
}
