//! The patches of a table that are not committed yet, in the order in which they came.
//!
//! A publication stops at a mark: at the generation that recomputed tables were computed from. So
//! patches are kept apart where a mark lies between them, and merged where none does: memory follows
//! the keys that were touched, not how often.

use std::sync::Arc;

use arrow::{array::BinaryArray, compute::concat_batches};
use datafusion::error::DataFusionError;

use crate::{
    domain::{Positions, change::Patch},
    lake::Patches,
};

/// More patches than this are merged.
const PATCHES: usize = 64;

/// Patches of consecutive generations.
#[derive(Default)]
pub(super) struct PatchLog {
    stamped: Vec<Stamped>,
    /// The same, as queries see it.
    shown: Patches,
    /// Generations up to which something is still to be committed as it was then.
    marks: Vec<u64>,
}

/// What made a table what it is in a generation.
struct Stamped {
    /// The generations that it made, first and last.
    first: u64,
    last: u64,
    /// How far the table reaches as long as it is of the last generation.
    positions: Positions,
    patch: Arc<Patch>,
}

impl PatchLog {
    /// Adds the patch that makes `generation`, of a table that reaches `positions` with it.
    pub(super) fn push(
        &mut self,
        patch: Arc<Patch>,
        generation: u64,
        positions: Positions,
    ) -> Result<(), DataFusionError> {
        self.stamped.push(Stamped { first: generation, last: generation, positions, patch });
        if self.stamped.len() > PATCHES {
            self.merge()?;
        }
        self.show();
        Ok(())
    }

    /// The newest generation reaches as far as this.
    pub(super) fn reach(&mut self, positions: &Positions) {
        if let Some(newest) = self.stamped.last_mut() {
            newest.positions.clone_from(positions);
        }
    }

    /// The generations at which publications may stop, besides those to come.
    pub(super) fn mark(&mut self, marks: Vec<u64>) {
        self.marks = marks;
    }

    /// What is to be committed for the table to be of `generation`, and how far it reaches then;
    /// `None` if it is already of that one or a later.
    pub(super) fn up_to(&self, generation: u64) -> Option<(Patches, Positions)> {
        let due = self.stamped.iter().take_while(|stamped| stamped.last <= generation);
        let due: Vec<&Stamped> = due.collect();
        let positions = due.last()?.positions.clone();
        let patches = due.iter().map(|stamped| Arc::clone(&stamped.patch)).collect();
        Some((Patches::new(patches), positions))
    }

    /// The patches up to `generation` are committed.
    pub(super) fn committed(&mut self, generation: u64) {
        self.stamped.retain(|stamped| stamped.last > generation);
        self.show();
    }

    /// The oldest generation that is not committed.
    pub(super) fn first_pending(&self) -> Option<u64> {
        self.stamped.first().map(|stamped| stamped.first)
    }

    pub(super) fn shown(&self) -> &Patches {
        &self.shown
    }

    fn show(&mut self) {
        let patches = self.stamped.iter().map(|stamped| Arc::clone(&stamped.patch));
        self.shown = Patches::new(patches.collect());
    }

    /// Merges patches between which no publication can stop.
    fn merge(&mut self) -> Result<(), DataFusionError> {
        let mut merged: Vec<Stamped> = Vec::new();
        let mut part: Vec<Stamped> = Vec::new();
        for stamped in std::mem::take(&mut self.stamped) {
            let is_end = self.marks.contains(&stamped.last);
            part.push(stamped);
            if is_end {
                merged.extend(merged_part(std::mem::take(&mut part))?);
            }
        }
        merged.extend(merged_part(part)?);
        self.stamped = merged;
        Ok(())
    }
}

fn merged_part(part: Vec<Stamped>) -> Result<Option<Stamped>, DataFusionError> {
    let (Some(first), Some(last)) = (part.first(), part.last()) else { return Ok(None) };
    let (first, last, positions) = (first.first, last.last, last.positions.clone());
    let schema = part[0].patch.rows.schema();
    let all = Patches::new(part.into_iter().map(|stamped| stamped.patch).collect());
    let keys = BinaryArray::from_iter_values(all.keys()?);
    let rows = concat_batches(&schema, all.rows()?)?;
    Ok(Some(Stamped { first, last, positions, patch: Arc::new(Patch { keys, rows }) }))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use arrow::{
        array::{Array as _, ArrayRef, AsArray as _, Int64Array, RecordBatch},
        datatypes::Int64Type,
    };
    use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

    use super::*;
    use crate::domain::change::KEY;

    type Table = BTreeMap<Vec<u8>, i64>;

    fn patch(changes: &BTreeMap<Vec<u8>, Option<i64>>) -> Patch {
        let keys = BinaryArray::from_iter_values(changes.keys());
        let there = changes.iter().filter_map(|(key, value)| Some((key, (*value)?)));
        let (held, values): (Vec<_>, Vec<i64>) = there.unzip();
        let rows = RecordBatch::try_from_iter([
            (KEY, Arc::new(BinaryArray::from_iter_values(held)) as ArrayRef),
            ("v", Arc::new(Int64Array::from(values))),
        ]);
        Patch { keys, rows: rows.expect("rows") }
    }

    fn apply(table: &mut Table, patches: &Patches) {
        for key in patches.keys().expect("keys") {
            table.remove(key);
        }
        for rows in patches.rows().expect("rows") {
            let keys = rows.column(0).as_binary::<i32>();
            let values = rows.column(1).as_primitive::<Int64Type>();
            for row in 0..keys.len() {
                let was = table.insert(keys.value(row).to_vec(), values.value(row));
                assert_eq!(was, None, "a key stands twice");
            }
        }
    }

    #[test]
    fn a_publication_at_a_mark_holds_what_the_table_was_then() {
        for seed in 0..20 {
            let mut random = StdRng::seed_from_u64(seed);
            let (mut log, mut now, mut committed) =
                (PatchLog::default(), Table::new(), Table::new());
            let mut marked: Option<(u64, Table, Positions)> = None;
            let mut positions = Positions::default();
            for generation in 1..400 {
                let count = random.random_range(1..6);
                let changes = (0..count).map(|_| {
                    let key = vec![random.random_range(0..30_u8)];
                    (key, (random.random_range(0..4) > 0).then(|| random.random_range(0..1_000)))
                });
                let changes: BTreeMap<_, _> = changes.collect();
                for (key, value) in &changes {
                    match value {
                        Some(value) => now.insert(key.clone(), *value),
                        None => now.remove(key),
                    };
                }
                positions.advance("events", 0, i64::try_from(generation).expect("small"));
                log.push(Arc::new(patch(&changes)), generation, positions.clone()).expect("merged");
                assert!(log.stamped.len() <= PATCHES + 1);
                let mut shown = committed.clone();
                apply(&mut shown, log.shown());
                assert_eq!(shown, now, "seed {seed}, generation {generation}");
                match random.random_range(0..60) {
                    0 if marked.is_none() => {
                        marked = Some((generation, now.clone(), positions.clone()));
                        log.mark(vec![generation]);
                    }
                    1 => {
                        let Some((mark, table, reached)) = marked.take() else { continue };
                        let (patches, at) = log.up_to(mark).expect("something to commit");
                        apply(&mut committed, &patches);
                        log.committed(mark);
                        assert_eq!((&committed, &at), (&table, &reached), "seed {seed}");
                        assert!(log.first_pending().is_none_or(|first| first == mark + 1));
                    }
                    _ => {}
                }
            }
        }
    }
}
