//! Rows of several inputs put together by UNION ALL: each branch is kept by itself, as what it is.
//!
//! What stands over a UNION ALL row by row is done in each of its branches. A row is known by its branch
//! and its key there, so equal rows of two branches are two.

use std::{ops::Range, sync::Arc};

use arrow::{
    array::{ArrayRef, AsArray as _, BinaryArray, RecordBatch},
    compute::concat_batches,
    datatypes::SchemaRef,
};
use datafusion::{
    error::DataFusionError,
    logical_expr::{Expr, LogicalPlan, Projection},
};

use crate::{
    domain::change::{Change, KEY, Patch},
    models::{
        Applied, KeptProgram, KeptState, ProgramError,
        kept::with_hidden,
        lookup::{LookupProgram, LookupState, Side},
        shape::row_base,
    },
};

/// The branches of the UNION ALL that a plan gives, row by row; one for any other plan.
pub(super) fn branches(plan: &LogicalPlan) -> Result<Vec<LogicalPlan>, DataFusionError> {
    let below = match plan {
        LogicalPlan::Union(union) => {
            let mut all = Vec::new();
            for input in &union.inputs {
                for branch in branches(input)? {
                    let columns = branch.schema().columns().into_iter().map(Expr::Column);
                    let (columns, schema) = (columns.collect(), Arc::clone(&union.schema));
                    let named = Projection::try_new_with_schema(columns, Arc::new(branch), schema)?;
                    all.push(LogicalPlan::Projection(named));
                }
            }
            return Ok(all);
        }
        LogicalPlan::Projection(_)
        | LogicalPlan::Filter(_)
        | LogicalPlan::SubqueryAlias(_)
        | LogicalPlan::Unnest(_)
        | LogicalPlan::Join(_) => branches(plan.inputs()[0])?,
        _ => return Ok(vec![plan.clone()]),
    };
    if below.len() == 1 {
        return Ok(vec![plan.clone()]);
    }
    let others: Vec<LogicalPlan> = plan.inputs()[1..].iter().copied().cloned().collect();
    let over = |branch| {
        let inputs = std::iter::once(branch).chain(others.iter().cloned()).collect();
        plan.with_new_exprs(plan.expressions(), inputs)
    };
    below.into_iter().map(over).collect()
}

/// Whether a branch reads no relation: `SELECT 1, 'unknown'`.
pub(super) fn is_constant(branch: &LogicalPlan) -> bool {
    matches!(row_base(branch), LogicalPlan::EmptyRelation(empty) if empty.produce_one_row)
}

/// A model that is kept so, compiled.
#[derive(Debug)]
pub(super) struct UnitedProgram {
    branches: Vec<Branch>,
    sides: Vec<Side>,
    visible: SchemaRef,
    stored: SchemaRef,
}

#[derive(Debug)]
struct Branch {
    /// The number of its input; none if it is constant.
    input: Option<usize>,
    program: Arc<LookupProgram>,
    /// Which of the sides are its own.
    sides: Range<usize>,
}

impl UnitedProgram {
    /// `branches`: what becomes of the rows of an input, by the input's number; none for what is
    /// constant.
    pub(super) fn new(
        branches: Vec<(Option<usize>, LookupProgram)>,
        visible: SchemaRef,
    ) -> Result<Arc<Self>, String> {
        if u16::try_from(branches.len()).is_err() {
            return Err("unites more than 65,535 branches".to_owned());
        }
        let is_joined = branches.iter().any(|(_, program)| !program.sides().is_empty());
        if is_joined && branches.iter().any(|(input, _)| input.is_none()) {
            return Err("unites joined rows with some that are always there".to_owned());
        }
        let mut sides = Vec::new();
        let mut all = Vec::with_capacity(branches.len());
        for (input, program) in branches {
            let from = sides.len();
            sides.extend_from_slice(program.sides());
            all.push(Branch { input, program: Arc::new(program), sides: from..sides.len() });
        }
        let stored = with_hidden(&[KEY], &visible);
        let program = Arc::new(Self { branches: all, sides, visible, stored });
        // Where that fails once, it always will.
        let first = Arc::clone(&program).begin().and_then(|mut state| state.first());
        first
            .map_err(|error| format!("unites a row that cannot be computed: {}", error.reason()))?;
        Ok(program)
    }
}

impl UnitedProgram {
    /// Whether some of its rows are there before anything comes.
    pub(super) fn has_constants(&self) -> bool {
        self.branches.iter().any(|branch| branch.input.is_none())
    }
}

impl KeptProgram for UnitedProgram {
    fn stored_schema(&self) -> &SchemaRef {
        &self.stored
    }

    fn schema(&self) -> &SchemaRef {
        &self.visible
    }

    fn begin(self: Arc<Self>) -> Result<Box<dyn KeptState>, ProgramError> {
        let states = self.branches.iter().map(|of| LookupState::new(Arc::clone(&of.program)));
        let states = states.collect::<Result<_, _>>()?;
        Ok(Box::new(UnitedState { program: self, states }))
    }

    fn holds_rows(&self) -> bool {
        false
    }

    fn takes_keys(&self) -> bool {
        true
    }

    fn sides(&self) -> &[Side] {
        &self.sides
    }
}

/// A state per branch.
#[derive(Debug)]
struct UnitedState {
    program: Arc<UnitedProgram>,
    states: Vec<LookupState>,
}

impl UnitedState {
    /// What branches made, by their numbers, as one.
    fn together(&self, parts: Vec<(usize, Applied)>) -> Result<Applied, ProgramError> {
        let (mut keys, mut rows, mut change) = (Vec::new(), Vec::new(), Change::default());
        for (branch, Applied { patch, change: of_branch }) in parts {
            keys.extend(patch.keys.iter().flatten().map(|key| key_in(branch, key)));
            let mut columns = patch.rows.columns().to_vec();
            columns[0] = keys_in(branch, &columns[0]);
            rows.push(RecordBatch::try_new(Arc::clone(&self.program.stored), columns)?);
            let told = |rows: RecordBatch| {
                let mut columns = rows.columns().to_vec();
                if let Some(keys) = columns.last_mut() {
                    *keys = keys_in(branch, keys);
                }
                RecordBatch::try_new(rows.schema(), columns)
            };
            let Change { added, removed } = of_branch;
            change.added.extend(added.into_iter().map(told).collect::<Result<Vec<_>, _>>()?);
            change.removed.extend(removed.into_iter().map(told).collect::<Result<Vec<_>, _>>()?);
        }
        let rows = concat_batches(&self.program.stored, &rows)?;
        Ok(Applied { patch: Patch { keys: BinaryArray::from_iter_values(keys), rows }, change })
    }
}

/// A key of a branch among those of all.
fn key_in(branch: usize, key: &[u8]) -> Vec<u8> {
    // Their number was checked.
    let branch = u16::try_from(branch).unwrap_or(u16::MAX);
    [&branch.to_be_bytes(), key].concat()
}

fn keys_in(branch: usize, keys: &ArrayRef) -> ArrayRef {
    let keys = keys.as_binary::<i32>().iter();
    Arc::new(keys.map(|key| key.map(|key| key_in(branch, key))).collect::<BinaryArray>())
}

impl KeptState for UnitedState {
    fn load(&mut self, _: &RecordBatch) -> Result<(), ProgramError> {
        Ok(())
    }

    fn first(&mut self) -> Result<Option<Applied>, ProgramError> {
        // A row without columns, and its key.
        let key: ArrayRef = Arc::new(BinaryArray::from_iter_values([b""]));
        let one = RecordBatch::try_from_iter_with_nullable([(KEY, key, true)])?;
        let change = Change { added: vec![one], removed: Vec::new() };
        let mut parts = Vec::new();
        for (number, state) in self.states.iter_mut().enumerate() {
            if self.program.branches[number].input.is_none() {
                parts.push((number, state.apply(&change, true)?));
            }
        }
        if parts.is_empty() { Ok(None) } else { self.together(parts).map(Some) }
    }

    fn apply(&mut self, change: &Change, is_read: bool) -> Result<Applied, ProgramError> {
        self.apply_all(std::slice::from_ref(change), is_read)
    }

    fn apply_all(&mut self, changes: &[Change], is_read: bool) -> Result<Applied, ProgramError> {
        let mut parts = Vec::new();
        for (number, state) in self.states.iter_mut().enumerate() {
            let change = self.program.branches[number].input.and_then(|input| changes.get(input));
            if let Some(change) = change.filter(|change| !change.is_empty()) {
                parts.push((number, state.apply(change, is_read)?));
            }
        }
        self.together(parts)
    }

    fn empty(&mut self) {
        if !self.program.sides.is_empty() {
            self.states.iter_mut().for_each(LookupState::make_empty);
        }
    }

    fn look(&mut self, sides: &[Vec<RecordBatch>]) -> Result<bool, ProgramError> {
        let mut differs = false;
        for (branch, state) in self.program.branches.iter().zip(&mut self.states) {
            let own = sides.get(branch.sides.clone()).ok_or_else(|| {
                let text = format!("a union of {} sides got {}", branch.sides.end, sides.len());
                DataFusionError::Internal(text)
            })?;
            differs |= state.look(own)?;
        }
        Ok(differs)
    }

    fn redrive(
        &self,
        input: usize,
        rows: &RecordBatch,
        is_read: bool,
    ) -> Result<Option<Applied>, ProgramError> {
        let mut parts = Vec::new();
        for (number, state) in self.states.iter().enumerate() {
            if self.program.branches[number].input == Some(input) {
                parts.extend(state.redrive(0, rows, is_read)?.map(|applied| (number, applied)));
            }
        }
        if parts.is_empty() { Ok(None) } else { self.together(parts).map(Some) }
    }

    fn looked(&mut self) {
        self.states.iter_mut().for_each(KeptState::looked);
    }

    fn rows(&self) -> Box<dyn Iterator<Item = Result<RecordBatch, ProgramError>> + Send + '_> {
        Box::new(std::iter::empty())
    }

    fn count(&self) -> usize {
        0
    }
}
