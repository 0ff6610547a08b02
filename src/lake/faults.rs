//! A store that fails on demand: for tests of what happens then.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions,
    Result, path::Path,
};

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is not done, and says so: what a store answers with status 5xx, or does not answer.
    Refused,
    /// A write is done, and says that it was not.
    ReplyLost,
    /// A write is done, and says that somebody else did it before: what a client that tried again by
    /// itself is told.
    ReplyExists,
    /// A read ends before its end.
    Cut,
    /// It takes a while.
    Slow,
}

/// Decides by path, and by how many such writes were attempted before.
type Plan = Box<dyn FnMut(&str) -> Option<Fault> + Send>;

/// Passes everything on to another store but the requests that its plans pick.
pub(crate) struct FaultStore {
    inner: Arc<dyn ObjectStore>,
    writes: Mutex<Plan>,
    reads: Mutex<Plan>,
}

impl FaultStore {
    pub(crate) fn new(
        inner: Arc<dyn ObjectStore>,
        writes: impl FnMut(&str) -> Option<Fault> + Send + 'static,
    ) -> Self {
        Self { inner, writes: Mutex::new(Box::new(writes)), reads: Mutex::new(Box::new(|_| None)) }
    }

    /// The same with a plan for reads.
    pub(crate) fn on_reads(
        self,
        reads: impl FnMut(&str) -> Option<Fault> + Send + 'static,
    ) -> Self {
        Self { reads: Mutex::new(Box::new(reads)), ..self }
    }
}

async fn planned(plan: &Mutex<Plan>, location: &Path) -> Option<Fault> {
    let fault = {
        let mut plan = plan.lock().unwrap_or_else(PoisonError::into_inner);
        (*plan)(location.as_ref())
    };
    if fault == Some(Fault::Slow) {
        tokio::time::sleep(SLOW).await;
    }
    fault
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

/// How long a slow request takes longer.
const SLOW: Duration = Duration::from_millis(30);

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
        match planned(&self.writes, location).await {
            Some(Fault::Refused) => Err(injected()),
            Some(Fault::ReplyLost) => {
                self.inner.put_opts(location, payload, options).await?;
                Err(injected())
            }
            Some(Fault::ReplyExists) => {
                self.inner.put_opts(location, payload, options).await?;
                let (path, source) = (location.to_string(), "injected fault".into());
                Err(Error::AlreadyExists { path, source })
            }
            None | Some(Fault::Cut | Fault::Slow) => {
                self.inner.put_opts(location, payload, options).await
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
        let fault = planned(&self.reads, location).await;
        if fault == Some(Fault::Refused) {
            return Err(injected());
        }
        let mut found = self.inner.get_opts(location, options).await?;
        if fault == Some(Fault::Cut) {
            let (meta, range) = (found.meta.clone(), found.range.clone());
            let attributes = std::mem::take(&mut found.attributes);
            let bytes = found.bytes().await?;
            let half = bytes.slice(..bytes.len() / 2);
            let payload = GetResultPayload::Stream(stream::iter([Ok(half)]).boxed());
            return Ok(GetResult { payload, meta, range, attributes });
        }
        Ok(found)
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
