//! The part of a table that is kept by changes of its inputs.

use std::sync::Arc;

use arrow::array::RecordBatch;

use crate::{
    domain::{Positions, chain, change::Change},
    models::ProgramError,
    process::{
        Error,
        derived::{Derived, Mark},
        follow::Away,
        kept::{Handed, Kept, KeptBy},
        missed::{missed_of, whole},
        pass::Member,
    },
};

impl Derived {
    /// From now on it is kept by changes.
    pub(in crate::process) fn keep_by(&mut self, kept: Kept) {
        self.has_looks = kept.has_looks();
        self.kept = Some(kept);
    }

    /// Whether it is kept by changes of its inputs.
    pub(in crate::process) fn is_kept(&self) -> bool {
        self.kept.is_some() || self.away.is_some()
    }

    /// What keeps it by changes, if its state is at hand.
    pub(in crate::process) fn kept(&self) -> Option<&Kept> {
        self.kept.as_ref()
    }

    /// Gives its state away, to be worked on beside the loop, if it follows its inputs.
    pub(in crate::process) fn leave(&mut self, number: usize) -> Option<Member> {
        let plan = Arc::clone(self.plan.as_ref()?);
        let kept = self.kept.take_if(|kept| kept.is_following())?;
        self.away = Some(Away::of(&kept));
        Some(Member { number, plan, kept, at: self.at.clone(), shown: self.log.shown().clone() })
    }

    /// Takes its state back, and what was made with it. Returns what came meanwhile.
    pub(in crate::process) fn come_back(&mut self, member: Member) -> Result<Option<Away>, Error> {
        (self.kept, self.at) = (Some(member.kept), member.at);
        self.take_over()?;
        Ok(self.away.take())
    }

    /// What it is kept by and follows, with whether it is handed keys.
    pub(in crate::process) fn follows(&self) -> Option<(&[KeptBy], bool)> {
        match (&self.kept, &self.away) {
            (Some(kept), _) if kept.is_following() => Some((&kept.inputs, kept.takes_keys())),
            (None, Some(away)) if away.stopped.is_none() => Some((&away.inputs, away.takes_keys)),
            _ => None,
        }
    }

    /// It takes in nothing more.
    pub(in crate::process) fn stop(&mut self, reason: &str) {
        self.kept.iter_mut().for_each(Kept::give_up);
        self.away.iter_mut().for_each(|away| away.stopped = Some(reason.to_owned()));
        self.at.failure = Some(reason.to_owned());
    }

    /// What was made by changes is what queries see, and is committed later.
    fn take_over(&mut self) -> Result<(), ProgramError> {
        let Some(kept) = &mut self.kept else { return Ok(()) };
        let made = kept.made();
        for step in made.steps {
            self.log.push(step.patch, step.generation, step.positions)?;
        }
        self.log.reach(kept.reached());
        self.looks.extend(made.looks);
        Ok(())
    }

    /// Tells where a publication may stop.
    pub(in crate::process) fn mark(&mut self, generations: Vec<u64>) {
        self.log.mark(generations);
    }

    /// Whether the table in generation `at` was made with sides, and by key with an input, of these
    /// `generations`.
    pub(super) fn was_made_with(&self, at: u64, generations: &Mark) -> bool {
        if !self.has_looks {
            return true;
        }
        let before = self.looks.iter().filter(|(from, _)| *from <= at);
        let last = before.clone().map(|(from, _)| *from).max();
        let mut of_then = before.filter(|(from, _)| Some(*from) == last);
        of_then.any(|(_, basis)| basis.iter().all(|(name, of)| generations.get(name) == Some(of)))
    }

    /// The table is committed as of generation `at`: what made it is needed no more.
    pub(super) fn forget_committed(&mut self, at: u64) {
        self.log.committed(at);
        let before = self.looks.iter().filter(|(from, _)| *from <= at);
        if let Some(last) = before.map(|(from, _)| *from).max() {
            self.looks.retain(|(from, _)| *from >= last);
        }
    }

    /// Begins to keep it by changes, on top of the table as it is committed: takes in what its
    /// `parents`, those of its inputs that are kept so, have beyond the version that is recorded;
    /// with each comes what it made of its own start. If it was made already, then with `sides`.
    /// Returns what this makes of the visible rows.
    pub(in crate::process) async fn load(
        &mut self,
        sides: Option<Vec<Vec<RecordBatch>>>,
        parents: Vec<Option<(&Self, Change)>>,
        now_us: i64,
    ) -> Result<Change, Error> {
        let Some(kept) = &mut self.kept else { return Ok(Change::default()) };
        let rows = if kept.holds_rows() { self.table.all_rows().await? } else { Vec::new() };
        kept.load(&rows)?;
        if let Some(sides) = sides {
            kept.recall(&sides)?;
        }
        let mut change = Change::default();
        if !self.table.is_published() {
            match kept.begin(&mut self.at.generation, &self.at.positions) {
                Ok(begun) => change = begun,
                // It may be that it can be computed once rows are there.
                Err(error) => self.at.failure = Some(error.reason()),
            }
        }
        if parents.iter().all(Option::is_none) {
            self.take_over()?;
            return Ok(change);
        }
        let handed = match missed_of(&self.table, &parents).await {
            Ok(handed) => handed,
            Err(error) => {
                let error = chain(&error);
                tracing::warn!(table = %self.info.name, error, "made anew: its input is not there");
                let rows = if kept.holds_rows() { rows } else { self.table.all_rows().await? };
                change.extend(kept.restart(&rows, &mut self.at.generation, &self.at.positions)?);
                // Not all of its inputs are tables that can be handed to it again.
                if kept.by_key().is_some() {
                    kept.empty();
                }
                whole(&parents).await?
            }
        };
        change.extend(self.take(handed, now_us).unwrap_or_default());
        Ok(change)
    }

    /// Begins a lookup again with an empty table. Returns what this makes of its rows.
    pub(in crate::process) async fn load_anew(&mut self) -> Result<Change, Error> {
        let Some(kept) = &mut self.kept else { return Ok(Change::default()) };
        let rows = self.table.all_rows().await?;
        let mut change = kept.restart(&rows, &mut self.at.generation, &self.at.positions)?;
        kept.empty();
        change.extend(kept.begin(&mut self.at.generation, &self.at.positions)?);
        self.take_over()?;
        Ok(change)
    }

    /// What readers are told of stored rows.
    pub(in crate::process) fn told(&self, rows: &[RecordBatch]) -> Result<Vec<RecordBatch>, Error> {
        let Some(kept) = &self.kept else { return Ok(rows.to_vec()) };
        Ok(rows.iter().map(|rows| kept.told(rows)).collect::<Result<_, _>>()?)
    }

    /// Takes in a change of each input. Returns what became of its visible rows, unless that cannot be
    /// computed, or is later.
    pub(in crate::process) fn take(&mut self, handed: Vec<Handed>, now_us: i64) -> Option<Change> {
        if let Some(away) = &mut self.away {
            away.take(handed);
            return None;
        }
        let change = self.kept.as_mut()?.follow(&self.info.name, &mut self.at, handed, now_us);
        if let Err(error) = self.take_over() {
            self.at.failure = Some(error.reason());
            return None;
        }
        change
    }

    /// Its sides reach `positions`, and hold what they held. Whether it reaches further with them.
    pub(in crate::process) fn pass(&mut self, positions: &Positions) -> Result<bool, Error> {
        let Some(kept) = &mut self.kept else { return Ok(false) };
        let before = self.at.positions.clone();
        kept.pass_to(&mut self.at, positions);
        self.take_over()?;
        Ok(self.at.positions != before)
    }

    /// Of what it was handed and has not taken in.
    pub(in crate::process) fn handed_bytes(&self) -> usize {
        let waiting = self.kept.as_ref().map_or(0, Kept::waiting_bytes);
        waiting + self.away.as_ref().map_or(0, Away::bytes)
    }
}
