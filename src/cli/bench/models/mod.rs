//! `sluice bench models`: what the ways of keeping a model cost, without log, lake and server: rows
//! per CPU-second, and the cost of one change as the table grows, beside computing it whole.
#![allow(clippy::print_stdout)]

mod by_key;
mod programs;
mod rows;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use datafusion::{
    catalog::MemTable,
    prelude::{SessionConfig, SessionContext},
};
use rand::{SeedableRng as _, rngs::StdRng};

use self::{
    by_key::ByKey,
    programs::Programs,
    rows::{Keyed, added, batch, schema, streamed},
};
use super::usage;
use crate::{
    cli::Failure,
    domain::change::Change,
    models::{KeptState, ProgramError},
};

#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
append: projects and filters 3 columns. keyed: the newest row per key, where every row is newer.
lookup: a dimension with so many keys joined to each row. aggregate: count and sum per key. Rows
have random keys that are there already, and so have the 10,000 of a change. Short runs are
repeated for a second of CPU. by key: least, most and distinct values per key; its rows are
those of the first fill, of an empty table. whole: the SQL of the model over all rows, on one
core. clients/python/bench/models.py tells what DuckDB takes for the same.")]
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

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::work(error.to_string())
}

/// Runs the benchmark and prints what it found.
pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let folder = tempfile::tempdir().map_err(failed)?;
    let programs = Programs::compile(folder.path())?;
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
    for groups in args.groups.iter().map(|groups| (*groups).max(1)) {
        let Grouped { rate, change, whole } = grouped(&args, &programs, groups).await?;
        show("aggregate", groups, rate, change, whole);
    }
    for groups in args.groups.iter().map(|groups| (*groups).max(1)) {
        if groups > by_key::GROUPS_MAX {
            println!("by key     {groups:>8} not measured: the table's rows are held in memory");
            continue;
        }
        let ByKey { rows, fill, change, whole } = by_key::measure(&args, &programs, groups).await?;
        show("by key", groups, usage::rate(rows, fill), change, whole);
    }
    if let Some(peak) = usage::peak_mib() {
        println!("peak memory: {peak} MiB");
    }
    Ok(())
}

fn show(class: &str, groups: u64, rate: f64, change: Duration, whole: Duration) {
    let millis = |time: Duration| time.as_secs_f64() * 1e3;
    println!(
        "{class:<10} {groups:>8} {rate:>11.0} {:>30.2} {:>9.1} {:>13.1}",
        millis(change),
        millis(whole),
        millis(whole) / millis(change).max(1e-3)
    );
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
    let mut keyed = Keyed::default();
    let mut next = |count| {
        let rows = keyed.next(&batch(count, keys, None, &mut random))?;
        Ok::<Change, Failure>(added(&rows))
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
    Ok(Grouped { rate, change, whole: whole(&programs.totals_sql, all, groups).await? })
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

/// CPU of a model's SQL over all rows, on one core; it gives a row for each of the `groups`.
async fn whole(sql: &str, rows: Vec<RecordBatch>, groups: u64) -> Result<Duration, Failure> {
    let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(1));
    let table = MemTable::try_new(schema(), vec![rows]).map_err(failed)?;
    context.register_table("rows", Arc::new(table)).map_err(failed)?;
    let (started, mut runs) = (Watch::start(), 0);
    while started.took() < ENOUGH {
        let asked = context.sql(sql).await;
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
        let programs = Programs::compile(folder.path()).expect("programs");
        let args = Args { rows: 10_000, groups: vec![100] };
        assert!(appended(&args, &programs).expect("append") > 0.0);
        let found = grouped(&args, &programs, 100).await.expect("aggregate");
        assert!(found.rate > 0.0);
        assert!(keyed(&args, &programs, 100).expect("keyed").0 > 0.0);
        assert!(looked_up(&args, &programs, 100).expect("lookup").0 > 0.0);
        let found = by_key::measure(&args, &programs, 100).await.expect("by key");
        assert_eq!(found.rows, 10_000);
        assert!(found.fill > Duration::ZERO && found.whole > Duration::ZERO);
        let other = Args { rows: 100, groups: vec![1_000] };
        let found = by_key::measure(&other, &programs, 1_000).await.expect("a row per key");
        assert_eq!(found.rows, 1_000);
        grouped(&other, &programs, 1_000).await.expect("more groups than rows");
    }
}
