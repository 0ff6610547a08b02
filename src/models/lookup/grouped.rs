//! Joined rows, summed up per group: a lookup whose rows are in no table, below an aggregate.

use std::sync::Arc;

use arrow::{array::RecordBatch, datatypes::SchemaRef};

use crate::{
    domain::change::Change,
    models::{
        Applied, KeptProgram, KeptState, ProgramError,
        aggregate::AggregateProgram,
        lookup::{LookupProgram, Side, state::LookupState},
    },
};

#[derive(Debug)]
pub(crate) struct GroupedProgram {
    joined: Arc<LookupProgram>,
    groups: Arc<AggregateProgram>,
}

impl GroupedProgram {
    /// `groups` takes the rows that `joined` gives.
    pub(crate) fn new(joined: LookupProgram, groups: AggregateProgram) -> Self {
        Self { joined: Arc::new(joined), groups: Arc::new(groups) }
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
            joined: LookupState::new(Arc::clone(&self.joined))?,
            groups: Arc::clone(&self.groups).begin()?,
        }))
    }

    fn sides(&self) -> &[Side] {
        self.joined.sides()
    }
}

#[derive(Debug)]
struct GroupedState {
    joined: LookupState,
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
        let joined = self.joined.apply(change, true)?;
        self.groups.apply(&joined.change, is_read)
    }

    fn empty(&mut self) {
        self.joined.empty();
    }

    fn look(&mut self, sides: &[Vec<RecordBatch>]) -> Result<bool, ProgramError> {
        self.joined.look(sides)
    }

    fn redrive(&self, rows: &RecordBatch, _: bool) -> Result<Option<Applied>, ProgramError> {
        self.joined.redrive(rows, true)
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
