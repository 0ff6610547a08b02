//! `sluice bench models`: what the ways of keeping a model cost, without log, lake and server: rows
//! per CPU-second, and the cost of one change as the table grows, beside computing it whole.
#![allow(clippy::print_stdout)]

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use arrow::{
    array::{
        ArrayRef, BinaryArray, Int32Array, Int64Array, RecordBatch, StringArray, new_null_array,
    },
    datatypes::{DataType, Field, Schema, SchemaRef},
};
use datafusion::{
    catalog::MemTable,
    prelude::{SessionConfig, SessionContext},
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::usage;
use crate::{
    bronze::accepted_schema,
    cli::{Failure, check},
    domain::change::Change,
    models::{KeptProgram, KeptState, Program, ProgramError, RowProgram, with_key},
};

#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
append: projects and filters 3 columns. keyed: the newest row per key, where every row is newer. lookup:
a dimension with so many keys joined to each row. aggregate: count and sum per key. Rows have random
keys that are there already, and so have the 10,000 of a change. Short runs are repeated for a second
of CPU. whole: the SQL of the aggregate over all rows, on one core.")]
pub struct Args {
    /// Rows that are put through
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub rows: u64,
    /// Numbers of groups
    #[arg(long, value_delimiter = ',', default_value = "1000,10000,100000,1000000,10000000")]
    pub groups: Vec<u64>,
}

const BATCH: u64 = 8_192;
const CHANGE: u64 = 10_000;
/// Different changes, put through one after the other.
const CHANGES: usize = 20;
/// What is measured is repeated for so much CPU, which Linux counts in steps of 10 ms.
const ENOUGH: Duration = Duration::from_millis(1_000);

const FILES: [(&str, &str); 7] = [
    ("sluice.yml", "name: bench\n"),
    (
        "streams/events.yml",
        "name: events\nfields:\n  - {name: k, type: int}\n  - {name: v, type: int}\n",
    ),
    (
        "models/silver/rows.sql",
        "SELECT k, v, 2 * v AS w FROM {{ source('bronze', 'events') }} WHERE v >= 100\n",
    ),
    (
        "models/gold/totals.sql",
        "SELECT k, count(*) AS n, sum(v) AS s FROM {{ ref('rows') }} GROUP BY k\n",
    ),
    KEYED,
    ("seeds/names.csv", "k,name\n1,one\n"),
    (
        "models/gold/named.sql",
        "SELECT r.k, r.v, n.name FROM {{ ref('rows') }} AS r LEFT JOIN {{ ref('names') }} AS n \
         ON n.k = r.k\n",
    ),
];

const KEYED: (&str, &str) = (
    "models/silver/latest.sql",
    "SELECT k, v FROM (SELECT k, v, row_number() OVER (PARTITION BY k ORDER BY _ts DESC, \
     _partition, _offset DESC, _index) AS place FROM {{ source('bronze', 'events') }}) AS ranked \
     WHERE place = 1\n",
);

struct Programs {
    rows: Arc<RowProgram>,
    latest: Arc<dyn KeptProgram>,
    /// The columns of the stream.
    accepted: SchemaRef,
    totals: Arc<dyn KeptProgram>,
    named: Arc<dyn KeptProgram>,
}

/// The compiled models of a project in `folder`.
fn programs(folder: &Path) -> Result<Programs, Failure> {
    let failed = |e: std::io::Error| Failure::unavailable(format!("write a project: {e}"));
    for (name, text) in FILES {
        let path = folder.join(name);
        path.parent().map_or(Ok(()), std::fs::create_dir_all).map_err(failed)?;
        std::fs::write(&path, text).map_err(failed)?;
    }
    let planned = check::load(folder)?;
    let program = |name: &str| {
        let plan = planned.plans.iter().find(|plan| plan.model.name.name == name);
        plan.map_or(&Program::None, |plan| &plan.program)
    };
    let accepted = planned.judges.iter().map(|judge| accepted_schema(judge.contract())).next();
    let kept = |name: &str| match program(name) {
        Program::Kept(kept) => Some(Arc::clone(kept)),
        Program::None | Program::Rows(_) => None,
    };
    let other = || Failure::work("the models are kept in other ways than those that are measured");
    let Program::Rows(rows) = program("rows") else { return Err(other()) };
    Ok(Programs {
        rows: Arc::clone(rows),
        latest: kept("latest").ok_or_else(other)?,
        accepted: accepted.ok_or_else(other)?,
        totals: kept("totals").ok_or_else(other)?,
        named: kept("named").ok_or_else(other)?,
    })
}

/// CPU, or wall time where that is not known.
struct Watch(Option<Duration>, Instant);

impl Watch {
    fn start() -> Self {
        Self(usage::cpu(), Instant::now())
    }

    fn took(&self) -> Duration {
        usage::since(self.0).unwrap_or_else(|| self.1.elapsed())
    }
}

/// `count` rows with keys below `groups`: each in turn, or random.
fn batch(count: u64, groups: u64, first: Option<u64>, random: &mut StdRng) -> RecordBatch {
    let most = i64::try_from(groups).unwrap_or(i64::MAX);
    let key = |at: u64| i64::try_from(at % groups).unwrap_or_default();
    let keys: Int64Array = (0..count)
        .map(|at| Some(first.map_or_else(|| random.random_range(0..most), |first| key(first + at))))
        .collect();
    let values: Int64Array = (0..count).map(|_| Some(random.random_range(0..1_000))).collect();
    let widths: Int64Array = values.unary(|v| 2 * v);
    let columns: Vec<ArrayRef> = vec![Arc::new(keys), Arc::new(values), Arc::new(widths)];
    RecordBatch::try_new(schema(), columns).unwrap_or_else(|_| RecordBatch::new_empty(schema()))
}

fn schema() -> SchemaRef {
    let field = |name| Field::new(name, DataType::Int64, true);
    Arc::new(Schema::new(vec![field("k"), field("v"), field("w")]))
}

/// The same as rows of the stream, with a place each.
fn streamed(rows: &RecordBatch, schema: &SchemaRef, first: u64) -> RecordBatch {
    let count = rows.num_rows();
    let columns = schema.fields().iter().map(|field| -> ArrayRef {
        let offsets = || (first..).take(count).map(|at| i64::try_from(at).unwrap_or(i64::MAX));
        match field.name().as_str() {
            "k" | "v" => Arc::clone(&rows[field.name().as_str()]),
            "_offset" => Arc::new(Int64Array::from_iter_values(offsets())),
            "_partition" | "_index" => Arc::new(Int32Array::from(vec![0; count])),
            _ => new_null_array(field.data_type(), count),
        }
    });
    let columns = columns.collect();
    RecordBatch::try_new(Arc::clone(schema), columns)
        .unwrap_or_else(|_| RecordBatch::new_empty(Arc::clone(schema)))
}

fn added(rows: &RecordBatch) -> Change {
    Change { added: vec![rows.clone()], removed: Vec::new() }
}

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::work(error.to_string())
}

/// Runs the benchmark and prints what it found.
pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let folder = tempfile::tempdir().map_err(failed)?;
    let programs = programs(folder.path())?;
    println!("bench models: {} rows, {}", args.rows, usage::build());
    println!("append     {:>12.0} rows per CPU-second", appended(&args, &programs)?);
    println!(
        "             groups  rows/CPU-s  ms CPU per change of {CHANGE}  whole ms  whole/change"
    );
    for keys in args.groups.iter().map(|groups| (*groups).max(1)) {
        let (rate, change) = keyed(&args, &programs, keys)?;
        let millis = change.as_secs_f64() * 1e3;
        println!("keyed      {keys:>8} {rate:>11.0} {millis:>30.2}");
    }
    for keys in args.groups.iter().map(|groups| (*groups).max(1)) {
        let (rate, change) = looked_up(&args, &programs, keys)?;
        let millis = change.as_secs_f64() * 1e3;
        println!("lookup     {keys:>8} {rate:>11.0} {millis:>30.2}");
    }
    for groups in &args.groups {
        let Grouped { rate, change, whole } = grouped(&args, &programs, (*groups).max(1)).await?;
        let millis = |time: Duration| time.as_secs_f64() * 1e3;
        println!(
            "aggregate  {groups:>8} {rate:>11.0} {:>30.2} {:>9.1} {:>13.0}",
            millis(change),
            millis(whole),
            millis(whole) / millis(change).max(1e-3)
        );
    }
    if let Some(peak) = usage::peak_mib() {
        println!("peak memory: {peak} MiB");
    }
    Ok(())
}

fn appended(args: &Args, programs: &Programs) -> Result<f64, Failure> {
    let mut random = StdRng::seed_from_u64(1);
    // As models read a stream: its fields, and places that they do not use.
    let rows = batch(BATCH, 1_000, None, &mut random);
    let (mut taken, mut made) = (0, 0);
    let started = Watch::start();
    while taken < args.rows || started.took() < ENOUGH {
        for _ in 0..100 {
            let (out, _) = programs.rows.run(&rows, &rows).map_err(failed)?;
            (taken, made) = (taken + BATCH, made + out.num_rows());
        }
    }
    let took = started.took();
    if made == 0 {
        return Err(Failure::work("nothing came out of the row-wise model"));
    }
    Ok(usage::rate(taken, took))
}

/// Rows per CPU-second, and the CPU of one change, with so many keys.
fn keyed(args: &Args, programs: &Programs, keys: u64) -> Result<(f64, Duration), Failure> {
    let mut random = StdRng::seed_from_u64(keys);
    let mut state = Arc::clone(&programs.latest).begin().map_err(failed)?;
    let mut at = 0;
    let mut next = |count, first, random: &mut StdRng| {
        let rows = batch(count, keys, first, random);
        at += count;
        added(&streamed(&rows, &programs.accepted, at - count))
    };
    let mut filled = 0;
    while filled < keys {
        let count = BATCH.min(keys - filled);
        state.apply(&next(count, Some(filled), &mut random), false).map_err(failed)?;
        filled += count;
    }
    let batches = args.rows.div_ceil(BATCH);
    let batches: Vec<Change> = (0..batches).map(|_| next(BATCH, None, &mut random)).collect();
    let mut once = |changes: &[Change]| {
        let started = Watch::start();
        changes.iter().try_for_each(|change| state.apply(change, false).map(|_| ()))?;
        Ok(started.took())
    };
    let took = once(&batches).map_err(|e: ProgramError| failed(e))?;
    let changes: Vec<Change> = (0..CHANGES).map(|_| next(CHANGE, None, &mut random)).collect();
    let changing = once(&changes).map_err(|e: ProgramError| failed(e))?;
    let changes = u32::try_from(CHANGES).unwrap_or(u32::MAX);
    Ok((usage::rate(batches.len() as u64 * BATCH, took), changing / changes))
}

/// Rows per CPU-second, and the CPU of one change, with so many keys in the dimension.
fn looked_up(args: &Args, programs: &Programs, keys: u64) -> Result<(f64, Duration), Failure> {
    let mut random = StdRng::seed_from_u64(keys);
    let mut state = Arc::clone(&programs.named).begin().map_err(failed)?;
    let numbers = (0..keys).map(|key| i64::try_from(key).unwrap_or(i64::MAX));
    let names = (0..keys).map(|key| format!("name {key}"));
    let dimension = RecordBatch::try_from_iter([
        ("k", Arc::new(Int64Array::from_iter_values(numbers)) as ArrayRef),
        ("name", Arc::new(StringArray::from_iter_values(names))),
    ]);
    state.look(&[vec![dimension.map_err(failed)?]]).map_err(failed)?;
    state.looked();
    let mut nth = 0_u64;
    let mut next = |count| {
        let rows = batch(count, keys, None, &mut random);
        let places = (nth..nth + count).map(u64::to_be_bytes);
        let places = BinaryArray::from_iter_values(places);
        nth += count;
        with_key(&rows, Arc::new(places)).map(|rows| added(&rows)).map_err(failed)
    };
    let batches = (0..args.rows.div_ceil(BATCH)).map(|_| next(BATCH));
    let batches = batches.collect::<Result<Vec<_>, _>>()?;
    let (rows, took) = repeated(state.as_mut(), &batches, BATCH)?;
    let rate = usage::rate(rows, took);
    let changes = (0..CHANGES).map(|_| next(CHANGE)).collect::<Result<Vec<_>, _>>()?;
    let (rows, took) = repeated(state.as_mut(), &changes, CHANGE)?;
    Ok((rate, took / u32::try_from(rows / CHANGE).unwrap_or(u32::MAX)))
}

struct Grouped {
    /// Rows per CPU-second, groups known.
    rate: f64,
    /// CPU of one change.
    change: Duration,
    /// CPU of the SQL over everything.
    whole: Duration,
}

async fn grouped(args: &Args, programs: &Programs, groups: u64) -> Result<Grouped, Failure> {
    let mut random = StdRng::seed_from_u64(groups);
    let mut state = Arc::clone(&programs.totals).begin().map_err(failed)?;
    let mut all = Vec::new();
    let mut first = 0;
    while first < groups.max(args.rows) {
        let count = BATCH.min(groups.max(args.rows) - first);
        let rows = batch(count, groups, Some(first), &mut random);
        if first < groups {
            state.apply(&added(&rows), false).map_err(failed)?;
        }
        all.push(rows);
        first += count;
    }
    let batches: Vec<Change> = (0..args.rows.div_ceil(BATCH))
        .map(|_| added(&batch(BATCH, groups, None, &mut random)))
        .collect();
    let (rows, took) = repeated(state.as_mut(), &batches, BATCH)?;
    let rate = usage::rate(rows, took);
    drop(batches);
    let changes: Vec<Change> =
        (0..CHANGES).map(|_| added(&batch(CHANGE, groups, None, &mut random))).collect();
    let (rows, took) = repeated(state.as_mut(), &changes, CHANGE)?;
    let change = took / u32::try_from(rows / CHANGE).unwrap_or(u32::MAX);
    if state.count() as u64 != groups {
        return Err(Failure::work(format!("{} groups instead of {groups}", state.count())));
    }
    drop(state);
    Ok(Grouped { rate, change, whole: whole(all, groups).await? })
}

/// Puts changes of `size` rows through, again and again. How many rows, and their CPU.
fn repeated(
    state: &mut dyn KeptState,
    changes: &[Change],
    size: u64,
) -> Result<(u64, Duration), Failure> {
    let mut rows = 0;
    let started = Watch::start();
    while started.took() < ENOUGH {
        for change in changes {
            state.apply(change, false).map_err(failed)?;
            rows += size;
        }
    }
    Ok((rows, started.took()))
}

/// CPU of the SQL over all rows, on one core.
async fn whole(rows: Vec<RecordBatch>, groups: u64) -> Result<Duration, Failure> {
    let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(1));
    let table = MemTable::try_new(schema(), vec![rows]).map_err(failed)?;
    context.register_table("rows", Arc::new(table)).map_err(failed)?;
    let (started, mut runs) = (Watch::start(), 0);
    while started.took() < ENOUGH {
        let asked = context.sql("SELECT k, count(*) AS n, sum(v) AS s FROM rows GROUP BY k").await;
        let found = asked.map_err(failed)?.collect().await.map_err(failed)?;
        let found: u64 = found.iter().map(|batch| batch.num_rows() as u64).sum();
        if found != groups {
            return Err(Failure::work(format!("{found} groups instead of {groups}")));
        }
        runs += 1;
    }
    Ok(started.took() / runs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_way_is_measured() {
        let folder = tempfile::tempdir().expect("folder");
        let programs = programs(folder.path()).expect("programs");
        let args = Args { rows: 10_000, groups: vec![100] };
        assert!(appended(&args, &programs).expect("append") > 0.0);
        let found = grouped(&args, &programs, 100).await.expect("aggregate");
        assert!(found.rate > 0.0);
        assert!(keyed(&args, &programs, 100).expect("keyed").0 > 0.0);
        assert!(looked_up(&args, &programs, 100).expect("lookup").0 > 0.0);
        let other = Args { rows: 100, groups: vec![1_000] };
        grouped(&other, &programs, 1_000).await.expect("more groups than rows");
    }
}
