//! Joined or united rows, summed up per group: what gives them has no table, below an aggregate.

use std::sync::Arc;

use arrow::{array::RecordBatch, datatypes::SchemaRef};

use crate::{
    domain::change::Change,
    models::{
        Applied, KeptProgram, KeptState, ProgramError, aggregate::AggregateProgram, lookup::Side,
    },
};

#[derive(Debug)]
pub(crate) struct GroupedProgram {
    joined: Arc<dyn KeptProgram>,
    groups: Arc<AggregateProgram>,
}

impl GroupedProgram {
    /// `groups` takes the rows that `joined` gives.
    pub(crate) fn new(joined: Arc<dyn KeptProgram>, groups: AggregateProgram) -> Self {
        Self { joined, groups: Arc::new(groups) }
    }
}

impl KeptProgram for GroupedProgram {
    fn stored_schema(&self) -> &SchemaRef {
        self.groups.stored_schema()
    }

    fn schema(&self) -> &SchemaRef {
        self.groups.schema()
    }

    fn begin(self: Arc<Self>) -> Result<Box<dyn KeptState>, ProgramError> {
        Ok(Box::new(GroupedState {
            joined: Arc::clone(&self.joined).begin()?,
            groups: Arc::clone(&self.groups).begin()?,
        }))
    }

    fn takes_keys(&self) -> bool {
        self.joined.takes_keys()
    }

    fn sides(&self) -> &[Side] {
        self.joined.sides()
    }
}

#[derive(Debug)]
struct GroupedState {
    joined: Box<dyn KeptState>,
    groups: Box<dyn KeptState>,
}

impl KeptState for GroupedState {
    fn load(&mut self, rows: &RecordBatch) -> Result<(), ProgramError> {
        self.groups.load(rows)
    }

    fn first(&mut self) -> Result<Option<Applied>, ProgramError> {
        self.groups.first()
    }

    fn apply(&mut self, change: &Change, is_read: bool) -> Result<Applied, ProgramError> {
        self.apply_all(std::slice::from_ref(change), is_read)
    }

    fn apply_all(&mut self, changes: &[Change], is_read: bool) -> Result<Applied, ProgramError> {
        let joined = self.joined.apply_all(changes, true)?;
        self.groups.apply(&joined.change, is_read)
    }

    fn empty(&mut self) {
        self.joined.empty();
    }

    fn look(&mut self, sides: &[Vec<RecordBatch>]) -> Result<bool, ProgramError> {
        self.joined.look(sides)
    }

    fn redrive(
        &self,
        input: usize,
        rows: &RecordBatch,
        _: bool,
    ) -> Result<Option<Applied>, ProgramError> {
        self.joined.redrive(input, rows, true)
    }

    fn redriven(
        &mut self,
        parts: Vec<Applied>,
        is_read: bool,
    ) -> Result<Vec<Applied>, ProgramError> {
        let mut change = Change::default();
        parts.into_iter().for_each(|part| change.extend(part.change));
        if change.is_empty() {
            return Ok(Vec::new());
        }
        Ok(vec![self.groups.apply(&change, is_read)?])
    }

    fn looked(&mut self) {
        self.joined.looked();
    }

    fn rows(&self) -> Box<dyn Iterator<Item = Result<RecordBatch, ProgramError>> + Send + '_> {
        self.groups.rows()
    }

    fn count(&self) -> usize {
        self.groups.count()
    }
}
