//! What a model that is kept by changes has in memory: the running state, and what it was handed.
//!
//! The state is a cache of the table: it is loaded from it when this process begins to own the
//! table, and thrown away with everything else. What it makes of the table are patches, which say
//! for each step of the inputs what became of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use arrow::{
    array::{AsArray as _, BinaryArray, RecordBatch},
    compute::filter_record_batch,
};
use datafusion::logical_expr::LogicalPlan;

use crate::{
    domain::{
        Offset, Partition, Positions, TableName,
        change::{Change, Patch},
    },
    models::{Applied, Input, KeptProgram, KeptState, ProgramError, Side},
};

/// Changes that cannot be computed wait for others that make them computable, in so much memory.
const WAITING_BYTES: usize = 16 * 1024 * 1024;

/// Generations of the tables that sides are computed from.
pub(super) type Basis = BTreeMap<TableName, u64>;

/// What a model is kept by.
#[derive(Clone)]
pub(super) struct KeptBy {
    pub input: Input,
    /// The stream whose rows, with places, are the input's.
    pub driven_by: Option<String>,
    /// The streams that feed it.
    pub streams: Vec<String>,
    /// How far into these the model was handed everything, what waits included.
    taken: Positions,
}

impl KeptBy {
    pub(super) fn new(input: Input, driven_by: Option<String>, streams: Vec<String>) -> Self {
        Self { input, driven_by, streams, taken: Positions::default() }
    }

    /// The table, if it is one that tells its changes by version.
    pub(super) fn parent(&self) -> Option<&TableName> {
        match &self.input {
            Input::Table(name) => Some(name),
            Input::Stream(_) => None,
        }
    }

    /// The model is handed everything so far.
    pub(super) fn take(&mut self, reached: &Positions) {
        self.taken.merge(reached);
    }

    /// How far into a partition of a stream the model was handed everything.
    pub(super) fn taken(&self, stream: &str, partition: Partition) -> Option<Offset> {
        self.taken.get(stream, partition)
    }
}

/// A change of an input, and how far this reaches with it.
pub(super) type Handed = (Change, Positions);

/// How a table stands.
#[derive(Clone)]
pub(super) struct Standing {
    /// Raised whenever the content changes.
    pub generation: u64,
    /// How far into the log the content reaches.
    pub positions: Positions,
    /// Why the last run failed.
    pub failure: Option<String>,
    /// When the content was last found to be that of its inputs, in microseconds.
    pub computed_at: Option<i64>,
}

/// What a model has made, in the order in which it did.
#[derive(Default)]
pub(super) struct Made {
    pub steps: Vec<Step>,
    /// What sides were made of when they were looked at, each with the generation of the table from
    /// which on it is made with them.
    pub looks: Vec<(u64, Basis)>,
}

/// A patch that makes a generation of a table, which reaches `positions` with it.
pub(super) struct Step {
    pub patch: Arc<Patch>,
    pub generation: u64,
    pub positions: Positions,
}

/// A model that is kept by changes of its inputs.
pub(super) struct Kept {
    pub inputs: Vec<KeptBy>,
    program: Arc<dyn KeptProgram>,
    /// Whether models that are kept by changes read this one.
    is_read: bool,
    /// `None` while another process owns the table.
    state: Option<Box<dyn KeptState>>,
    /// What was not taken over yet.
    made: Made,
    /// What could not be computed so far, of each input.
    waiting: Vec<Change>,
    /// Too much of it: nothing is taken in until the next start.
    is_given_up: bool,
    /// What its sides were made of when they were last looked at.
    seen: Option<Basis>,
    /// The last look did not get through.
    is_look_due: bool,
    /// How far its sides reach, into streams that feed none of the inputs.
    beside: Positions,
    /// How far the table shows what was handed to it.
    reached: Positions,
}

impl Kept {
    pub(super) fn new(inputs: Vec<KeptBy>, program: Arc<dyn KeptProgram>, is_read: bool) -> Self {
        Self {
            waiting: nothing(inputs.len()),
            inputs,
            program,
            is_read,
            state: None,
            made: Made::default(),
            is_given_up: false,
            seen: None,
            is_look_due: false,
            beside: Positions::default(),
            reached: Positions::default(),
        }
    }

    /// Throws away what is in memory; the table reaches `positions`.
    pub(super) fn forget(&mut self, positions: &Positions) {
        self.state = None;
        self.made = Made::default();
        self.waiting = nothing(self.inputs.len());
        self.is_given_up = false;
        self.seen = None;
        self.is_look_due = false;
        for input in &mut self.inputs {
            input.taken = positions.only(&input.streams);
        }
        (self.beside, self.reached) = (positions.clone(), positions.clone());
    }

    /// Whether the state is in memory, so that changes can be taken in.
    pub(super) fn is_loaded(&self) -> bool {
        self.state.is_some()
    }

    /// Whether it takes in what its input tells.
    pub(super) fn is_following(&self) -> bool {
        self.is_loaded() && !self.is_given_up
    }

    /// Whether it was handed changes that could not be computed.
    pub(super) fn is_waiting(&self) -> bool {
        self.is_given_up || self.is_look_due || self.has_waiting()
    }

    /// Whether rows were handed to it that the table does not show yet.
    pub(super) fn is_touched(&self) -> bool {
        self.state.as_ref().is_some_and(|state| state.is_touched())
    }

    /// The model, if it is computed again for the keys that were touched.
    pub(super) fn by_key(&self) -> Option<&LogicalPlan> {
        self.program.by_key()
    }

    /// Whether it has to be looked at when tables that it reads besides its input have changed, or
    /// keys were touched.
    pub(super) fn has_looks(&self) -> bool {
        !self.sides().is_empty() || self.by_key().is_some()
    }

    /// Takes in nothing more until the next start.
    pub(super) fn give_up(&mut self) {
        self.is_given_up = true;
        self.waiting = nothing(self.inputs.len());
    }

    /// The tables that it reads: inputs, and behind what these are joined to.
    pub(super) fn reads(&self) -> impl Iterator<Item = &TableName> {
        self.parents().chain(self.sides().iter().flat_map(|side| &side.tables))
    }

    /// The tables among its inputs.
    fn parents(&self) -> impl Iterator<Item = &TableName> {
        self.inputs.iter().filter_map(KeptBy::parent)
    }

    /// Whether the state holds the rows of the table.
    pub(super) fn holds_rows(&self) -> bool {
        self.program.holds_rows()
    }

    /// Whether rows have to come with their keys.
    pub(super) fn takes_keys(&self) -> bool {
        self.program.takes_keys()
    }

    /// What it joins to the rows of its inputs.
    pub(super) fn sides(&self) -> &[Side] {
        self.program.sides()
    }

    /// What its sides, and by key its inputs, are made of among tables of these `generations`, if it
    /// has not looked at that.
    pub(super) fn unseen_sides(&self, generations: &Basis) -> Option<Basis> {
        let tables = self.sides().iter().flat_map(|side| &side.tables);
        let tables = tables.chain(self.parents().filter(|_| self.by_key().is_some()));
        let now = tables.filter_map(|name| Some((name.clone(), *generations.get(name)?)));
        let now: Basis = now.collect();
        (self.is_look_due || self.is_touched() || self.seen.as_ref() != Some(&now)).then_some(now)
    }

    /// Whether the last look was at sides of these generations.
    pub(super) fn has_seen(&self, basis: &Basis) -> bool {
        let mut tables = self.sides().iter().flat_map(|side| &side.tables);
        let seen = self.seen.as_ref();
        seen.is_some_and(|seen| tables.all(|name| seen.get(name) == basis.get(name)))
    }

    /// Sets what the table was made with.
    pub(super) fn recall(&mut self, sides: &[Vec<RecordBatch>]) -> Result<(), ProgramError> {
        if let Some(state) = &mut self.state {
            state.look(sides)?;
            state.looked();
        }
        Ok(())
    }

    /// Compares what the sides hold with what the table is made with. Whether that differs.
    pub(super) fn look(&mut self, sides: &[Vec<RecordBatch>]) -> Result<bool, ProgramError> {
        self.state.as_mut().map_or(Ok(false), |state| state.look(sides))
    }

    /// What has to become of rows of an input, now that the sides differ.
    pub(super) fn redrive(
        &self,
        input: usize,
        rows: &RecordBatch,
    ) -> Result<Option<Applied>, ProgramError> {
        self.state.as_ref().map_or(Ok(None), |state| state.redrive(input, rows, self.is_read))
    }

    /// The same for all of them, as changes of the table.
    pub(super) fn redriven(&mut self, parts: Vec<Applied>) -> Result<Vec<Applied>, ProgramError> {
        self.state.as_mut().map_or(Ok(Vec::new()), |state| state.redriven(parts, self.is_read))
    }

    /// The rows of an input under touched keys, if they are in memory. Else it has to be read.
    pub(super) fn touched_rows(
        &mut self,
        input: usize,
    ) -> Result<Option<RecordBatch>, ProgramError> {
        let Some(state) = &mut self.state else { return Ok(None) };
        let rows = state.touched_rows(input)?;
        if rows.is_none() {
            state.begin_reading(input);
        }
        Ok(rows)
    }

    /// Takes note of rows of an input. Returns those under touched keys.
    pub(super) fn read(
        &mut self,
        input: usize,
        rows: &RecordBatch,
    ) -> Result<RecordBatch, ProgramError> {
        let Some(state) = &mut self.state else { return Ok(rows.slice(0, 0)) };
        state.read(input, rows)?;
        Ok(filter_record_batch(rows, &state.touches(input, rows)?)?)
    }

    /// All of an input was read.
    pub(super) fn all_read(&mut self, input: usize) {
        // What waits is handed to it again.
        if !self.has_waiting() {
            self.state.iter_mut().for_each(|state| state.all_read(input));
        }
    }

    /// What has to change in the table now that its SQL gives `rows` for the touched keys.
    pub(super) fn rerun(&mut self, rows: &[RecordBatch]) -> Result<Vec<Applied>, ProgramError> {
        let Some(state) = &mut self.state else { return Ok(Vec::new()) };
        Ok(vec![state.rerun(rows, self.is_read)?])
    }

    /// Changes that could not be computed, of each input.
    pub(super) fn waiting(&self) -> &[Change] {
        &self.waiting
    }

    fn has_waiting(&self) -> bool {
        self.waiting.iter().any(|change| !change.is_empty())
    }

    pub(super) fn waiting_bytes(&self) -> usize {
        self.waiting.iter().map(Change::bytes).sum()
    }

    /// How far it was handed everything, what waits included: into a stream that feeds several
    /// inputs as far as the last of them.
    fn taken(&self) -> Positions {
        let mut taken = self.beside.clone();
        let streams: BTreeSet<&String> = self.inputs.iter().flat_map(|i| &i.streams).collect();
        for stream in streams {
            let fed = self.inputs.iter().filter(|input| input.streams.contains(stream));
            let reaches = fed.map(|input| input.taken.only(std::slice::from_ref(stream)));
            taken.merge(&reaches.reduce(|a, b| a.meet(&b)).unwrap_or_default());
        }
        taken
    }

    /// Nothing may be committed before the next look gets through.
    pub(super) fn could_not_look(&mut self) {
        self.is_look_due = true;
    }

    /// Takes over what a look gave, at sides of `basis` that reach `positions`.
    pub(super) fn looked(
        &mut self,
        applied: Vec<Applied>,
        basis: Basis,
        positions: &Positions,
        generation: &mut u64,
    ) -> Change {
        self.beside.merge(positions);
        // What waits was handed to it, and is not shown.
        let reached = if self.has_waiting() { self.reached.clone() } else { self.taken() };
        let mut change = Change::default();
        for Applied { patch, change: came } in applied {
            self.push(patch, generation, &reached);
            change.extend(came);
        }
        self.state.iter_mut().for_each(|state| state.looked());
        self.made.looks.push((*generation, basis.clone()));
        self.seen = Some(basis);
        self.is_look_due = false;
        self.reach();
        change
    }

    /// The sides reach `positions` with what they held at the last look.
    pub(super) fn pass(&mut self, positions: &Positions) {
        self.beside.merge(positions);
        self.reach();
    }

    /// The table shows all that was handed to it, unless keys were touched or something waits.
    fn reach(&mut self) {
        if !self.is_touched() && !self.has_waiting() {
            self.reached = self.taken();
            if let Some(newest) = self.made.steps.last_mut() {
                newest.positions.clone_from(&self.reached);
            }
        }
    }
    /// What it made since this was asked last.
    pub(super) fn made(&mut self) -> Made {
        std::mem::take(&mut self.made)
    }

    /// The patches that were not taken over yet.
    pub(super) fn steps(&self) -> &[Step] {
        &self.made.steps
    }

    /// Fills the state from the table's rows.
    pub(super) fn load(&mut self, rows: &[RecordBatch]) -> Result<(), ProgramError> {
        let mut state = Arc::clone(&self.program).begin()?;
        rows.iter().try_for_each(|rows| state.load(rows))?;
        self.state = Some(state);
        Ok(())
    }

    /// Begins anew: with an empty state, on top of a table that holds `rows`. The change is that
    /// all of them are gone.
    pub(super) fn restart(
        &mut self,
        rows: &[RecordBatch],
        generation: &mut u64,
        positions: &Positions,
    ) -> Result<Change, ProgramError> {
        self.load(&[])?;
        let mut change = Change::default();
        for rows in rows {
            let keys: BinaryArray = rows.column(0).as_binary::<i32>().clone();
            self.push(Patch { keys, rows: rows.slice(0, 0) }, generation, positions);
            change.removed.push(self.told(rows)?);
        }
        Ok(change)
    }

    /// The table holds nothing: what was handed before is joined at the next look.
    pub(super) fn empty(&mut self) {
        self.state.iter_mut().for_each(|state| state.empty());
    }

    /// What the model has before anything came, as a change.
    pub(super) fn begin(
        &mut self,
        generation: &mut u64,
        positions: &Positions,
    ) -> Result<Change, ProgramError> {
        let Some(state) = &mut self.state else { return Ok(Change::default()) };
        let Some(begun) = state.first()? else { return Ok(Change::default()) };
        self.push(begun.patch, generation, positions);
        Ok(begun.change)
    }

    /// Takes in a change of each input. After an error they wait for the next ones, together with
    /// which they are tried again.
    pub(super) fn take(
        &mut self,
        handed: Vec<Handed>,
        generation: &mut u64,
    ) -> Result<Change, String> {
        let Some(state) = self.state.as_mut().filter(|_| !self.is_given_up) else {
            return Err(GIVEN_UP.to_owned());
        };
        let of_inputs = self.inputs.iter_mut().zip(&mut self.waiting);
        for ((change, reached), (input, waiting)) in handed.into_iter().zip(of_inputs) {
            input.taken.merge(&reached);
            if waiting.is_empty() {
                *waiting = change;
            } else {
                // What came and went meanwhile need not be computable.
                waiting.extend(change);
                let all = std::mem::take(waiting);
                *waiting = all.without_cancelled().map_err(|error| error.to_string())?;
            }
        }
        if self.waiting.iter().all(Change::is_empty) {
            self.waiting = nothing(self.inputs.len());
            self.reach();
            return Ok(Change::default());
        }
        match state.apply_all(&self.waiting, self.is_read) {
            Ok(applied) => {
                self.waiting = nothing(self.inputs.len());
                let positions = self.taken();
                self.push(applied.patch, generation, &positions);
                self.reach();
                Ok(applied.change)
            }
            Err(error) if self.waiting_bytes() > WAITING_BYTES => {
                self.give_up();
                Err(format!("{}; {GIVEN_UP}", error.reason()))
            }
            Err(error) => Err(error.reason()),
        }
    }

    /// What readers are told of stored rows.
    pub(super) fn told(&self, rows: &RecordBatch) -> Result<RecordBatch, ProgramError> {
        self.program.told(rows)
    }

    /// How far the table reaches.
    pub(super) fn reached(&self) -> &Positions {
        &self.reached
    }

    fn push(&mut self, patch: Patch, generation: &mut u64, positions: &Positions) {
        if !patch.is_empty() {
            *generation += 1;
            let (patch, positions) = (Arc::new(patch), positions.clone());
            self.made.steps.push(Step { patch, generation: *generation, positions });
        }
    }
}

/// No change of any of so many inputs.
fn nothing(inputs: usize) -> Vec<Change> {
    std::iter::repeat_with(Change::default).take(inputs).collect()
}

const GIVEN_UP: &str = "nothing more is taken in until the model is mended and the server started";
