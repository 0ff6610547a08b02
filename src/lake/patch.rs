//! Committing patches: the files that hold patched keys are written anew without them, and with
//! what the patches have.

use std::sync::Arc;

use datafusion::prelude::SessionContext;
use deltalake::kernel::{Action, Remove};
use futures::TryStreamExt as _;

use crate::{
    domain::change::KEY,
    lake::{
        changes::conform,
        commit::{CommitError, Move},
        files,
        patches::Patches,
        table::{LakeError, Table},
    },
};
use deltalake::writer::DeltaWriter as _;

/// Files below this size are small.
const SMALL_BYTES: i64 = 16 * 1024 * 1024;
/// So many small files are merged by the way.
const SMALL_FILES: usize = 8;

impl Table {
    /// Puts what `patches` have in the place of whatever the table holds under their keys, and
    /// moves positions, in one commit on the newest version.
    pub async fn patch(&mut self, patches: &Patches, moves: Vec<Move>) -> Result<(), CommitError> {
        let unreadable = |source| CommitError::Unreadable(Box::new(source));
        let removes = self.touched(patches).await.map_err(unreadable)?;
        let failed = |source| CommitError::Write { table: self.name().clone(), source };
        let mut writer = files::writer(self.delta()).map_err(|e| failed(Box::new(e)))?;
        let mut any = false;
        for remove in &removes {
            let mut rows = self.stream(&remove.path, None).await.map_err(unreadable)?;
            let unread = self.unread();
            while let Some(batch) = rows.try_next().await.map_err(|e| unreadable(unread(e)))? {
                let batch = conform(&batch, self.schema()).map_err(|e| unread(e.into()));
                let batch = batch.and_then(|batch| patches.unpatched(&batch).map_err(&unread));
                let batch = batch.map_err(unreadable)?;
                if batch.num_rows() > 0 {
                    writer.write(batch).await.map_err(|e| failed(Box::new(e)))?;
                    any = true;
                }
            }
        }
        let rows = patches.rows().map_err(|e| unreadable(self.unread()(e)))?;
        for batch in rows.iter().filter(|batch| batch.num_rows() > 0) {
            writer.write(batch.clone()).await.map_err(|e| failed(Box::new(e)))?;
            any = true;
        }
        let adds = match any {
            true => writer.flush().await.map_err(|e| failed(Box::new(e)))?,
            false => Vec::new(),
        };
        let removes = removes.into_iter().map(Action::Remove);
        let actions = removes.chain(adds.into_iter().map(Action::Add)).collect();
        self.publish(actions, moves).await
    }

    /// The files that hold a patched key, and small ones that are better merged.
    async fn touched(&self, patches: &Patches) -> Result<Vec<Remove>, LakeError> {
        let log_store = self.delta().log_store();
        let mut views = self.snapshot()?.file_views(log_store.as_ref(), None);
        let mut files = Vec::new();
        while let Some(file) = views.try_next().await.map_err(self.failed("list its files"))? {
            files.push((file.size(), file.remove_action(true)));
        }
        drop(views);
        let small = files.iter().filter(|(size, _)| *size < SMALL_BYTES).count();
        let mut touched = Vec::new();
        for (size, remove) in files {
            let is_merged = size < SMALL_BYTES && small >= SMALL_FILES;
            if is_merged || (!patches.only_add() && self.holds(&remove.path, patches).await?) {
                touched.push(remove);
            }
        }
        Ok(touched)
    }

    async fn holds(&self, path: &str, patches: &Patches) -> Result<bool, LakeError> {
        let unread = self.unread();
        let keys = self.schema().index_of(KEY).and_then(|key| self.schema().project(&[key]));
        let keys = Arc::new(keys.map_err(|e| unread(e.into()))?);
        let mut rows = self.stream(path, Some(KEY)).await?;
        while let Some(batch) = rows.try_next().await.map_err(&unread)? {
            let batch = conform(&batch, &keys).map_err(|e| unread(e.into()))?;
            if patches.touch(batch.column(0)).map_err(&unread)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The rows of one file of the snapshot, or one column of them.
    async fn stream(
        &self,
        path: &str,
        column: Option<&str>,
    ) -> Result<datafusion::execution::SendableRecordBatchStream, LakeError> {
        let snapshot = Arc::new(self.snapshot()?.clone());
        let provider = self.scan(snapshot, Some(vec![path.to_owned()])).await?;
        let read = async {
            let frame = SessionContext::new().read_table(provider)?;
            match column {
                Some(column) => frame.select_columns(&[column])?.execute_stream().await,
                None => frame.execute_stream().await,
            }
        };
        read.await.map_err(self.unread())
    }
}
