//! How a model follows what it is handed, wherever its state is: at hand in the loop, or away where it
//! is worked on beside it.

use crate::{
    domain::{Positions, TableName, change::Change},
    models::Applied,
    process::kept::{Basis, Handed, Kept, KeptBy, Standing},
};

/// What the loop knows of a model whose state is away.
pub(super) struct Away {
    /// With how far it was handed everything, what is queued included.
    pub inputs: Vec<KeptBy>,
    /// Whether rows have to come with their keys.
    pub takes_keys: bool,
    /// Whether something could not be computed when it left.
    pub is_waiting: bool,
    /// What it is handed when its state is back.
    pub queue: Vec<Vec<Handed>>,
    /// Why it takes in nothing more.
    pub stopped: Option<String>,
}

impl Away {
    pub(super) fn of(kept: &Kept) -> Self {
        Self {
            inputs: kept.inputs.clone(),
            takes_keys: kept.takes_keys(),
            is_waiting: kept.is_waiting(),
            queue: Vec::new(),
            stopped: None,
        }
    }

    pub(super) fn take(&mut self, handed: Vec<Handed>) {
        let of_inputs = self.inputs.iter_mut().zip(&handed);
        of_inputs.for_each(|(input, (_, reached))| input.take(reached));
        self.queue.push(handed);
    }

    pub(super) fn bytes(&self) -> usize {
        self.queue.iter().flatten().map(|(change, _)| change.bytes()).sum()
    }
}

impl Kept {
    /// Takes in a change of each input. Returns what became of its visible rows, unless that cannot be
    /// computed.
    pub(super) fn follow(
        &mut self,
        name: &TableName,
        at: &mut Standing,
        handed: Vec<Handed>,
        now_us: i64,
    ) -> Option<Change> {
        match self.take(handed, &mut at.generation) {
            Ok(change) => {
                at.positions = self.reached().clone();
                at.failure = None;
                at.computed_at = Some(now_us);
                Some(change)
            }
            Err(error) => {
                at.fail(name, error);
                None
            }
        }
    }

    /// Its sides reach `positions`, and hold what they held.
    pub(super) fn pass_to(&mut self, at: &mut Standing, positions: &Positions) {
        self.pass(positions);
        at.positions = self.reached().clone();
    }

    /// Takes over what a look at the sides gave, in which these are of the generations `basis` and
    /// reach `positions`. Returns what that makes of its rows.
    pub(super) fn look_at(
        &mut self,
        name: &TableName,
        at: &mut Standing,
        looked: Result<Vec<Applied>, String>,
        (basis, positions): (Basis, &Positions),
        now_us: i64,
    ) -> Change {
        let applied = match looked {
            Ok(applied) => applied,
            Err(error) => {
                self.could_not_look();
                at.fail(name, error);
                return Change::default();
            }
        };
        let mut change = self.looked(applied, basis, positions, &mut at.generation);
        at.positions = self.reached().clone();
        // What could not be computed with the sides of before.
        change.extend(self.follow(name, at, Vec::new(), now_us).unwrap_or_default());
        change
    }
}

impl Standing {
    fn fail(&mut self, name: &TableName, error: String) {
        if self.failure.as_ref() != Some(&error) {
            tracing::error!(table = %name, error, "model failed");
        }
        self.failure = Some(error);
    }
}
