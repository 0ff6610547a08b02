//! How far the log goes, and whether the tables are there.

use std::collections::BTreeMap;

use crate::{
    domain::{ErrorKind, Offset, Partition},
    process::{Error, pipeline::Pipeline},
};

impl Pipeline {
    /// Where the partitions that this process reads end.
    pub(super) async fn log_ends(&self) -> Result<Vec<(usize, Partition, Offset)>, Error> {
        let mut ends = self.all_ends().await?;
        ends.retain(|(i, partition, _)| self.streams[*i].held.contains(partition));
        Ok(ends)
    }

    /// Where all partitions end, of the streams that are followed.
    pub(super) async fn all_ends(&self) -> Result<Vec<(usize, Partition, Offset)>, Error> {
        let mut ends = Vec::new();
        let streams = self.streams.iter().enumerate();
        for (i, stream) in streams.filter(|(_, stream)| stream.halted.is_none()) {
            let extents = self.deps.log.extents(stream.name()).await?;
            ends.extend((0..).zip(extents).map(|(partition, extent)| (i, partition, extent.end)));
        }
        Ok(ends)
    }

    /// Whether what was read since the last seal came from the logs that it is committed under.
    pub(super) async fn confirm_log(&self) -> Result<(), Error> {
        for stream in &self.streams {
            stream.anchors.confirm(self.deps.log.as_ref(), stream.name()).await?;
        }
        Ok(())
    }

    /// Whether the partitions of `ends` that this process reads are there.
    pub(super) fn reaches(&self, ends: &[(usize, Partition, Offset)]) -> bool {
        ends.iter().all(|(i, partition, end)| {
            let stream = &self.streams[*i];
            let at = stream.bronze.at(*partition);
            !stream.held.contains(partition) || *end == 0 || at.is_some_and(|at| at + 1 >= *end)
        })
    }

    /// Whether the partitions that others read are there, as far as commits say.
    pub(super) async fn others_reach(
        &self,
        ends: &[(usize, Partition, Offset)],
    ) -> Result<bool, Error> {
        for (i, partition, end) in ends {
            let stream = &self.streams[*i];
            if stream.held.contains(partition) {
                continue;
            }
            let bronze = stream.bronze.at(*partition);
            let next = bronze.map_or(0, |at| at + 1);
            if stream.followers().any(|table| table.at(*partition) < bronze)
                || (next < *end
                    && self.deps.log.has_records(stream.name(), *partition, next).await?)
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether the partitions that are not at their ends hold no record there, such as markers of
    /// transactions: then their positions pass over it, so that the log may forget it.
    pub(super) async fn pass_over_holes(
        &mut self,
        ends: &[(usize, Partition, Offset)],
    ) -> Result<bool, Error> {
        let mut holes: Vec<(usize, BTreeMap<Partition, Offset>)> = Vec::new();
        for (i, partition, end) in ends {
            let stream = &self.streams[*i];
            if !stream.held.contains(partition) {
                continue;
            }
            let from = stream.bronze.at(*partition).map_or(0, |at| at + 1);
            if from >= *end {
                continue;
            }
            if self.deps.log.has_records(stream.name(), *partition, from).await? {
                return Ok(false);
            }
            holes.push((*i, [(*partition, end - 1)].into()));
        }
        for (i, to) in holes {
            self.streams[i].pass_over(&to);
        }
        Ok(true)
    }
}

/// `None` where the log cannot be reached now.
pub(super) fn if_reachable<T>(asked: Result<T, Error>) -> Result<Option<T>, Error> {
    match asked {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if error.kind() == ErrorKind::Unavailable => Ok(None),
        Err(error) => Err(error),
    }
}
