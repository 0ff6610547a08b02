//! When models are looked at that need more than the rows that came, see [`crate::process::pass`].
//!
//! Models that read one another are looked at together, each such group by itself as soon as something
//! is there to look at and its share of the machine allows: lookups between two micro-batches, so that
//! each view shows them with what they are joined to; models by key, and what reads them, beside the loop,
//! where they hold up nothing that they read. And all of them where a publication or what is recomputed
//! needs them to be of one moment.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use arrow::array::RecordBatch;
use tokio::{
    task::{JoinError, JoinSet},
    time::Instant,
};

use crate::{
    domain::TableName,
    lake::{LakeView, Overlay, TableState},
    models::Side,
    process::{
        Error,
        derived::{Derived, Mark},
        driving::computed,
        follow::Away,
        kept::Kept,
        metrics::{self, Stage},
        missed::rows_at,
        pass::{Looked, Pass, of_sides},
        pipeline::Pipeline,
        rounds::Job,
    },
};

/// What is looked at, beside the loop.
#[derive(Default)]
pub(super) struct Looks {
    groups: Vec<Group>,
    /// End with the pipeline.
    passes: JoinSet<(Scope, Result<Looked, Error>)>,
    /// Whether what is recomputed from what is kept by changes waits for a look at all of that.
    pub wants_round: bool,
    /// Whether a publication waits for all of them to be of one moment, and whether they are.
    pub wants_mark: bool,
    pub is_marked: bool,
}

/// Tables that are looked at together, by their numbers, parents first.
struct Group {
    members: Vec<usize>,
    /// Whether the loop goes on meanwhile.
    is_beside: bool,
    is_away: bool,
    /// Not before then.
    next: Instant,
}

/// What a pass looks at.
#[derive(Clone, Copy)]
pub(super) enum Scope {
    Group(usize),
    /// All groups beside the loop, before tables are recomputed if that `is_round`.
    All {
        is_round: bool,
    },
}

impl Scope {
    fn holds(self, number: usize, group: &Group) -> bool {
        match self {
            Self::Group(one) => number == one,
            Self::All { .. } => group.is_beside,
        }
    }
}

impl Looks {
    pub(super) fn of(derived: &[Derived]) -> Self {
        let mut of: BTreeMap<&TableName, usize> = BTreeMap::new();
        let mut numbers: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        // By key, or reading such.
        let mut beside: BTreeSet<&TableName> = BTreeSet::new();
        for (number, table) in derived.iter().enumerate() {
            let Some(kept) = table.kept() else { continue };
            let is_beside = kept.by_key().is_some() || kept.reads().any(|of| beside.contains(of));
            if is_beside {
                beside.insert(&table.info.name);
            }
            let read = kept.reads().filter(|name| beside.contains(name) == is_beside);
            let found: BTreeSet<usize> = read.filter_map(|name| of.get(name)).copied().collect();
            if !table.has_looks && found.is_empty() {
                continue;
            }
            let into = found.first().copied().unwrap_or(number);
            let mut members: Vec<usize> =
                found.iter().filter_map(|group| numbers.remove(group)).flatten().collect();
            members.push(number);
            members.sort_unstable();
            of.extend(members.iter().map(|member| (&derived[*member].info.name, into)));
            numbers.insert(into, members);
        }
        let next = Instant::now();
        let groups = numbers.into_values().map(|members| {
            let is_beside = members.iter().any(|of| beside.contains(&derived[*of].info.name));
            Group { members, is_beside, is_away: false, next }
        });
        Self { groups: groups.collect(), ..Self::default() }
    }

    /// Nothing is looked at for so long, unless it is needed.
    #[cfg(test)]
    pub(super) fn pause(&mut self, pause: std::time::Duration) {
        self.groups.iter_mut().for_each(|group| group.next = Instant::now() + pause);
    }
}

impl Pipeline {
    /// Takes over looks that have ended. Whether there were some.
    pub(super) fn end_looks(&mut self) -> Result<bool, Error> {
        let mut has_some = false;
        while let Some(ended) = self.looks.passes.try_join_next() {
            let (scope, looked) = told(ended)?;
            self.end_look(scope, looked?)?;
            has_some = true;
        }
        Ok(has_some)
    }

    /// Waits for the looks that are under way.
    pub(super) async fn finish_looks(&mut self) -> Result<(), Error> {
        while let Some(ended) = self.looks.passes.join_next().await {
            let (scope, looked) = told(ended)?;
            self.end_look(scope, looked?)?;
        }
        Ok(())
    }

    /// Looks at lookups that are due, and begins to look at others. Before something is recomputed from
    /// what is kept by changes, and before a publication, at all. Whether there was a lookup.
    pub(super) async fn begin_looks(&mut self) -> Result<bool, Error> {
        if !self.is_owner {
            return Ok(false);
        }
        let has_looked = self.look_between(false).await?;
        let now = Instant::now();
        let is_round = self.looks.wants_round;
        if is_round || self.looks.wants_mark {
            if self.looks.passes.is_empty() {
                self.looks.wants_round = false;
                if !self.begin_all(is_round).await? {
                    self.looks.is_marked |= std::mem::take(&mut self.looks.wants_mark);
                }
            }
            return Ok(has_looked);
        }
        let generations = self.generations();
        for group in 0..self.looks.groups.len() {
            let Group { is_beside, is_away, next, .. } = self.looks.groups[group];
            if is_beside && !is_away && next <= now && self.is_due(group, &generations) {
                self.begin_look(Scope::Group(group));
            }
        }
        Ok(has_looked)
    }

    /// Looks at lookups that are due, between two micro-batches; not again at once where it took long,
    /// unless it is `needed`. Whether there were some.
    pub(super) async fn look_between(&mut self, needed: bool) -> Result<bool, Error> {
        if !self.is_owner {
            return Ok(false);
        }
        self.pass_on()?;
        let mut has_looked = false;
        for group in 0..self.looks.groups.len() {
            let Group { is_beside, next, .. } = self.looks.groups[group];
            let is_time = needed || next <= Instant::now();
            if !is_beside && is_time && self.is_due(group, &self.generations()) {
                let looked = self.pass(Scope::Group(group)).run().await?;
                self.end_look(Scope::Group(group), looked)?;
                has_looked = true;
            }
        }
        Ok(has_looked)
    }

    /// Whether there is something to look at in a group.
    fn is_due(&self, group: usize, generations: &Mark) -> bool {
        let mut members = self.looks.groups[group].members.iter();
        members.any(|number| self.derived[*number].is_due(generations))
    }

    /// The same for any of those beside the loop.
    pub(super) fn is_some_due(&self, generations: &Mark) -> bool {
        let groups = self.looks.groups.iter().enumerate();
        let mut beside = groups.filter(|(_, group)| group.is_beside);
        beside.any(|(number, _)| self.is_due(number, generations))
    }

    /// Looks at everything, recomputes what rests on it if that `is_round`, and waits for it.
    pub(super) async fn look_at_all(&mut self, is_round: bool) -> Result<(), Error> {
        self.finish_looks().await?;
        if self.is_owner {
            self.begin_all(is_round && self.recomputes_kept()).await?;
        }
        self.finish_looks().await
    }

    /// Whether a publication has to wait until all tables are looked at in one moment.
    pub(super) fn needs_mark(&self) -> bool {
        let is_due = self.is_owner && Instant::now() >= self.next_publish;
        let by_looks = self.publishes_at_marks() && !self.recomputes_kept();
        is_due && by_looks && !self.looks.is_marked
    }

    /// Whether nothing is to be looked at.
    pub(super) fn is_quiet(&self, generations: &Mark) -> bool {
        self.looks.passes.is_empty() && !self.is_some_due(generations)
    }

    /// Begins to look at all, before tables are recomputed if that `is_round`. Whether there is
    /// something to do.
    async fn begin_all(&mut self, is_round: bool) -> Result<bool, Error> {
        self.look_between(true).await?;
        let generations = self.generations();
        if !is_round && !self.is_some_due(&generations) {
            if !self.recomputes_kept() {
                self.last_mark = generations;
                self.keep_marks();
            }
            return Ok(false);
        }
        self.round_mark = generations;
        self.keep_marks();
        self.begin_look(Scope::All { is_round });
        Ok(true)
    }

    fn begin_look(&mut self, scope: Scope) {
        let pass = self.pass(scope);
        self.looks.passes.spawn(async move { (scope, pass.run().await) });
    }

    /// What is looked at, taken out of the loop.
    pub(super) fn pass(&mut self, scope: Scope) -> Pass {
        let (view, generations) = (Arc::new(self.build_view()), self.generations());
        let mut numbers = BTreeSet::new();
        for (number, group) in self.looks.groups.iter_mut().enumerate() {
            if scope.holds(number, group) {
                group.is_away = true;
                numbers.extend(group.members.iter().copied());
            }
        }
        let members = numbers.into_iter().filter_map(|number| self.derived[number].leave(number));
        Pass {
            view,
            members: members.collect(),
            generations,
            planned: Arc::clone(&self.deps.planned),
            now_us: self.deps.clock.now_us(),
        }
    }

    /// Takes over what a look came to, then what came meanwhile.
    pub(super) fn end_look(&mut self, scope: Scope, looked: Looked) -> Result<(), Error> {
        let Looked { members, changes, view, generations, took } = looked;
        let (mut left, mut looked): (Vec<(usize, Away)>, _) = (Vec::new(), BTreeSet::new());
        for member in members {
            let number = member.number;
            looked.insert(number);
            left.extend(self.derived[number].come_back(member)?.map(|away| (number, away)));
        }
        // To those that read them and were not looked at with them.
        for changes in changes {
            self.hand_on_beyond(&looked, changes)?;
        }
        metrics::stage(Stage::Looks, took);
        let next = Instant::now() + self.pause_after(took);
        for (number, group) in self.looks.groups.iter_mut().enumerate() {
            if scope.holds(number, group) {
                (group.is_away, group.next) = (false, next);
            }
        }
        if let Scope::All { is_round } = scope {
            self.end_all(is_round, view, generations);
        }
        for (number, away) in left {
            self.catch_up_on(number, away)?;
        }
        self.report_models();
        Ok(())
    }

    /// All tables are of one moment, in `view`: what is recomputed is, too, if that `is_round`.
    fn end_all(&mut self, is_round: bool, view: Arc<LakeView>, generations: Mark) {
        if is_round {
            let jobs =
                self.derived.iter().filter_map(|d| Job::of(d, &view, &generations)).collect();
            self.begin_computing(view, jobs, generations);
        } else if !self.recomputes_kept() {
            self.last_mark = generations;
            self.keep_marks();
            self.looks.is_marked |= std::mem::take(&mut self.looks.wants_mark);
        }
    }

    /// Hands a model what it was handed while its state was away.
    fn catch_up_on(&mut self, number: usize, away: Away) -> Result<(), Error> {
        let now = self.deps.clock.now_us();
        for handed in away.queue {
            if let Some(change) = self.derived[number].take(handed, now) {
                let derived = &self.derived[number];
                let of = (change, derived.at.positions.clone());
                let name = derived.info.name.clone();
                self.hand_on(None, BTreeMap::from([(name, of)]))?;
            }
        }
        if let Some(reason) = away.stopped {
            self.derived[number].stop(&reason);
        }
        Ok(())
    }

    /// Where sides reach further and hold what they held, what is joined to them does.
    fn pass_on(&mut self) -> Result<(), Error> {
        let mut generations = self.generations();
        for number in 0..self.derived.len() {
            let derived = &self.derived[number];
            let (Some(plan), Some(kept)) = (&derived.plan, derived.kept()) else { continue };
            if kept.sides().is_empty() || !kept.is_following() {
                continue;
            }
            if kept.unseen_sides(&generations).is_some() {
                continue;
            }
            let positions = of_sides(plan, kept, |name| {
                let side = self.derived.iter().find(|side| side.info.name == *name)?;
                Some((side.plan.as_ref()?.streams.as_slice(), &side.at.positions))
            });
            if self.derived[number].pass(&positions)? {
                let derived = &self.derived[number];
                let of = (Default::default(), derived.at.positions.clone());
                self.hand_on(None, BTreeMap::from([(derived.info.name.clone(), of)]))?;
                generations = self.generations();
            }
        }
        Ok(())
    }

    /// What the sides of a lookup held when its table was made, if it was.
    pub(super) async fn recalled_sides(
        &mut self,
        number: usize,
    ) -> Result<Option<Vec<Vec<RecordBatch>>>, Error> {
        let mut view = self.build_view();
        let derived = &self.derived[number];
        let kept = derived.kept().filter(|_| derived.table.is_published());
        let sides: &[Side] = kept.map_or(&[], Kept::sides);
        if sides.is_empty() {
            return Ok(None);
        }
        let tables: BTreeSet<&TableName> = sides.iter().flat_map(|side| &side.tables).collect();
        let parents = self.derived.iter().filter(|parent| tables.contains(&parent.info.name));
        for parent in parents {
            let rows = rows_at(&derived.table, parent).await?;
            let state = TableState { overlay: Overlay::Replace(rows), ..parent.state() };
            view.tables.insert(parent.info.name.clone(), Arc::new(state));
        }
        Ok(Some(computed(&Arc::new(view), sides).await?))
    }
}

fn told<T>(ended: Result<T, JoinError>) -> Result<T, Error> {
    ended.map_err(|error| Error::Internal(format!("looking at tables: {error}")))
}

impl Derived {
    /// Whether there is something to look at that it has not seen.
    fn is_due(&self, generations: &Mark) -> bool {
        let kept = self.kept().filter(|kept| kept.has_looks() && kept.is_following());
        kept.is_some_and(|kept| kept.unseen_sides(generations).is_some())
    }
}
