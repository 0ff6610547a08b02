//! The groups of an aggregate in memory, and what a change does to them.

use std::{collections::HashMap, sync::Arc};

use arrow::{
    array::{ArrayRef, AsArray as _, BinaryArray, Int64Array, RecordBatch},
    compute::cast,
    datatypes::{Field, Int64Type, Schema},
    row::{RowConverter, Rows},
};
use datafusion::error::DataFusionError;
use foldhash::fast::RandomState;

use crate::{
    domain::change::{Change, Patch},
    models::{
        Applied, KeptProgram as _, KeptState, ProgramError,
        aggregate::{AggregateProgram, Argument, Arguments, cells::Cells},
        steps::named,
        types::{decoded, storable_batch},
    },
};

/// All groups of an aggregate.
#[derive(Debug)]
pub(super) struct AggregateState {
    program: Arc<AggregateProgram>,
    converter: RowConverter,
    index: HashMap<Arc<[u8]>, u32, RandomState>,
    keys: Vec<Arc<[u8]>>,
    /// Rows per group.
    counts: Vec<i64>,
    cells: Vec<Box<dyn Cells>>,
    /// Numbers of groups that are gone.
    free: Vec<u32>,
    /// Per group the last change that touched it.
    touched_by: Vec<u64>,
    changes: u64,
    /// Whether the one row of an aggregate without a GROUP BY is in the table: always, once it
    /// could be computed.
    has_whole: bool,
}

/// Rows of the input with the numbers of their groups.
struct Grouped {
    groups: Vec<u32>,
    arguments: Vec<Argument>,
    weight: i64,
}

impl AggregateState {
    pub(super) fn new(program: Arc<AggregateProgram>) -> Result<Self, ProgramError> {
        let converter = RowConverter::new(program.sort_fields())?;
        let cells = program.summaries.iter().map(|summary| summary.kind.cells());
        Ok(Self {
            cells: cells.collect::<Result<_, _>>()?,
            program,
            converter,
            index: HashMap::default(),
            keys: Vec::new(),
            counts: Vec::new(),
            free: Vec::new(),
            touched_by: Vec::new(),
            changes: 0,
            has_whole: false,
        })
    }
}

impl KeptState for AggregateState {
    fn load(&mut self, rows: &RecordBatch) -> Result<(), ProgramError> {
        let keys = rows.column(0).as_binary::<i32>();
        let counts = rows.column(1).as_primitive::<Int64Type>();
        let mut groups = Vec::with_capacity(rows.num_rows());
        for row in 0..rows.num_rows() {
            let group = self.group(keys.value(row));
            self.counts[group as usize] = counts.value(row);
            groups.push(group);
        }
        self.restore(&groups, &rows.columns()[1..])?;
        self.has_whole |= self.program.groups.is_empty() && !groups.is_empty();
        Ok(())
    }

    fn first(&mut self) -> Result<Option<Applied>, ProgramError> {
        if !self.program.groups.is_empty() || !self.index.is_empty() {
            return Ok(None);
        }
        let group = self.group(&[]);
        let rows = self.rows_of(&[group])?;
        self.has_whole = true;
        let change = Change { added: vec![self.program.told(&rows)?], removed: Vec::new() };
        Ok(Some(Applied { patch: Patch { keys: self.keys_of(&[group]), rows }, change }))
    }

    fn rows(&self) -> Box<dyn Iterator<Item = Result<RecordBatch, ProgramError>> + Send + '_> {
        let mut all: Vec<u32> = self.index.values().copied().collect();
        all.sort_unstable();
        let chunks: Vec<Vec<u32>> = all.chunks(8_192).map(<[u32]>::to_vec).collect();
        Box::new(chunks.into_iter().map(|groups| Ok(self.rows_of(&groups)?)))
    }

    fn apply(&mut self, change: &Change, is_read: bool) -> Result<Applied, ProgramError> {
        let mut evaluated = Vec::new();
        for (batches, weight) in [(&change.added, 1), (&change.removed, -1)] {
            for rows in batches {
                let Arguments { groups, arguments, rows } = self.program.arguments(rows)?;
                let keys = match groups.is_empty() {
                    true => None,
                    false => Some(self.converter.convert_columns(&groups)?),
                };
                evaluated.push((keys, rows, arguments, weight));
            }
        }
        self.changes += 1;
        let mut touched = Vec::new();
        let grouped: Vec<Grouped> = evaluated
            .into_iter()
            .map(|(keys, rows, arguments, weight)| {
                let groups = self.groups_of(keys.as_ref(), rows, &mut touched);
                Grouped { groups, arguments, weight }
            })
            .collect();
        let before = self.cells_of(&touched)?;
        match self.change(&grouped, &touched, is_read) {
            Ok(applied) => {
                self.forget_empty(&touched);
                Ok(applied)
            }
            Err(error) => {
                self.restore(&touched, &before)?;
                self.forget_empty(&touched);
                Err(error)
            }
        }
    }

    fn count(&self) -> usize {
        self.index.len()
    }
}

impl AggregateState {
    fn change(
        &mut self,
        grouped: &[Grouped],
        touched: &[u32],
        is_read: bool,
    ) -> Result<Applied, ProgramError> {
        let mut change = Change::default();
        if is_read {
            let before = self.rows_of(&self.present(touched, self.has_whole))?;
            change.removed.push(self.program.told(&before)?);
        }
        for Grouped { groups, arguments, weight } in grouped {
            groups.iter().for_each(|group| self.counts[*group as usize] += weight);
            for (cells, Argument { counting, values }) in self.cells.iter_mut().zip(arguments) {
                let Some(counting) = counting else {
                    cells.update(groups, values, *weight)?;
                    continue;
                };
                let of = groups.iter().zip(counting.values());
                let groups: Vec<u32> =
                    of.filter_map(|(group, counts)| counts.then_some(*group)).collect();
                cells.update(&groups, values, *weight)?;
            }
        }
        if let Some(group) = touched.iter().find(|group| self.counts[**group as usize] < 0) {
            let text = format!("group {group} has less than no rows");
            return Err(DataFusionError::Internal(text).into());
        }
        let rows = self.rows_of(&self.present(touched, self.program.groups.is_empty()))?;
        if is_read {
            change.added.push(self.program.told(&rows)?);
        }
        self.has_whole |= self.program.groups.is_empty() && !touched.is_empty();
        Ok(Applied { patch: Patch { keys: self.keys_of(touched), rows }, change })
    }

    /// Those groups that SQL sees: those with rows, and (`has_whole`) the one that always is.
    fn present(&self, groups: &[u32], has_whole: bool) -> Vec<u32> {
        let groups = groups.iter().copied();
        groups.filter(|group| has_whole || self.counts[*group as usize] > 0).collect()
    }

    /// The number of every row's group; groups met for the first time in this change are added to
    /// `touched`.
    fn groups_of(&mut self, keys: Option<&Rows>, rows: usize, touched: &mut Vec<u32>) -> Vec<u32> {
        let mut groups = Vec::with_capacity(rows);
        for row in 0..rows {
            let group = match keys {
                Some(keys) => self.group(keys.row(row).as_ref()),
                None => self.group(&[]),
            };
            let touched_by = &mut self.touched_by[group as usize];
            if *touched_by != self.changes {
                *touched_by = self.changes;
                touched.push(group);
            }
            groups.push(group);
        }
        groups
    }

    fn group(&mut self, key: &[u8]) -> u32 {
        if let Some(group) = self.index.get(key) {
            return *group;
        }
        let key: Arc<[u8]> = Arc::from(key);
        let group = match self.free.pop() {
            Some(group) => {
                self.keys[group as usize] = Arc::clone(&key);
                group
            }
            None => {
                self.keys.push(Arc::clone(&key));
                self.counts.push(0);
                self.touched_by.push(0);
                self.cells.iter_mut().for_each(|cells| cells.grow(self.keys.len()));
                u32::try_from(self.keys.len() - 1).unwrap_or(u32::MAX)
            }
        };
        self.index.insert(key, group);
        group
    }

    fn forget_empty(&mut self, touched: &[u32]) {
        if self.program.groups.is_empty() {
            return;
        }
        for group in touched {
            if self.counts[*group as usize] == 0 {
                let key = &self.keys[*group as usize];
                self.index.remove(key);
                self.free.push(*group);
            }
        }
    }

    fn keys_of(&self, groups: &[u32]) -> BinaryArray {
        BinaryArray::from_iter_values(groups.iter().map(|group| &self.keys[*group as usize]))
    }

    /// Counts and cells of groups, as [`AggregateState::restore`] takes them.
    fn cells_of(&self, groups: &[u32]) -> Result<Vec<ArrayRef>, DataFusionError> {
        let counts = groups.iter().map(|group| self.counts[*group as usize]);
        let mut columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from_iter_values(counts))];
        for cells in &self.cells {
            columns.extend(cells.stored(groups)?);
        }
        Ok(columns)
    }

    fn restore(&mut self, groups: &[u32], columns: &[ArrayRef]) -> Result<(), DataFusionError> {
        let counts = columns[0].as_primitive::<Int64Type>().values();
        groups.iter().zip(counts).for_each(|(group, count)| self.counts[*group as usize] = *count);
        let mut next = 1;
        for (number, cells) in self.cells.iter_mut().enumerate() {
            let width = self.program.summaries[number].kind.fields(number).len();
            cells.restore(groups, &columns[next..next + width])?;
            next += width;
        }
        Ok(())
    }

    /// The stored rows of groups.
    fn rows_of(&self, groups: &[u32]) -> Result<RecordBatch, DataFusionError> {
        let mut hidden: Vec<ArrayRef> = vec![Arc::new(self.keys_of(groups))];
        hidden.extend(self.cells_of(groups)?);
        let mut columns = self.group_columns(groups)?;
        for cells in &self.cells {
            columns.push(cells.result(groups)?);
        }
        let typed = columns.iter().zip(self.program.grouped.fields());
        let typed = typed.map(|(column, field)| cast(column, field.data_type()));
        let columns = typed.collect::<Result<Vec<_>, _>>()?;
        let grouped = named(columns, &self.program.grouped, groups.len())?;
        let fields = &self.program.stored.fields()[..hidden.len()];
        let fields: Vec<Field> = fields.iter().map(|field| field.as_ref().clone()).collect();
        let hidden = RecordBatch::try_new(Arc::new(Schema::new(fields)), hidden)?;
        let (visible, hidden) = self.program.output.run(&grouped, &hidden)?;
        let visible = storable_batch(&visible, &self.program.visible)?;
        let columns = hidden.columns().iter().chain(visible.columns()).cloned().collect();
        Ok(RecordBatch::try_new(Arc::clone(&self.program.stored), columns)?)
    }

    fn group_columns(&self, groups: &[u32]) -> Result<Vec<ArrayRef>, DataFusionError> {
        if self.program.groups.is_empty() {
            return Ok(Vec::new());
        }
        let parser = self.converter.parser();
        let rows = groups.iter().map(|group| parser.parse(&self.keys[*group as usize]));
        Ok(decoded(&self.converter, rows)?)
    }
}
