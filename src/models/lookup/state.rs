//! What a lookup has in memory: its sides. What it made of driving rows is in its table alone.

use std::sync::Arc;

use arrow::{
    array::{AsArray as _, BinaryArray, RecordBatch, UInt32Array},
    compute::{filter_record_batch, take_record_batch},
    row::{RowConverter, SortField},
};
use datafusion::error::DataFusionError;

use crate::{
    domain::change::{Change, Patch},
    models::{
        Applied, KeptState, ProgramError,
        kept::with_key,
        lookup::{
            LookupProgram,
            side::{Content, Keys},
        },
    },
};

#[derive(Debug)]
pub(in crate::models) struct LookupState {
    program: Arc<LookupProgram>,
    /// To compare what became of a row with what becomes of it.
    columns: RowConverter,
    /// What the table was made with.
    sides: Vec<Content>,
    /// What they are now, with the keys under which that is something else.
    next: Option<(Vec<Content>, Vec<Keys>)>,
    /// The table holds nothing of what was taken in.
    is_empty: bool,
}

/// Visible rows with their keys, and with each the number of the driving row.
struct Joined {
    rows: RecordBatch,
    keys: BinaryArray,
    of: UInt32Array,
}

impl LookupState {
    pub(in crate::models) fn new(program: Arc<LookupProgram>) -> Result<Self, ProgramError> {
        let fields = program.visible.fields().iter();
        let columns = fields.map(|field| SortField::new(field.data_type().clone()));
        let sides = program.levels.iter().map(|level| Content::new(&[], level));
        Ok(Self {
            columns: RowConverter::new(columns.collect())?,
            sides: sides.collect::<Result<_, _>>()?,
            program,
            next: None,
            is_empty: false,
        })
    }

    /// See [`KeptState::empty`], also where nothing is joined.
    pub(in crate::models) fn make_empty(&mut self) {
        self.is_empty = true;
    }

    /// Driving rows, whose key is the last column, joined to `sides`.
    fn join(&self, rows: &RecordBatch, sides: &[Content]) -> Result<Joined, ProgramError> {
        let driving = rows.column(self.program.width).as_binary::<i32>();
        let (rows, of) = self.program.run(rows, sides)?;
        let (mut before, mut nth) = (None, 0_u32);
        let keys = of.values().iter().map(|of| {
            nth = if before == Some(*of) { nth + 1 } else { 0 };
            before = Some(*of);
            let mut key = driving.value(*of as usize).to_vec();
            // Keys of driving rows are no beginnings of each other.
            if nth > 0 {
                key.extend(nth.to_be_bytes());
            }
            key
        });
        Ok(Joined { keys: BinaryArray::from_iter_values(keys), rows, of })
    }

    fn stored(&self, joined: &Joined) -> Result<RecordBatch, ProgramError> {
        let mut columns = vec![Arc::new(joined.keys.clone()) as _];
        columns.extend(joined.rows.columns().iter().cloned());
        Ok(RecordBatch::try_new(Arc::clone(&self.program.stored), columns)?)
    }

    /// What changes when `before` becomes `after`. `are_new`: no key of these was used before.
    fn applied(
        &self,
        before: &[Joined],
        after: &[Joined],
        are_new: bool,
        is_read: bool,
    ) -> Result<Applied, ProgramError> {
        let mut change = Change::default();
        let mut keys: Vec<&[u8]> = Vec::new();
        for (joined, rows) in [(before, &mut change.removed), (after, &mut change.added)] {
            for joined in joined {
                if !are_new {
                    keys.extend(joined.keys.iter().flatten());
                }
                if is_read {
                    rows.push(with_key(&joined.rows, Arc::new(joined.keys.clone()))?);
                }
            }
        }
        keys.sort_unstable();
        keys.dedup();
        let rows = after.iter().map(|joined| self.stored(joined)).collect::<Result<Vec<_>, _>>()?;
        let rows = arrow::compute::concat_batches(&self.program.stored, &rows)?;
        Ok(Applied { patch: Patch { keys: BinaryArray::from_iter_values(keys), rows }, change })
    }

    /// The driving rows of which other rows become now.
    fn changed(
        &self,
        count: usize,
        before: &Joined,
        after: &Joined,
    ) -> Result<Vec<u32>, DataFusionError> {
        let encoded = |joined: &Joined| -> Result<Vec<Vec<Vec<u8>>>, DataFusionError> {
            let mut all = vec![Vec::new(); count];
            if joined.rows.num_columns() > 0 {
                let rows = self.columns.convert_columns(joined.rows.columns())?;
                for (row, of) in rows.iter().zip(joined.of.values()) {
                    all[*of as usize].push(row.data().to_vec());
                }
            }
            all.iter_mut().for_each(|rows| rows.sort_unstable());
            Ok(all)
        };
        let (before, after) = (encoded(before)?, encoded(after)?);
        let all = (0_u32..).zip(before.iter().zip(&after));
        Ok(all.filter(|(_, (before, after))| before != after).map(|(of, _)| of).collect())
    }
}

impl KeptState for LookupState {
    fn load(&mut self, _: &RecordBatch) -> Result<(), ProgramError> {
        Ok(())
    }

    fn first(&mut self) -> Result<Option<Applied>, ProgramError> {
        Ok(None)
    }

    fn apply(&mut self, change: &Change, is_read: bool) -> Result<Applied, ProgramError> {
        let join = |rows: &Vec<RecordBatch>| {
            rows.iter().map(|rows| self.join(rows, &self.sides)).collect::<Result<Vec<_>, _>>()
        };
        if self.is_empty {
            return self.applied(&[], &[], false, is_read);
        }
        // A row that came and went in between would stand twice under its key.
        let change = change.clone().without_cancelled()?;
        let (before, after) = (join(&change.removed)?, join(&change.added)?);
        self.applied(&before, &after, self.program.rows_stay, is_read)
    }

    fn empty(&mut self) {
        self.is_empty = !self.sides.is_empty();
    }

    fn look(&mut self, sides: &[Vec<RecordBatch>]) -> Result<bool, ProgramError> {
        if sides.len() != self.program.levels.len() {
            let text = format!("a lookup of {} sides got {}", self.sides.len(), sides.len());
            return Err(DataFusionError::Internal(text).into());
        }
        let levels = self.program.levels.iter().zip(sides);
        let now = levels.map(|(level, rows)| Content::new(rows, level));
        let now = now.collect::<Result<Vec<_>, _>>()?;
        let keys = self.sides.iter().zip(&now).map(|(before, now)| before.differs(now));
        let keys = keys.collect::<Result<Vec<_>, _>>()?;
        let differs = keys.iter().any(|keys| !keys.is_empty());
        self.next = Some((now, keys));
        Ok(differs || self.is_empty)
    }

    fn redrive(
        &self,
        _: usize,
        rows: &RecordBatch,
        is_read: bool,
    ) -> Result<Option<Applied>, ProgramError> {
        let Some((now, touched)) = &self.next else { return Ok(None) };
        if self.is_empty {
            let after = self.join(rows, now)?;
            return Ok(Some(self.applied(&[], &[after], false, is_read)?));
        }
        let hit = self.program.touched(rows, &self.sides, touched)?;
        if hit.true_count() == 0 {
            return Ok(None);
        }
        let rows = filter_record_batch(rows, &hit)?;
        let (before, after) = (self.join(&rows, &self.sides)?, self.join(&rows, now)?);
        let changed = self.changed(rows.num_rows(), &before, &after)?;
        if changed.is_empty() {
            return Ok(None);
        }
        let rows = take_record_batch(&rows, &UInt32Array::from(changed))?;
        let (before, after) = (self.join(&rows, &self.sides)?, self.join(&rows, now)?);
        Ok(Some(self.applied(&[before], &[after], false, is_read)?))
    }

    fn looked(&mut self) {
        if let Some((now, _)) = self.next.take() {
            self.sides = now;
            self.is_empty = false;
        }
    }

    fn rows(&self) -> Box<dyn Iterator<Item = Result<RecordBatch, ProgramError>> + Send + '_> {
        Box::new(std::iter::empty())
    }

    fn count(&self) -> usize {
        0
    }
}
