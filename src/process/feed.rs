//! What comes into the streams, handed on to the models that are kept by changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use arrow::{
    array::{AsArray as _, BooleanArray, RecordBatch},
    compute::filter_record_batch,
    datatypes::{Int32Type, Int64Type},
};

use crate::{
    domain::{Offset, Partition, Positions, TableName, chain, change::Change},
    lake::{OFFSET, PARTITION},
    models::{Input, with_key},
    process::{
        Error,
        derived::Derived,
        kept::{Handed, KeptBy},
        pipeline::Pipeline,
        rows::{column, place_keys},
    },
};

/// Rows of a stream that its models have taken in, for whoever reads them.
pub(super) struct Fed {
    /// Per relation that is read.
    pub outputs: BTreeMap<Input, Output>,
    /// How far the stream reaches with them.
    pub ends: BTreeMap<Partition, Offset>,
}

/// What came into a relation.
pub(super) enum Output {
    /// Rows, and the place of each.
    Rows(RecordBatch, RecordBatch),
    Nothing,
    /// It does not follow its stream.
    Stopped,
}

impl Pipeline {
    /// The relations of a stream that models kept by changes read, and how far these are: per
    /// partition, the last offset that all of them have.
    pub(super) fn tell_readers(&mut self, number: usize) {
        let stream = &mut self.streams[number];
        stream.read.clear();
        stream.readers_at.clear();
        let name = stream.name().to_owned();
        let own = |input: &Input| match input {
            Input::Stream(of) => *of == name,
            Input::Table(table) => stream.models.iter().any(|model| model.name == *table),
        };
        let inputs =
            self.derived.iter().filter_map(Derived::follows).flat_map(|(inputs, _)| inputs);
        let read: Vec<&KeptBy> = inputs.filter(|followed| own(&followed.input)).collect();
        let inputs = read.iter().map(|followed| followed.input.clone()).collect();
        if !read.is_empty() {
            for partition in 0..stream.judge.contract().partitions {
                let at = read.iter().map(|read| read.taken(&name, partition)).min().flatten();
                stream.readers_at.insert(partition, at);
            }
        }
        stream.read = inputs;
    }

    /// Hands what a stream's tables took in to the models kept by changes, parents first.
    pub(super) fn feed(&mut self, number: usize) -> Result<(), Error> {
        let fed = std::mem::take(&mut self.streams[number].fed);
        if fed.is_empty() {
            return Ok(());
        }
        let name = self.streams[number].name().to_owned();
        let mut has_failed = false;
        for fed in fed {
            has_failed |= self.hand_on(Some((&name, &fed)), Changes::new())?;
        }
        if has_failed {
            self.report_models();
        }
        Ok(())
    }

    /// Hands what came into a stream, or became of some tables, to the models that read them and are
    /// kept by changes, parents first. Whether one of them failed or failed before.
    pub(super) fn hand_on(
        &mut self,
        fed: Option<(&str, &Fed)>,
        changes: Changes,
    ) -> Result<bool, Error> {
        self.hand_on_to(fed, changes, &BTreeSet::new())
    }

    /// The same for what became of tables in a look, in which those of these numbers took it in.
    pub(super) fn hand_on_beyond(
        &mut self,
        looked: &BTreeSet<usize>,
        changes: Changes,
    ) -> Result<(), Error> {
        self.hand_on_to(None, changes, looked)?;
        Ok(())
    }

    fn hand_on_to(
        &mut self,
        fed: Option<(&str, &Fed)>,
        mut changes: Changes,
        without: &BTreeSet<usize>,
    ) -> Result<bool, Error> {
        let (now, mut has_failed) = (self.deps.clock.now_us(), false);
        let derived = self.derived.iter_mut().enumerate();
        for (_, derived) in derived.filter(|(number, _)| !without.contains(number)) {
            let Some((inputs, takes_keys)) = derived.follows() else { continue };
            let handed = match handed(inputs, takes_keys, fed, &changes)? {
                What::Changed(handed) => handed,
                What::Nothing => continue,
                What::Stopped => {
                    derived.stop("what it reads has stopped");
                    has_failed = true;
                    continue;
                }
            };
            let was_failing = derived.at.failure.is_some();
            if let Some(change) = derived.take(handed, now) {
                changes.insert(derived.info.name.clone(), (change, derived.at.positions.clone()));
            }
            has_failed |= was_failing || derived.at.failure.is_some();
        }
        Ok(has_failed)
    }

    /// Fills the state of the models kept by changes from their tables, parents first.
    pub(super) async fn load_kept(&mut self) -> Result<(), Error> {
        let mut begun: BTreeMap<TableName, Change> = BTreeMap::new();
        for number in 0..self.derived.len() {
            let sides = match self.recalled_sides(number).await {
                Ok(sides) => sides,
                Err(error) => {
                    let derived = &mut self.derived[number];
                    let (name, error) = (derived.info.name.clone(), chain(&error));
                    tracing::warn!(table = %name, error, "made anew: what it was made of is not there");
                    begun.insert(name, derived.load_anew().await?);
                    continue;
                }
            };
            let (before, rest) = self.derived.split_at_mut(number);
            let Some(derived) = rest.first_mut().filter(|derived| derived.is_kept()) else {
                continue;
            };
            let inputs = derived.kept().into_iter().flat_map(|kept| &kept.inputs);
            let parents = inputs.map(|input| {
                let mut before = before.iter();
                let parent = before.find(|before| Some(&before.info.name) == input.parent())?;
                Some((parent, begun.get(&parent.info.name).cloned().unwrap_or_default()))
            });
            let parents = parents.collect();
            let change = derived.load(sides, parents, self.deps.clock.now_us()).await?;
            begun.insert(derived.info.name.clone(), change);
        }
        Ok(())
    }
}

/// What became of tables that are kept by changes, and how far they reach with it.
pub(super) type Changes = BTreeMap<TableName, (Change, Positions)>;

/// What there is for a model.
pub(super) enum What {
    /// Of each input.
    Changed(Vec<Handed>),
    Nothing,
    /// One of its inputs has stopped.
    Stopped,
}

/// What came into the inputs of a model, or became of them; rows with their keys if it `takes_keys`.
pub(super) fn handed(
    inputs: &[KeptBy],
    takes_keys: bool,
    fed: Option<(&str, &Fed)>,
    changes: &Changes,
) -> Result<What, Error> {
    let (mut all, mut has_some) = (Vec::with_capacity(inputs.len()), false);
    for input in inputs {
        let output = fed.and_then(|(_, fed)| fed.outputs.get(&input.input));
        let of_input = match (output, fed, input.parent()) {
            (Some(Output::Stopped), ..) => return Ok(What::Stopped),
            (Some(output), Some((stream, fed)), _) => {
                let mut reached = Positions::default();
                fed.ends.iter().for_each(|(p, at)| reached.advance(stream, *p, *at));
                let mut change = Change::default();
                if let Output::Rows(rows, places) = output {
                    change.added.push(wanted(input, takes_keys, stream, rows, places)?);
                }
                Some((change, reached))
            }
            (_, _, Some(parent)) => changes.get(parent).cloned(),
            _ => None,
        };
        has_some |= of_input.is_some();
        all.push(of_input.unwrap_or_default());
    }
    Ok(if has_some { What::Changed(all) } else { What::Nothing })
}

/// The rows that a model was not handed before, with their keys if it needs these.
fn wanted(
    input: &KeptBy,
    takes_keys: bool,
    stream: &str,
    rows: &RecordBatch,
    places: &RecordBatch,
) -> Result<RecordBatch, Error> {
    let keyed = match takes_keys {
        true => Some(with_key(rows, Arc::new(place_keys(places)?))?),
        false => None,
    };
    let rows = keyed.as_ref().unwrap_or(rows);
    let partitions = column(places, PARTITION)?.as_primitive::<Int32Type>().values();
    let offsets = column(places, OFFSET)?.as_primitive::<Int64Type>().values();
    let at: BTreeMap<i32, Option<Offset>> = {
        let numbers: BTreeSet<i32> = partitions.iter().copied().collect();
        let at = |number| input.taken(stream, Partition::try_from(number).unwrap_or_default());
        numbers.into_iter().map(|number| (number, at(number))).collect()
    };
    let is_new = |(partition, offset): (&i32, &Offset)| {
        at.get(partition).copied().flatten().is_none_or(|at| *offset > at)
    };
    if partitions.iter().zip(offsets).all(is_new) {
        return Ok(rows.clone());
    }
    let wanted: BooleanArray =
        partitions.iter().zip(offsets).map(|row| Some(is_new(row))).collect();
    Ok(filter_record_batch(rows, &wanted)?)
}
