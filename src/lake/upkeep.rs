//! Compaction: many small files of a growing table become few, sorted by place.
//!
//! A table is read and planned more slowly with every file that a seal adds. So small files are read
//! and written anew beside the hot path, and swapped in by one commit of the only kind that removes
//! files: compare-and-swap. It moves the position [`UPKEEP`], so that of two compactions from one
//! snapshot one loses (delta's own `optimize` lets both win, and doubles every row).

use std::sync::Arc;

use datafusion::{
    execution::{memory_pool::FairSpillPool, runtime_env::RuntimeEnvBuilder},
    prelude::{SessionConfig, SessionContext, ident},
};
use deltalake::{
    kernel::{Action, Add, Remove},
    protocol::checkpoints::cleanup_expired_logs_for,
};
use futures::TryStreamExt as _;

use crate::lake::{
    commit::{self, Commit, CommitError, Move},
    table::{LakeError, Table},
};

/// Counts the compactions of a table. Persisted: must stay stable.
pub(super) const UPKEEP: &str = "upkeep";
/// Files below this size are merged.
const SMALL_BYTES: u64 = 16 * 1024 * 1024;
/// A table with so many of them is due.
pub const SMALL_FILES: usize = 32;
/// One compaction reads about so much.
const JOB_BYTES: u64 = 64 * 1024 * 1024;
/// Sorting takes at most so much memory; beyond that it spills to disk.
const SORT_BYTES: usize = 256 * 1024 * 1024;

/// Files that are to become one.
pub struct Compaction {
    table: Table,
    removes: Vec<Remove>,
}

/// Files that were written, to stand in the place of others.
pub struct Compacted {
    removes: Vec<Remove>,
    adds: Vec<Add>,
}

impl Compacted {
    /// How many files go, and how many come.
    pub fn files(&self) -> (usize, usize) {
        (self.removes.len(), self.adds.len())
    }
}

impl Table {
    /// What is to be merged now, oldest first, if anything is.
    pub async fn compaction_due(&self) -> Result<Option<Compaction>, LakeError> {
        let log_store = self.delta().log_store();
        let mut views = self.snapshot()?.file_views(log_store.as_ref(), None);
        let mut small = Vec::new();
        while let Some(file) = views.try_next().await.map_err(self.failed("list its files"))? {
            let size = u64::try_from(file.size()).unwrap_or_default();
            if size < SMALL_BYTES {
                small.push((file.modification_time(), size, file.remove_action(false)));
            }
        }
        drop(views);
        if small.len() < SMALL_FILES {
            return Ok(None);
        }
        small.sort_by_key(|(modified, ..)| *modified);
        let mut total = 0;
        let taken = small.into_iter().take_while(|(_, size, _)| {
            total += size;
            total - size < JOB_BYTES
        });
        let removes = taken.map(|(_, _, remove)| remove).collect();
        Ok(Some(Compaction { table: self.reader(), removes }))
    }

    /// Deletes entries of the table's log that are older than `before_us` (microseconds since 1970)
    /// and that no version from then on needs: those below a checkpoint. Returns how many.
    pub async fn clean_up_log(&self, before_us: i64) -> Result<usize, LakeError> {
        let log_store = self.delta().log_store();
        let before_ms = before_us.div_euclid(1_000);
        let cleaned = cleanup_expired_logs_for(self.version(), log_store.as_ref(), before_ms, None);
        cleaned.await.map_err(self.failed("clean up its log"))
    }

    /// Puts the new files in the place of the old; nothing where these are not there any more, or
    /// another writer was faster. Whether it was done.
    pub async fn compact(&mut self, compacted: Compacted) -> Result<bool, CommitError> {
        let unknown = |source| CommitError::Unreadable(Box::new(source));
        let active = self.files(self.snapshot().map_err(unknown)?).await.map_err(unknown)?;
        let active: std::collections::HashSet<&str> = active.iter().map(String::as_str).collect();
        if !compacted.removes.iter().all(|remove| active.contains(remove.path.as_str())) {
            return Ok(false);
        }
        let from = self.position(UPKEEP);
        let moves = vec![Move { app_id: UPKEEP.to_owned(), from, to: from.unwrap_or(0) + 1 }];
        let removes = compacted.removes.into_iter().map(Action::Remove);
        let actions = removes.chain(compacted.adds.into_iter().map(Action::Add)).collect();
        let commit = Commit { actions, moves, removes: true };
        let (name, delta, recorded) = self.parts();
        match commit::commit(name, delta, recorded, commit).await {
            Ok(()) => Ok(true),
            Err(CommitError::Outdated { .. } | CommitError::Moved { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Compaction {
    /// Reads the old files and writes the new, sorted by the columns `order`. Nothing is committed.
    pub async fn run(self, order: [&str; 2]) -> Result<Compacted, LakeError> {
        let Self { table, removes } = self;
        let snapshot = Arc::new(table.snapshot()?.clone());
        let paths = removes.iter().map(|remove| remove.path.clone()).collect();
        let provider = table.scan(snapshot, Some(paths)).await?;
        let read = table.unread();
        let pool = Arc::new(FairSpillPool::new(SORT_BYTES));
        let runtime = RuntimeEnvBuilder::new().with_memory_pool(pool).build_arc().map_err(&read)?;
        // One core: it runs beside the hot path.
        let config = SessionConfig::new().with_target_partitions(1);
        let context = SessionContext::new_with_config_rt(config, runtime);
        let order = order.map(|column| ident(column).sort(true, false)).to_vec();
        let sorted = async { context.read_table(provider)?.sort(order)?.execute_stream().await };
        let rows = sorted.await.map_err(&read)?;
        let mut adds = table.write_stream(rows).await?;
        for add in &mut adds {
            add.data_change = false;
        }
        Ok(Compacted { removes, adds })
    }
}
