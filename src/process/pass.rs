//! A look of models at more than the rows that came, beside the loop.
//!
//! Lookups whose sides changed: what became of the driving rows that meet a changed row is made
//! again, with the side as it was and as it is. Models by key: the SQL is run over the input's rows
//! under the keys that were touched. All over one pinned view, in which what models make is shown to
//! those after them; what comes meanwhile is taken in afterwards.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use arrow::{
    array::{AsArray as _, BinaryArray, BooleanArray, RecordBatch},
    compute::filter_record_batch,
    datatypes::{Int32Type, Int64Type},
};
use datafusion::error::DataFusionError;
use futures::TryStreamExt as _;
use tokio::time::Instant;

use crate::{
    domain::{Partition, Positions, TableName, change::Change},
    lake::{LakeView, Overlay, Patches, TableState, reason_of},
    models::{Applied, Plan},
    process::{
        Error, Planned,
        derived::Mark,
        driving::{Driving, computed, computed_of},
        feed::{Changes, What, handed},
        kept::{Kept, KeptBy, Standing},
    },
};

/// A model whose state is away.
pub(super) struct Member {
    /// Which of the tables it is.
    pub number: usize,
    pub plan: Arc<Plan>,
    pub kept: Kept,
    pub at: Standing,
    /// What queries saw of it when it left.
    pub shown: Patches,
}

/// Models that are looked at together: with each of them those that read it.
pub(super) struct Pass {
    pub view: Arc<LakeView>,
    /// Parents first.
    pub members: Vec<Member>,
    /// Of all tables, as `view` shows them.
    pub generations: Mark,
    pub planned: Arc<Planned>,
    pub now_us: i64,
}

/// What a look came to.
pub(super) struct Looked {
    pub members: Vec<Member>,
    /// What became of these, in the order in which it did.
    pub changes: Vec<Changes>,
    /// What they show with all else that it rests on.
    pub view: Arc<LakeView>,
    /// Of all tables, as `view` shows them.
    pub generations: Mark,
    pub took: Duration,
}

impl Pass {
    pub(super) async fn run(mut self) -> Result<Looked, Error> {
        let (started, mut all_changes) = (Instant::now(), Vec::new());
        for number in 0..self.members.len() {
            let Member { kept, at, .. } = &self.members[number];
            if !kept.has_looks() || !kept.is_following() {
                continue;
            }
            let before = at.positions.clone();
            let change = self.look(number).await;
            let Member { at, plan, .. } = &self.members[number];
            if !change.is_empty() || at.positions != before {
                let (name, of) = (plan.model.name.clone(), (change, at.positions.clone()));
                self.show(number);
                all_changes.push(self.hand_on(BTreeMap::from([(name, of)]))?);
            }
        }
        let Self { members, view, generations, .. } = self;
        let (changes, took) = (all_changes, started.elapsed());
        Ok(Looked { members, changes, view, generations, took })
    }

    /// Looks at the sides of one model. Returns what that makes of its rows.
    async fn look(&mut self, number: usize) -> Change {
        let Self { view, members, generations, planned, now_us } = self;
        let Member { plan, kept, at, .. } = &mut members[number];
        let name = &plan.model.name;
        let positions = of_sides(plan, kept, |name| {
            let side = view.tables.get(name)?;
            Some((side.streams.as_slice(), &side.positions))
        });
        let Some(basis) = kept.unseen_sides(generations) else {
            kept.pass_to(at, &positions);
            return Change::default();
        };
        let looked = redriven(view, planned, kept, &basis).await;
        kept.look_at(name, at, looked, (basis, &positions), *now_us)
    }

    /// Hands what became of a table to those that read it, parents first. Returns what became of all.
    fn hand_on(&mut self, mut changes: Changes) -> Result<Changes, Error> {
        for number in 0..self.members.len() {
            let Member { plan, kept, at, .. } = &mut self.members[number];
            let takes_keys = kept.takes_keys();
            if let What::Changed(handed) = handed(&kept.inputs, takes_keys, None, &changes)? {
                let name = &plan.model.name;
                if let Some(change) = kept.follow(name, at, handed, self.now_us) {
                    changes.insert(name.clone(), (change, at.positions.clone()));
                }
                self.show(number);
            }
        }
        Ok(changes)
    }

    /// Shows a table as it is now.
    fn show(&mut self, number: usize) {
        let Member { plan, kept, at, shown, .. } = &self.members[number];
        let name = &plan.model.name;
        self.generations.insert(name.clone(), at.generation);
        let Some(state) = self.view.tables.get(name) else { return };
        let mut state = TableState::clone(state);
        state.positions.clone_from(&at.positions);
        let patches = shown.with(kept.steps().iter().map(|step| Arc::clone(&step.patch)));
        if !patches.is_empty() {
            state.overlay = Overlay::Patches(patches);
        }
        let mut view = LakeView::clone(&self.view);
        view.tables.insert(name.clone(), Arc::new(state));
        self.view = Arc::new(view);
    }
}

/// How far a model's sides reach, into the streams that do not drive it. `known`: the streams that
/// feed a table, and how far it reaches.
pub(super) fn of_sides<'a>(
    plan: &Plan,
    kept: &Kept,
    known: impl Fn(&TableName) -> Option<(&'a [String], &'a Positions)>,
) -> Positions {
    let tables: BTreeSet<&TableName> = kept.sides().iter().flat_map(|s| &s.tables).collect();
    let driving: BTreeSet<&String> = kept.inputs.iter().flat_map(|i| &i.streams).collect();
    let mut reached = Positions::default();
    for stream in plan.streams.iter().filter(|stream| !driving.contains(stream)) {
        let sides = tables.iter().filter_map(|name| known(name));
        let fed = sides.filter(|(streams, _)| streams.contains(stream));
        let all = fed.map(|(_, positions)| positions.only(std::slice::from_ref(stream)));
        reached.merge(&all.reduce(|a, b| a.meet(&b)).unwrap_or_default());
    }
    reached
}

/// What has to change in a lookup's table, now that its sides are those of `view`.
async fn redriven(
    view: &Arc<LakeView>,
    planned: &Planned,
    kept: &mut Kept,
    basis: &BTreeMap<TableName, u64>,
) -> Result<Vec<Applied>, String> {
    let told = |error: DataFusionError| reason_of(&error);
    let is_by_key = kept.by_key().is_some();
    let differs = if is_by_key && kept.has_seen(basis) {
        false
    } else {
        let sides = computed(view, kept.sides()).await.map_err(told)?;
        kept.look(&sides).map_err(|error| error.reason())?
    };
    if is_by_key {
        return rerun(view, planned, kept).await;
    }
    if !differs {
        return Ok(Vec::new());
    }
    let mut applied = Vec::new();
    let mut redrive = |number: usize, rows: &RecordBatch| {
        applied.extend(kept.redrive(number, rows).map_err(|error| error.reason())?);
        Ok::<(), String>(())
    };
    for (number, (input, waiting)) in kept.inputs.iter().zip(kept.waiting()).enumerate() {
        // What waits is not in the table, and what it takes out still is.
        let waits = keys_of(&waiting.added).map_err(|error| error.to_string())?;
        let scan = Driving::of(planned, &input.input).map_err(|error| error.to_string())?;
        let mut rows = scan.rows(view).await.map_err(told)?;
        while let Some(batch) = rows.try_next().await.map_err(told)? {
            let batch = scan.keyed(&batch).and_then(|(rows, places)| {
                let rows = taken(input, rows, places)?;
                without(&rows, &waits)
            });
            redrive(number, &batch.map_err(|error| error.to_string())?)?;
        }
        waiting.removed.iter().try_for_each(|rows| redrive(number, rows))?;
    }
    kept.redriven(applied).map_err(|error| error.reason())
}

/// What has to change in the table of a model by key, now that some keys were touched.
async fn rerun(
    view: &Arc<LakeView>,
    planned: &Planned,
    kept: &mut Kept,
) -> Result<Vec<Applied>, String> {
    if !kept.is_touched() {
        return Ok(Vec::new());
    }
    let told = |error: DataFusionError| reason_of(&error);
    let scans = kept.inputs.iter().map(|input| Driving::of(planned, &input.input));
    let scans = scans.collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())?;
    let mut touched = Vec::new();
    for (input, scan) in scans.iter().enumerate() {
        let rows = match kept.touched_rows(input).map_err(|error| error.reason())? {
            Some(rows) => vec![rows],
            None => read(view, scan, kept, input).await?,
        };
        touched.push((scan, rows));
    }
    let Some(plan) = kept.by_key() else { return Ok(Vec::new()) };
    let rows = computed_of(view, plan, &touched).await.map_err(told)?;
    kept.rerun(&rows).map_err(|error| error.reason())
}

/// The rows of an input that are under touched keys, looked for among all.
async fn read(
    view: &Arc<LakeView>,
    scan: &Driving,
    kept: &mut Kept,
    input: usize,
) -> Result<Vec<RecordBatch>, String> {
    let told = |error: DataFusionError| reason_of(&error);
    let mut touched = Vec::new();
    let mut rows = scan.rows(view).await.map_err(told)?;
    while let Some(batch) = rows.try_next().await.map_err(told)? {
        let of = &kept.inputs[input];
        let keyed = scan.keyed(&batch).and_then(|(rows, places)| taken(of, rows, places));
        let rows = keyed.map_err(|error| error.to_string())?;
        let rows = kept.read(input, &rows).map_err(|error| error.reason())?;
        touched.extend((rows.num_rows() > 0).then_some(rows));
    }
    kept.all_read(input);
    Ok(touched)
}

/// Those of the rows of an input that its model was handed.
fn taken(
    input: &KeptBy,
    rows: RecordBatch,
    places: Option<RecordBatch>,
) -> Result<RecordBatch, Error> {
    let (Some(places), Some(stream)) = (places, &input.driven_by) else { return Ok(rows) };
    let partitions = places.column(0).as_primitive::<Int32Type>();
    let offsets = places.column(1).as_primitive::<Int64Type>();
    let taken = partitions.values().iter().zip(offsets.values()).map(|(partition, offset)| {
        let partition = Partition::try_from(*partition).unwrap_or_default();
        Some(input.taken(stream, partition).is_some_and(|at| *offset <= at))
    });
    Ok(filter_record_batch(&rows, &taken.collect::<BooleanArray>())?)
}

fn keys_of(batches: &[RecordBatch]) -> Result<BTreeSet<Vec<u8>>, Error> {
    let mut all = BTreeSet::new();
    for rows in batches {
        all.extend(key(rows)?.iter().flatten().map(<[u8]>::to_vec));
    }
    Ok(all)
}

fn without(rows: &RecordBatch, keys: &BTreeSet<Vec<u8>>) -> Result<RecordBatch, Error> {
    if keys.is_empty() {
        return Ok(rows.clone());
    }
    let stays = key(rows)?.iter().map(|key| Some(key.is_none_or(|key| !keys.contains(key))));
    Ok(filter_record_batch(rows, &stays.collect::<BooleanArray>())?)
}

fn key(rows: &RecordBatch) -> Result<&BinaryArray, Error> {
    let last = rows.columns().last().and_then(|column| column.as_binary_opt::<i32>());
    last.ok_or_else(|| Error::Internal("a lookup's rows have no keys".to_owned()))
}
