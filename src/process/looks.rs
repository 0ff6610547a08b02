//! Models that have to look at more than the rows that came.
//!
//! Lookups whose sides changed: what became of the driving rows that meet a changed row is made
//! again, with the side as it was and as it is. Models by key: the SQL is run over the input's rows
//! under the keys that were touched.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
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
    lake::{LakeView, Overlay, TableState, reason_of},
    models::Applied,
    process::{
        Error, Planned,
        derived::Derived,
        driving::{Driving, computed, computed_of},
        kept::{Kept, KeptBy},
        metrics::{self, Stage},
        missed::rows_at,
        pipeline::Pipeline,
    },
};

impl Pipeline {
    /// Looks at the sides of every lookup, parents first, and hands on what that changes; not again
    /// at once where it took long, unless it is `needed`. Whether something changed.
    pub(super) async fn look_again(&mut self, needed: bool) -> Result<bool, Error> {
        let started = Instant::now();
        let has_some = self.derived.iter().any(|d| d.kept.as_ref().is_some_and(Kept::has_looks));
        if !has_some || (!needed && started < self.next_look) {
            return Ok(false);
        }
        let (mut has_looked, mut generations) = (false, self.generations());
        for number in 0..self.derived.len() {
            let Some(kept) = self.derived[number].kept.as_ref() else { continue };
            if !kept.has_looks() || !kept.is_following() {
                continue;
            }
            let (unseen, positions) = (kept.unseen_sides(&generations), self.of_sides(number));
            let before = self.derived[number].positions.clone();
            let change = match unseen {
                Some(basis) => {
                    has_looked = true;
                    self.look_at(number, basis, &positions).await?
                }
                None => {
                    self.derived[number].pass(&positions);
                    Change::default()
                }
            };
            let derived = &self.derived[number];
            if !change.is_empty() || derived.positions != before {
                let of = (change, derived.positions.clone());
                let changes = BTreeMap::from([(derived.info.name.clone(), of)]);
                self.hand_on(None, changes)?;
                generations = self.generations();
            }
        }
        if has_looked {
            metrics::stage(Stage::Looks, started.elapsed());
            self.next_look = Instant::now() + self.pause_after(started.elapsed());
        }
        Ok(has_looked)
    }

    /// Looks at the sides of one lookup, which are of generations `basis` and reach `positions`.
    /// Returns what that makes of its rows.
    async fn look_at(
        &mut self,
        number: usize,
        basis: BTreeMap<TableName, u64>,
        positions: &Positions,
    ) -> Result<Change, Error> {
        let view = Arc::new(self.build_view());
        let planned = Arc::clone(&self.deps.planned);
        let looked = redriven(&view, &planned, &mut self.derived[number], &basis).await;
        let now = self.deps.clock.now_us();
        let change = self.derived[number].looked(looked, basis, positions, now)?;
        self.report_models();
        Ok(change)
    }

    /// How far a lookup's sides reach, into the streams that do not drive it.
    fn of_sides(&self, number: usize) -> Positions {
        let derived = &self.derived[number];
        let (Some(plan), Some(kept)) = (&derived.plan, &derived.kept) else {
            return Positions::default();
        };
        let tables: BTreeSet<&TableName> = kept.sides().iter().flat_map(|s| &s.tables).collect();
        let driving: BTreeSet<&String> = kept.inputs.iter().flat_map(|i| &i.streams).collect();
        let mut reached = Positions::default();
        for stream in plan.streams.iter().filter(|stream| !driving.contains(stream)) {
            let sides = self.derived.iter().filter(|side| tables.contains(&side.info.name));
            let fed = sides.filter(|side| {
                side.plan.as_ref().is_some_and(|plan| plan.streams.contains(stream))
            });
            let all = fed.map(|side| side.positions.only(std::slice::from_ref(stream)));
            reached.merge(&all.reduce(|a, b| a.meet(&b)).unwrap_or_default());
        }
        reached
    }

    /// What the sides of a lookup held when its table was made, if it was.
    pub(super) async fn recalled_sides(
        &mut self,
        number: usize,
    ) -> Result<Option<Vec<Vec<RecordBatch>>>, Error> {
        let mut view = self.build_view();
        let derived = &self.derived[number];
        let kept = derived.kept.as_ref().filter(|_| derived.table.is_published());
        let sides = kept.map_or(&[][..], Kept::sides);
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

/// What has to change in a lookup's table, now that its sides are those of `view`.
async fn redriven(
    view: &Arc<LakeView>,
    planned: &Planned,
    derived: &mut Derived,
    basis: &BTreeMap<TableName, u64>,
) -> Result<Vec<Applied>, String> {
    let Some(kept) = &mut derived.kept else { return Ok(Vec::new()) };
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
    let mut redrive = |rows: &RecordBatch| {
        applied.extend(kept.redrive(rows).map_err(|error| error.reason())?);
        Ok::<(), String>(())
    };
    let ([input], [waiting]) = (kept.inputs.as_slice(), kept.waiting()) else {
        return Err("a lookup has several inputs".to_owned());
    };
    // What waits is not in the table, and what it takes out still is.
    let waits = keys_of(&waiting.added).map_err(|error| error.to_string())?;
    let scan = Driving::of(planned, &input.input).map_err(|error| error.to_string())?;
    let mut rows = scan.rows(view).await.map_err(told)?;
    while let Some(batch) = rows.try_next().await.map_err(told)? {
        let batch = scan.keyed(&batch).and_then(|(rows, places)| {
            let rows = taken(input, rows, places)?;
            without(&rows, &waits)
        });
        redrive(&batch.map_err(|error| error.to_string())?)?;
    }
    waiting.removed.iter().try_for_each(redrive)?;
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

impl Derived {
    /// Its sides reach `positions`, and hold what they held.
    fn pass(&mut self, positions: &Positions) {
        if let Some(kept) = &mut self.kept {
            kept.pass(positions);
            self.positions = kept.reached().clone();
        }
    }

    /// Takes over what a look at the sides gave, in which these are of the generations `basis` and
    /// reach `positions`. Returns what that makes of its rows.
    fn looked(
        &mut self,
        looked: Result<Vec<Applied>, String>,
        basis: BTreeMap<TableName, u64>,
        positions: &Positions,
        now_us: i64,
    ) -> Result<Change, Error> {
        let Some(kept) = &mut self.kept else { return Ok(Change::default()) };
        let applied = match looked {
            Ok(applied) => applied,
            Err(error) => {
                kept.could_not_look();
                if self.failure.as_ref() != Some(&error) {
                    tracing::error!(table = %self.info.name, error, "model failed");
                }
                self.failure = Some(error);
                return Ok(Change::default());
            }
        };
        let mut change = kept.looked(applied, basis, positions, &mut self.generation)?;
        self.positions = kept.reached().clone();
        // What could not be computed with the sides of before.
        change.extend(self.take(Vec::new(), now_us).unwrap_or_default());
        Ok(change)
    }
}
