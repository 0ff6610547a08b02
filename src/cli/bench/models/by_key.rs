//! A model by key: its SQL, run again over the input's rows under the keys that were touched, as
//! `process` does it, but for an input that stands in memory.

use std::{sync::Arc, time::Duration};

use arrow::{array::RecordBatch, compute::filter_record_batch};
use rand::{SeedableRng as _, rngs::StdRng};

use super::{
    Args, BATCH, CHANGE, CHANGES, ENOUGH, Watch, failed,
    programs::Programs,
    rows::{Keyed, added, batch},
    whole,
};
use crate::{cli::Failure, lake::LakeView, models::KeptState, process::computed_of};

/// More keys take gigabytes: the rows of the table are held by them.
pub(super) const GROUPS_MAX: u64 = 1_000_000;

/// What a model by key costs.
pub(super) struct ByKey {
    /// Rows of its input, and the CPU until an empty table has them.
    pub(super) rows: u64,
    pub(super) fill: Duration,
    /// CPU of one change.
    pub(super) change: Duration,
    /// CPU of the SQL over everything.
    pub(super) whole: Duration,
}

/// The model and all rows of its input.
struct Table<'a> {
    programs: &'a Programs,
    state: Box<dyn KeptState>,
    view: Arc<LakeView>,
    input: Vec<RecordBatch>,
}

/// Fills a table with `groups` keys and changes it.
pub(super) async fn measure(
    args: &Args,
    programs: &Programs,
    groups: u64,
) -> Result<ByKey, Failure> {
    let mut random = StdRng::seed_from_u64(groups);
    let state = Arc::clone(&programs.spread).begin().map_err(failed)?;
    let (view, input) = (Arc::new(LakeView::default()), Vec::new());
    let mut table = Table { programs, state, view, input };
    let mut keys = Keyed::default();
    let rows = groups.max(args.rows);
    let mut parts = Vec::new();
    let mut first = 0;
    while first < rows {
        let count = BATCH.min(rows - first);
        parts.push(batch(count, groups, Some(first), &mut random));
        first += count;
    }
    let all = parts.iter().map(|rows| keys.next(rows)).collect::<Result<Vec<_>, _>>()?;
    let started = Watch::start();
    table.take(all).await?;
    let fill = started.took();
    let whole = whole(&programs.spread_sql, parts, groups).await?;
    let changes: Vec<RecordBatch> = (0..CHANGES)
        .map(|_| keys.next(&batch(CHANGE, groups, None, &mut random)))
        .collect::<Result<_, _>>()?;
    let (started, mut changed) = (Watch::start(), 0);
    for rows in changes {
        table.take(vec![rows]).await?;
        changed += 1;
        if started.took() >= ENOUGH {
            break;
        }
    }
    let change = started.took() / changed;
    if table.state.count() as u64 != groups {
        return Err(Failure::work(format!("{} keys instead of {groups}", table.state.count())));
    }
    Ok(ByKey { rows, fill, change, whole })
}

impl Table<'_> {
    /// Takes rows in and computes the keys that they touch.
    async fn take(&mut self, rows: Vec<RecordBatch>) -> Result<(), Failure> {
        for rows in &rows {
            self.state.apply(&added(rows), false).map_err(failed)?;
        }
        self.input.extend(rows);
        let touched = match self.state.touched_rows(0).map_err(failed)? {
            Some(rows) => vec![rows],
            None => self.read()?,
        };
        let Programs { driving, spread, .. } = self.programs;
        let plan = spread.by_key().ok_or_else(|| Failure::work("not kept by key"))?;
        let inputs = [(driving, touched)];
        let found = computed_of(&self.view, plan, &inputs).await.map_err(failed)?;
        self.state.rerun(&found, false).map_err(failed)?;
        Ok(())
    }

    /// The rows under touched keys, looked for among all.
    fn read(&mut self) -> Result<Vec<RecordBatch>, Failure> {
        let mut touched = Vec::new();
        self.state.begin_reading(0);
        for rows in &self.input {
            self.state.read(0, rows).map_err(failed)?;
            let wanted = self.state.touches(0, rows).map_err(failed)?;
            let rows = filter_record_batch(rows, &wanted).map_err(failed)?;
            touched.extend((rows.num_rows() > 0).then_some(rows));
        }
        self.state.all_read(0);
        Ok(touched)
    }
}
