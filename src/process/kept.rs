//! What a model that is kept by changes has in memory: the running state, and patches on top of the
//! snapshot.
//!
//! The state is a cache of the table: it is loaded from it when this process begins to own the
//! table, and thrown away with everything else. What is committed comes from the patches, which say
//! for each step of the inputs what became of the table; so a publication can stop at a mark that
//! lies behind what is in memory.

use std::sync::Arc;

use arrow::array::{AsArray as _, BinaryArray, RecordBatch};

use crate::{
    domain::{
        Offset, Partition, Positions, TableName,
        change::{Change, Patch},
    },
    models::{Input, KeptProgram, KeptState, ProgramError},
    process::patch_log::PatchLog,
};

/// Changes that cannot be computed wait for others that make them computable, in so much memory.
const WAITING_BYTES: usize = 16 * 1024 * 1024;

/// A model that is kept by changes of its one input.
pub(super) struct Kept {
    pub input: Input,
    program: Arc<dyn KeptProgram>,
    /// Whether models that are kept by changes read this one.
    is_read: bool,
    /// `None` while another process owns the table.
    state: Option<Box<dyn KeptState>>,
    /// What is not committed yet.
    pub log: PatchLog,
    /// What could not be computed so far.
    waiting: Change,
    /// Too much of it: nothing is taken in until the next start.
    is_given_up: bool,
    /// How far into its streams it was handed everything, what waits included.
    taken: Positions,
}

impl Kept {
    pub(super) fn new(input: Input, program: Arc<dyn KeptProgram>, is_read: bool) -> Self {
        Self {
            input,
            program,
            is_read,
            state: None,
            log: PatchLog::default(),
            waiting: Change::default(),
            is_given_up: false,
            taken: Positions::default(),
        }
    }

    /// Throws away what is in memory; the table reaches `positions`.
    pub(super) fn forget(&mut self, positions: &Positions) {
        self.state = None;
        self.log = PatchLog::default();
        self.waiting = Change::default();
        self.is_given_up = false;
        self.taken = positions.clone();
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
        self.is_given_up || !self.waiting.is_empty()
    }

    /// Takes in nothing more until the next start.
    pub(super) fn give_up(&mut self) {
        self.is_given_up = true;
        self.waiting = Change::default();
    }

    /// The table it reads, if that is one that tells its changes by version.
    pub(super) fn parent(&self) -> Option<&TableName> {
        match &self.input {
            Input::Table(name) => Some(name),
            Input::Stream(_) => None,
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
            change.removed.push(self.visible(rows)?);
        }
        Ok(change)
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

    /// How far into a partition of a stream it was handed everything.
    pub(super) fn taken(&self, stream: &str, partition: Partition) -> Option<Offset> {
        self.taken.get(stream, partition)
    }

    /// Takes in a change of the input up to `reached`. After an error it waits for the next one,
    /// together with which it is tried again.
    pub(super) fn take(
        &mut self,
        change: Change,
        reached: &Positions,
        generation: &mut u64,
    ) -> Result<Change, String> {
        let Some(state) = self.state.as_mut().filter(|_| !self.is_given_up) else {
            return Err(GIVEN_UP.to_owned());
        };
        self.taken.merge(reached);
        if self.waiting.is_empty() {
            self.waiting = change;
        } else {
            // What came and went meanwhile need not be computable.
            self.waiting.extend(change);
            let waiting = std::mem::take(&mut self.waiting);
            self.waiting = waiting.without_cancelled().map_err(|error| error.to_string())?;
        }
        if self.waiting.is_empty() {
            self.waiting = Change::default();
            self.log.reach(&self.taken);
            return Ok(Change::default());
        }
        match state.apply(&self.waiting, self.is_read) {
            Ok(applied) => {
                self.waiting = Change::default();
                let positions = self.taken.clone();
                let pushed = self.push(applied.patch, generation, &positions);
                pushed.map_err(|error| error.reason())?;
                self.log.reach(&self.taken);
                Ok(applied.change)
            }
            Err(error) if self.waiting.bytes() > WAITING_BYTES => {
                self.give_up();
                Err(format!("{}; {GIVEN_UP}", error.reason()))
            }
            Err(error) => Err(error.reason()),
        }
    }

    /// The columns of stored rows that the model names.
    pub(super) fn visible(&self, rows: &RecordBatch) -> Result<RecordBatch, ProgramError> {
        self.program.visible(rows)
    }

    /// How far the table reaches.
    pub(super) fn reached(&self) -> &Positions {
        &self.taken
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
        self.log.shown().bytes() + self.waiting.bytes()
    }
}

const GIVEN_UP: &str = "nothing more is taken in until the model is mended and the server started";
