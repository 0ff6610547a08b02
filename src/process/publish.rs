//! Committing the tables whose rows are replaced: those kept by changes at a mark, and with them
//! what was computed from them.

use std::collections::BTreeMap;

use futures::future::try_join_all;

use crate::{
    domain::{Positions, TableName},
    lake::LakeView,
    process::{
        Error,
        derived::{Mark, Published},
        pipeline::Pipeline,
        rounds::basis,
    },
};

impl Pipeline {
    /// Commits tables whose rows are replaced, parents first, one level side by side: as they were at
    /// the `cut`, if there was one, up to which Bronze reaches; else as they are.
    pub(super) async fn publish(
        &mut self,
        positions_too: bool,
        cut: Option<Positions>,
    ) -> Result<usize, Error> {
        let mark = match cut {
            Some(_) => std::mem::take(&mut self.seal_mark),
            None => self.mark(),
        };
        let mut published = Published { cut, ..Published::default() };
        let mut committed = 0;
        let levels = self.derived.iter().map(|derived| derived.level).max().unwrap_or_default();
        for level in 0..=levels {
            let at_level = self.derived.iter_mut().filter(|derived| derived.level == level);
            let models = at_level.filter(|derived| derived.plan.is_some());
            let commits = models.map(|d| d.publish(&mark, &published, positions_too));
            committed += try_join_all(commits).await?.into_iter().filter(|done| *done).count();
            let done = self.derived.iter().filter(|derived| derived.level == level);
            done.for_each(|derived| published.add(derived));
            self.go_on(published.cut.is_some()).await?;
        }
        Ok(committed)
    }

    /// What is to be committed of the tables that are kept by changes: what others were made of
    /// beside the loop, so that these can be committed with it; without such, all.
    pub(super) fn mark(&self) -> Mark {
        let mut mark = self.generations();
        if self.publishes_at_marks() {
            mark.extend(self.last_mark.clone());
        }
        mark
    }

    /// Whether tables are made of others that move on meanwhile.
    pub(super) fn publishes_at_marks(&self) -> bool {
        self.derived.iter().any(|derived| derived.has_looks) || self.recomputes_kept()
    }

    /// Whether something is recomputed from tables that are kept by changes.
    pub(super) fn recomputes_kept(&self) -> bool {
        let by_sql = self.derived.iter().filter(|derived| !derived.is_kept());
        let mut reads = by_sql.filter_map(|derived| derived.plan.as_ref()).flat_map(|p| &p.tables);
        let is_kept = |name: &TableName| {
            self.derived.iter().any(|derived| derived.info.name == *name && derived.is_kept())
        };
        reads.any(is_kept)
    }

    /// Tells the tables kept by changes where a publication may stop.
    pub(super) fn keep_marks(&mut self) {
        for derived in self.derived.iter_mut().filter(|derived| derived.is_kept()) {
            let marks = [&self.round_mark, &self.last_mark, &self.seal_mark];
            let marks = marks.iter().filter_map(|mark| mark.get(&derived.info.name));
            derived.mark(marks.copied().collect());
        }
    }

    pub(super) fn generations(&self) -> BTreeMap<TableName, u64> {
        self.derived.iter().map(|d| (d.info.name.clone(), d.at.generation)).collect()
    }

    /// After catching up: recomputed tables whose recorded inputs are those of now need no run.
    pub(super) fn trust_recorded(&mut self, view: &LakeView) {
        let generations = self.generations();
        let mut versions = BTreeMap::new();
        for derived in &mut self.derived {
            if let Some(plan) = derived.plan.clone().filter(|_| !derived.is_kept()) {
                let basis = basis(&plan, view, &generations);
                let positions = view.positions.only(&plan.streams);
                derived.trust_if_current(basis, &positions, &versions);
            }
            if derived.published() == Some(derived.at.generation) {
                versions.insert(derived.info.name.clone(), derived.version());
            }
        }
    }
}
