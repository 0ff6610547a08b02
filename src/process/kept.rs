//! What a model that is kept by changes has in memory: the running state, and patches on top of the
//! snapshot.
//!
//! The state is a cache of the table: it is loaded from it when this process begins to own the
//! table, and thrown away with everything else. What is committed comes from the patches, which say
//! for each step of the inputs what became of the table; so a publication can stop at a mark that
//! lies behind what is in memory.

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
    process::patch_log::PatchLog,
};

/// Changes that cannot be computed wait for others that make them computable, in so much memory.
const WAITING_BYTES: usize = 16 * 1024 * 1024;

/// Generations of the tables that sides are computed from.
type Basis = BTreeMap<TableName, u64>;

/// What a model is kept by.
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

    /// How far into a partition of a stream the model was handed everything.
    pub(super) fn taken(&self, stream: &str, partition: Partition) -> Option<Offset> {
        self.taken.get(stream, partition)
    }
}

/// A change of an input, and how far this reaches with it.
pub(super) type Handed = (Change, Positions);

/// A model that is kept by changes of its inputs.
pub(super) struct Kept {
    pub inputs: Vec<KeptBy>,
    program: Arc<dyn KeptProgram>,
    /// Whether models that are kept by changes read this one.
    is_read: bool,
    /// `None` while another process owns the table.
    state: Option<Box<dyn KeptState>>,
    /// What is not committed yet.
    pub log: PatchLog,
    /// What could not be computed so far, of each input.
    waiting: Vec<Change>,
    /// Too much of it: nothing is taken in until the next start.
    is_given_up: bool,
    /// What its sides were made of when they were looked at, newest last, each with the generation
    /// of the table from which on it is made with them.
    looks: Vec<(u64, Basis)>,
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
            log: PatchLog::default(),
            is_given_up: false,
            looks: Vec::new(),
            is_look_due: false,
            beside: Positions::default(),
            reached: Positions::default(),
        }
    }

    /// Throws away what is in memory; the table reaches `positions`.
    pub(super) fn forget(&mut self, positions: &Positions) {
        self.state = None;
        self.log = PatchLog::default();
        self.waiting = nothing(self.inputs.len());
        self.is_given_up = false;
        self.looks = Vec::new();
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

    /// Whether it was handed changes that are not in the table.
    pub(super) fn is_waiting(&self) -> bool {
        self.is_given_up || self.is_look_due || self.is_touched() || self.has_waiting()
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

    /// The tables among its inputs.
    fn parents(&self) -> impl Iterator<Item = &TableName> {
        self.inputs.iter().filter_map(KeptBy::parent)
    }

    /// Whether the state holds the rows of the table.
    pub(super) fn holds_rows(&self) -> bool {
        self.program.holds_rows()
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
        let seen = self.looks.last().map(|(_, basis)| basis);
        (self.is_look_due || self.is_touched() || seen != Some(&now)).then_some(now)
    }

    /// Whether the last look was at sides of these generations.
    pub(super) fn has_seen(&self, basis: &Basis) -> bool {
        let mut tables = self.sides().iter().flat_map(|side| &side.tables);
        let seen = self.looks.last().map(|(_, seen)| seen);
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

    /// What has to become of driving rows, now that the sides differ.
    pub(super) fn redrive(&self, rows: &RecordBatch) -> Result<Option<Applied>, ProgramError> {
        self.state.as_ref().map_or(Ok(None), |state| state.redrive(rows, self.is_read))
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

    fn waiting_bytes(&self) -> usize {
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
    ) -> Result<Change, ProgramError> {
        self.beside.merge(positions);
        // What waits was handed to it, and is not shown.
        let reached = if self.has_waiting() { self.reached.clone() } else { self.taken() };
        let mut change = Change::default();
        for Applied { patch, change: came } in applied {
            self.push(patch, generation, &reached)?;
            change.extend(came);
        }
        self.state.iter_mut().for_each(|state| state.looked());
        self.looks.push((*generation, basis));
        self.is_look_due = false;
        self.reach();
        Ok(change)
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
            self.log.reach(&self.reached);
        }
    }

    /// Whether the table in generation `at` was made with sides, and by key with an input, of these
    /// `generations`.
    pub(super) fn was_made_with(&self, at: u64, generations: &Basis) -> bool {
        if !self.has_looks() {
            return true;
        }
        let before = self.looks.iter().filter(|(from, _)| *from <= at);
        let last = before.clone().map(|(from, _)| *from).max();
        let mut of_then = before.filter(|(from, _)| Some(*from) == last);
        of_then.any(|(_, basis)| basis.iter().all(|(name, of)| generations.get(name) == Some(of)))
    }

    /// The table is committed as of generation `at`.
    pub(super) fn committed(&mut self, at: u64) {
        self.log.committed(at);
        let before = self.looks.iter().filter(|(from, _)| *from <= at);
        if let Some(last) = before.map(|(from, _)| *from).max() {
            self.looks.retain(|(from, _)| *from >= last);
        }
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
            self.push(Patch { keys, rows: rows.slice(0, 0) }, generation, positions)?;
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
        self.push(begun.patch, generation, positions)?;
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
                let pushed = self.push(applied.patch, generation, &positions);
                pushed.map_err(|error| error.reason())?;
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

    fn push(
        &mut self,
        patch: Patch,
        generation: &mut u64,
        positions: &Positions,
    ) -> Result<(), ProgramError> {
        if !patch.is_empty() {
            *generation += 1;
            self.log.push(patch, *generation, positions.clone())?;
        }
        Ok(())
    }

    pub(super) fn pending_bytes(&self) -> usize {
        self.log.shown().bytes() + self.waiting_bytes()
    }
}

/// No change of any of so many inputs.
fn nothing(inputs: usize) -> Vec<Change> {
    std::iter::repeat_with(Change::default).take(inputs).collect()
}

const GIVEN_UP: &str = "nothing more is taken in until the model is mended and the server started";
