//! Small files that stand beside the tables.

use bytes::Bytes;
use futures::TryStreamExt as _;
use object_store::{ObjectStoreExt as _, path::Path};

use crate::lake::table::{Lake, LakeError};

impl Lake {
    /// The content of `folder/name`, where there is such a file.
    pub async fn document(&self, folder: &str, name: &str) -> Result<Option<Bytes>, LakeError> {
        let path = self.path(folder, name)?;
        let failed = |source| LakeError::Document { path: path.to_string(), source };
        match self.store().get(&path).await {
            Ok(found) => found.bytes().await.map(Some).map_err(failed),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    /// Makes `content` the whole content of `folder/name`; readers see the old or the new.
    pub async fn put_document(
        &self,
        folder: &str,
        name: &str,
        content: Bytes,
    ) -> Result<(), LakeError> {
        let path = self.path(folder, name)?;
        let put = self.store().put(&path, content.into()).await;
        put.map(|_| ()).map_err(|source| LakeError::Document { path: path.to_string(), source })
    }

    /// The names of the files in `folder`, sorted.
    pub async fn documents(&self, folder: &str) -> Result<Vec<String>, LakeError> {
        let path = self.path(folder, "")?;
        let listed: Result<Vec<_>, _> = self.store().list(Some(&path)).try_collect().await;
        let listed =
            listed.map_err(|source| LakeError::Document { path: path.to_string(), source })?;
        let names = listed.iter().filter_map(|file| file.location.filename());
        let mut names: Vec<String> = names.map(str::to_owned).collect();
        names.sort();
        Ok(names)
    }

    fn path(&self, folder: &str, name: &str) -> Result<Path, LakeError> {
        let location = format!("{folder}/{name}");
        let unusable = |reason: String| LakeError::Folder { path: location.clone(), reason };
        let url = self.root().join(&location).map_err(|e| unusable(e.to_string()))?;
        Path::from_url_path(url.path()).map_err(|e| unusable(e.to_string()))
    }
}
