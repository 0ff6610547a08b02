//! Upkeep beside the micro-batches: growing tables are compacted, one at a time.

use std::time::Duration;

use tokio::{task::JoinError, time::Instant};

use crate::{
    domain::{TableName, chain},
    lake::{Compacted, LakeError, SMALL_FILES},
    process::{Error, metrics, pipeline::Pipeline, stream::StreamTables},
};

/// After a failure, nothing is compacted for so long.
const PAUSE: Duration = Duration::from_secs(60);

/// The compaction that is under way or waits to be committed.
#[derive(Default)]
pub(super) struct Upkeep {
    /// At most one; ends with the pipeline.
    under_way: tokio::task::JoinSet<(TableName, Result<Compacted, LakeError>)>,
    finished: Option<(TableName, Compacted)>,
    not_before: Option<Instant>,
}

impl Upkeep {
    fn is_idle(&self) -> bool {
        self.under_way.is_empty()
            && self.finished.is_none()
            && self.not_before.is_none_or(|then| Instant::now() >= then)
    }

    fn take_over(
        &mut self,
        ended: Result<(TableName, Result<Compacted, LakeError>), JoinError>,
    ) -> Result<(), Error> {
        match ended {
            Ok((table, Ok(compacted))) => self.finished = Some((table, compacted)),
            // What was written is in nobody's way; the files stay small for a while longer.
            Ok((table, Err(error))) => {
                tracing::warn!(%table, error = chain(&error), "not compacted");
                self.not_before = Some(Instant::now() + PAUSE);
            }
            Err(error) => return Err(Error::Internal(format!("compacting a table: {error}"))),
        }
        Ok(())
    }
}

impl Pipeline {
    /// At a mark: swaps in what was compacted, and begins with the next table that is due. Whether
    /// something was committed.
    pub(super) async fn keep_up(&mut self) -> Result<bool, Error> {
        while let Some(ended) = self.upkeep.under_way.try_join_next() {
            self.upkeep.take_over(ended)?;
        }
        let mut is_done = false;
        if let Some((name, compacted)) = self.upkeep.finished.take() {
            let (gone, come) = compacted.files();
            let mut tables = self.streams.iter_mut().flat_map(StreamTables::tables_mut);
            if let Some(table) = tables.find(|table| table.table.name() == &name) {
                is_done = table.compact(compacted).await?;
            }
            if is_done {
                tracing::info!(table = %name, files = gone, into = come, "compacted");
                metrics::compacted(&name);
            }
        }
        if self.upkeep.is_idle() {
            self.begin_compaction().await;
        }
        Ok(is_done)
    }

    async fn begin_compaction(&mut self) {
        let tables = self.streams.iter_mut().flat_map(StreamTables::tables_mut);
        for table in tables.filter(|table| table.files() >= SMALL_FILES as u64) {
            let order = table.columns();
            match table.table.compaction_due().await {
                Ok(Some(compaction)) => {
                    let name = table.table.name().clone();
                    self.upkeep.under_way.spawn(async move { (name, compaction.run(order).await) });
                    return;
                }
                Ok(None) => {}
                Err(error) => tracing::warn!(error = chain(&error), "not looked after"),
            }
        }
    }
}
