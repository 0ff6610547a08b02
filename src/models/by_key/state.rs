//! What a model by key has in memory: the rows of its table by their keys, the keys that were touched
//! since, and the rows of its inputs as far as they fit.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use arrow::{
    array::{AsArray as _, BinaryArray, BooleanArray, RecordBatch},
    row::{RowConverter, SortField},
};
use datafusion::error::DataFusionError;
use foldhash::fast::RandomState;

use crate::{
    domain::{
        change::{Change, Patch},
        identity::{Fingerprint, fingerprint},
    },
    models::{
        Applied, KeptProgram as _, KeptState, ProgramError,
        by_key::{
            ByKeyProgram,
            cache::{Bytes, Cache, Held},
        },
        types::{decoded, storable_batch},
    },
};

#[derive(Debug)]
pub(super) struct ByKeyState {
    program: Arc<ByKeyProgram>,
    keys: RowConverter,
    columns: RowConverter,
    held: Held,
    touched: HashSet<Bytes, RandomState>,
    /// Every key is touched.
    all: bool,
    /// The rows of each input.
    inputs: Vec<Cache>,
    /// What the sides held when the table was made, and what they hold: a digest of their rows.
    sides: Option<Fingerprint>,
    next: Option<Fingerprint>,
}

impl ByKeyState {
    pub(super) fn new(program: Arc<ByKeyProgram>) -> Result<Self, ProgramError> {
        let field = |at: usize| SortField::new(program.visible.field(at).data_type().clone());
        let keys = program.key_columns.iter().copied().map(field);
        let columns = (0..program.visible.fields().len()).map(field);
        let count = program.inputs.len();
        let inputs = program.inputs.iter();
        let inputs = inputs.map(|input| Cache::new(&input.schema, &input.columns, count));
        Ok(Self {
            keys: RowConverter::new(keys.collect())?,
            columns: RowConverter::new(columns.collect())?,
            inputs: inputs.collect::<Result<_, _>>()?,
            program,
            held: Held::default(),
            touched: HashSet::default(),
            all: false,
            sides: None,
            next: None,
        })
    }

    /// Visible rows by their keys.
    fn by_key<'a>(
        &self,
        batches: impl IntoIterator<Item = &'a RecordBatch>,
    ) -> Result<Held, DataFusionError> {
        let mut held = Held::default();
        for rows in batches {
            let rows = storable_batch(rows, &self.program.visible)?;
            let keys = rows.project(&self.program.key_columns)?;
            let keys = self.keys.convert_columns(keys.columns())?;
            let all = self.columns.convert_columns(rows.columns())?;
            for (key, row) in keys.iter().zip(&all) {
                let of_key = held.entry(key.data().into()).or_default();
                *of_key.entry(row.data().into()).or_default() += 1;
            }
        }
        Ok(held)
    }

    fn visible(&self, rows: &[&Bytes]) -> Result<RecordBatch, DataFusionError> {
        let parser = self.columns.parser();
        let columns = decoded(&self.columns, rows.iter().map(|row| parser.parse(row)))?;
        Ok(RecordBatch::try_new(Arc::clone(&self.program.visible), columns)?)
    }

    /// Rows as stored, each with how often it was there before.
    fn stored(&self, rows: &[(&Bytes, u32)]) -> Result<RecordBatch, DataFusionError> {
        let keys = BinaryArray::from_iter_values(rows.iter().map(|(row, nth)| key(row, *nth)));
        let visible: Vec<&Bytes> = rows.iter().map(|(row, _)| *row).collect();
        let mut columns = vec![Arc::new(keys) as _];
        columns.extend(self.visible(&visible)?.columns().iter().cloned());
        Ok(RecordBatch::try_new(Arc::clone(&self.program.stored), columns)?)
    }

    fn none(&self) -> Applied {
        let keys = BinaryArray::from_iter_values(std::iter::empty::<&[u8]>());
        let rows = RecordBatch::new_empty(Arc::clone(&self.program.stored));
        Applied { patch: Patch { keys, rows }, change: Change::default() }
    }
}

/// The key of the row in the table: what it holds, and of equal ones the how manieth.
fn key(row: &[u8], nth: u32) -> Fingerprint {
    let mut of = row.to_vec();
    of.extend(nth.to_be_bytes());
    fingerprint(&of)
}

impl KeptState for ByKeyState {
    fn load(&mut self, rows: &RecordBatch) -> Result<(), ProgramError> {
        let rows = self.program.visible(rows)?;
        for (key, rows) in self.by_key([&rows])? {
            let held = self.held.entry(key).or_default();
            rows.into_iter().for_each(|(row, count)| *held.entry(row).or_default() += count);
        }
        Ok(())
    }

    fn first(&mut self) -> Result<Option<Applied>, ProgramError> {
        Ok(None)
    }

    fn apply(&mut self, change: &Change, is_read: bool) -> Result<Applied, ProgramError> {
        self.apply_all(std::slice::from_ref(change), is_read)
    }

    fn apply_all(&mut self, changes: &[Change], _is_read: bool) -> Result<Applied, ProgramError> {
        let mut encoded = Vec::new();
        for (input, (change, cache)) in changes.iter().zip(&self.inputs).enumerate() {
            // What goes was there before, or came with the same change.
            let added = change.added.iter().map(|rows| (rows, true));
            for (rows, is_added) in added.chain(change.removed.iter().map(|rows| (rows, false))) {
                let keys = self.keys.convert_columns(&self.program.keys_of(input, rows)?)?;
                encoded.push((input, keys, cache.encoded(rows)?, is_added));
            }
        }
        for (input, keys, rows, is_added) in encoded {
            self.inputs[input].change(&keys, &rows, is_added);
            for key in &keys {
                if !self.touched.contains(key.data()) {
                    self.touched.insert(key.data().into());
                }
            }
        }
        Ok(self.none())
    }

    fn empty(&mut self) {
        self.all = true;
    }

    fn look(&mut self, sides: &[Vec<RecordBatch>]) -> Result<bool, ProgramError> {
        let mut digest = Vec::new();
        for batches in sides {
            let mut rows: Vec<Fingerprint> = Vec::new();
            for batch in batches {
                let fields = batch.schema().fields().clone();
                let fields = fields.iter().map(|f| SortField::new(f.data_type().clone()));
                let converter = RowConverter::new(fields.collect())?;
                let all = converter.convert_columns(batch.columns())?;
                rows.extend(all.iter().map(|row| fingerprint(row.data())));
            }
            rows.sort_unstable();
            digest.extend(fingerprint(rows.as_flattened()));
        }
        let now = fingerprint(&digest);
        let differs = self.sides.is_some_and(|before| before != now);
        self.all |= differs;
        self.next = Some(now);
        Ok(differs)
    }

    fn looked(&mut self) {
        self.sides = self.next.take().or(self.sides);
    }

    fn is_touched(&self) -> bool {
        self.all || !self.touched.is_empty()
    }

    fn touches(&self, input: usize, rows: &RecordBatch) -> Result<BooleanArray, ProgramError> {
        if self.all {
            return Ok(BooleanArray::from(vec![true; rows.num_rows()]));
        }
        let keys = self.keys.convert_columns(&self.program.keys_of(input, rows)?)?;
        Ok(keys.iter().map(|key| Some(self.touched.contains(key.data()))).collect())
    }

    fn touched_rows(&self, input: usize) -> Result<Option<RecordBatch>, ProgramError> {
        let Some(rows) = self.inputs.get(input) else { return Ok(None) };
        Ok(rows.rows((!self.all).then(|| self.touched.iter()))?)
    }

    fn begin_reading(&mut self, input: usize) {
        self.inputs.get_mut(input).into_iter().for_each(Cache::begin);
    }

    fn read(&mut self, input: usize, rows: &RecordBatch) -> Result<(), ProgramError> {
        let keys = self.keys.convert_columns(&self.program.keys_of(input, rows)?)?;
        if let Some(cache) = self.inputs.get_mut(input) {
            let rows = cache.encoded(rows)?;
            cache.change(&keys, &rows, true);
        }
        Ok(())
    }

    fn all_read(&mut self, input: usize) {
        self.inputs.get_mut(input).into_iter().for_each(Cache::complete);
    }

    fn rerun(&mut self, rows: &[RecordBatch], is_read: bool) -> Result<Applied, ProgramError> {
        let mut now = self.by_key(rows)?;
        let keys: HashSet<&Bytes, RandomState> = match self.all {
            true => self.held.keys().chain(now.keys()).collect(),
            false => self.touched.iter().collect(),
        };
        if let Some(other) = now.keys().find(|key| !keys.contains(key)) {
            let text = format!("a row under a key that was not touched: {other:02x?}");
            return Err(DataFusionError::Internal(text).into());
        }
        // With the number of each among equal ones.
        let mut gone: Vec<(&Bytes, u32)> = Vec::new();
        let mut came: Vec<(&Bytes, u32)> = Vec::new();
        let nothing = BTreeMap::new();
        for key in &keys {
            let before = self.held.get(*key).unwrap_or(&nothing);
            let after = now.get(*key).unwrap_or(&nothing);
            for (row, count) in before {
                let left = after.get(row).copied().unwrap_or_default();
                gone.extend((left..*count).map(|nth| (row, nth)));
            }
            for (row, count) in after {
                let were = before.get(row).copied().unwrap_or_default();
                came.extend((were..*count).map(|nth| (row, nth)));
            }
        }
        let (left, rows) = (self.stored(&gone)?, self.stored(&came)?);
        let mut change = Change::default();
        if is_read {
            change.removed.push(self.program.told(&left)?);
            change.added.push(self.program.told(&rows)?);
        }
        // A row that comes may have been there before, under the same key.
        let keys = [&left, &rows].into_iter().flat_map(|rows| rows.column(0).as_binary::<i32>());
        let keys = BinaryArray::from_iter_values(keys.flatten().collect::<Vec<_>>());
        let touched: Vec<Bytes> = match self.all {
            true => self.held.keys().cloned().collect(),
            false => self.touched.iter().cloned().collect(),
        };
        touched.iter().for_each(|key| drop(self.held.remove(key)));
        self.held.extend(now.drain());
        (self.all, self.touched) = (false, HashSet::default());
        Ok(Applied { patch: Patch { keys, rows }, change })
    }

    fn rows(&self) -> Box<dyn Iterator<Item = Result<RecordBatch, ProgramError>> + Send + '_> {
        let numbered = |(row, count): (_, &u32)| (0..*count).map(move |nth| (row, nth));
        let mut all = self.held.values().flatten().flat_map(numbered);
        Box::new(std::iter::from_fn(move || {
            let some: Vec<_> = all.by_ref().take(8_192).collect();
            (!some.is_empty()).then(|| Ok(self.stored(&some)?))
        }))
    }

    fn count(&self) -> usize {
        self.held.values().flat_map(BTreeMap::values).map(|count| *count as usize).sum()
    }
}
