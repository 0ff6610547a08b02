//! `sluice plan`: the order of a project's models, how each is kept and why, and what an update
//! costs.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use clap::ValueEnum;
use serde::Serialize;

use crate::{
    cli::{Failure, LakeFlags, chain, check, print},
    domain::TableName,
    lake::Lake,
    models::{Class, Plan},
    process::{self, ColumnChange, Planned, TableChange},
};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Models stand below what they read. The class says how a model is kept:

  view       computed by each query
  append     a row for each row that comes, of one input or of several (UNION ALL): an update costs the
             rows that came
  aggregate  running values per group: an update costs the groups that it touches
  keyed      the first row per key: an update costs the keys that it touches
  lookup     rows joined to dimensions: an update costs the rows that came, and those that meet a
             changed row of a dimension
  by key     any other SQL whose groups, windows and joins have a key in common: an update costs
             running the SQL over the rows under the keys that it touches (of an input of over
             128 MiB in memory also a scan for these)
  recompute  its SQL over everything that it reads, when that has changed

With --data-dir or --lake the rows are counted that an update reads, and it is told what a deployment
would make anew, whether queries can break by it, and what it reads; the reason says what stands in
the way of a cheaper class. A model with config(on_incremental_change='fail') may not be recomputed.")]
pub struct Args {
    /// Folder of the project, which holds sluice.yml or dbt_project.yml
    pub project: PathBuf,
    #[command(flatten)]
    pub lake: LakeFlags,
    /// How the plan is printed
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Output {
    Text,
    Json,
}

/// A model of the plan.
#[derive(Serialize)]
struct Entry {
    model: String,
    class: String,
    reason: String,
    /// Streams, seeds and models, as `bronze.x`, `seeds.x` and `silver.x`.
    reads: Vec<String>,
    /// What an update reads.
    update: &'static str,
    /// How many rows that is now: of the inputs for `recompute`, of the table for `aggregate` and `keyed`,
    /// at most.
    rows: Option<u64>,
    /// Rows and bytes of its table.
    table_rows: Option<u64>,
    table_bytes: Option<u64>,
    /// What a deployment does to its table.
    #[serde(skip_serializing_if = "Option::is_none")]
    change: Option<Change>,
}

/// What a deployment does to a table.
#[derive(Serialize)]
struct Change {
    /// `new`, or `rebuilt`: by its own definition, or because what it reads is rebuilt.
    kind: &'static str,
    /// Whether queries that were right can fail.
    breaking: bool,
    columns: Vec<String>,
    /// Rows and bytes that are read for it.
    reads_rows: u64,
    reads_bytes: u64,
}

/// Rows and bytes of stored tables.
type Sizes = BTreeMap<TableName, (u64, u64)>;

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let planned = check::load(&args.project)?;
    let lake = args.lake.open()?;
    let sizes = match &lake {
        Some(lake) => sizes_in(lake, &planned).await?,
        None => Sizes::new(),
    };
    let mut entries: Vec<Entry> = planned.plans.iter().map(|plan| entry(plan, &sizes)).collect();
    if let Some(lake) = &lake {
        let changes = process::changes(&planned, lake).await;
        let changes = changes.map_err(|error| Failure::new(error.kind(), chain(&error)))?;
        add_changes(&planned, &changes, &sizes, &mut entries);
    }
    match args.output {
        Output::Text => print::result(text(&planned, &entries)),
        Output::Json => {
            let text = serde_json::to_string_pretty(&entries);
            print::result(text.map_err(|e| Failure::work(e.to_string()))?)
        }
    }
}

async fn sizes_in(lake: &Lake, planned: &Planned) -> Result<Sizes, Failure> {
    let streams = planned.project.streams.iter().map(|s| TableName::new("bronze", &s.name));
    let seeds = planned.project.seeds.iter().map(|seed| seed.name.clone());
    let models = planned.plans.iter().map(|plan| plan.model.name.clone());
    let mut sizes = Sizes::new();
    for name in streams.chain(seeds).chain(models) {
        let failed = |e: crate::lake::LakeError| Failure::new(e.kind(), chain(&e));
        if let Some(stored) = lake.stored(&name).await.map_err(failed)? {
            let committed = stored.table.committed().await.map_err(failed)?;
            sizes.insert(name, (committed.rows, committed.bytes));
        }
    }
    Ok(sizes)
}

fn entry(plan: &Plan, sizes: &Sizes) -> Entry {
    let model = &plan.model;
    let reads: BTreeSet<TableName> = model.sources.iter().chain(&model.refs).cloned().collect();
    let table = sizes.get(&plan.model.name).copied();
    let stored = inputs(plan);
    let of_inputs = stored.iter().filter_map(|name| sizes.get(name)).map(|(rows, _)| rows).sum();
    let (update, rows) = match plan.class {
        Class::View => ("nothing: each query computes it", None),
        Class::Append => ("the rows that came", None),
        Class::Project => ("the rows that came or went", None),
        Class::Aggregate => ("the groups that it touches", table.map(|(rows, _)| rows)),
        Class::Keyed => ("the keys that it touches", table.map(|(rows, _)| rows)),
        Class::Lookup => ("the rows that came, and those that meet a changed row", None),
        Class::ByKey => ("the rows of its input under the keys that it touches", None),
        Class::Recompute => ("all rows that it reads", (!sizes.is_empty()).then_some(of_inputs)),
    };
    Entry {
        model: plan.model.name.to_string(),
        class: plan.class.to_string(),
        reason: plan.reason.clone(),
        reads: reads.iter().map(TableName::to_string).collect(),
        update,
        rows,
        table_rows: table.map(|(rows, _)| rows),
        table_bytes: table.map(|(_, bytes)| bytes),
        change: None,
    }
}

/// Notes what a deployment does to each table: what is defined otherwise is made anew, and all that
/// reads it.
fn add_changes(planned: &Planned, changes: &[TableChange], sizes: &Sizes, entries: &mut [Entry]) {
    let mut anew: BTreeSet<&TableName> = BTreeSet::new();
    for (plan, entry) in planned.plans.iter().zip(entries) {
        let name = &plan.model.name;
        let own = changes.iter().find(|change| change.table == *name);
        if plan.class == Class::View
            || (own.is_none() && !plan.tables.iter().any(|parent| anew.contains(parent)))
        {
            continue;
        }
        anew.insert(name);
        let read = inputs(plan);
        let read: Vec<&(u64, u64)> = read.iter().filter_map(|name| sizes.get(name)).collect();
        entry.change = Some(Change {
            kind: if own.is_some_and(|change| change.is_new) { "new" } else { "rebuilt" },
            breaking: own.is_some_and(TableChange::is_breaking),
            columns: own.iter().flat_map(|change| &change.columns).map(column).collect(),
            reads_rows: read.iter().map(|(rows, _)| rows).sum(),
            reads_bytes: read.iter().map(|(_, bytes)| bytes).sum(),
        });
    }
}

fn column(change: &ColumnChange) -> String {
    match change {
        ColumnChange::Added(name) => format!("+ {name}"),
        ColumnChange::Removed(name) => format!("- {name}"),
        ColumnChange::Retyped(name, was, is) => format!("{name}: {was} → {is}"),
    }
}

/// The stored tables that a model's SQL reads.
fn inputs(plan: &Plan) -> Vec<TableName> {
    let streams = plan.read_streams.iter().map(|stream| TableName::new("bronze", stream));
    streams.chain(plan.tables.iter().cloned()).collect()
}

fn text(planned: &Planned, entries: &[Entry]) -> String {
    let mut lines = Vec::new();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for entry in entries {
        *counts.entry(&entry.class).or_default() += 1;
        lines.push(format!("{:<32} {:<10} {}", entry.model, entry.class, entry.reason));
        lines.push(format!("    reads            {}", entry.reads.join(", ")));
        let rows = match (entry.rows, entry.class.as_str()) {
            (Some(rows), "aggregate" | "keyed") => format!(", at most {rows}"),
            (Some(rows), _) => format!(", {rows} now"),
            (None, _) => String::new(),
        };
        lines.push(format!("    an update costs  {}{rows}", entry.update));
        if let (Some(rows), Some(bytes)) = (entry.table_rows, entry.table_bytes) {
            lines.push(format!("    its table        {rows} rows, {bytes} bytes"));
        }
        if let Some(change) = &entry.change {
            let breaking = if change.breaking { ", breaking" } else { "" };
            let columns = if change.columns.is_empty() { "" } else { ": " };
            lines.push(format!(
                "    a deployment     {}{breaking}{columns}{}; reads {} rows, {} bytes",
                change.kind,
                change.columns.join(", "),
                change.reads_rows,
                change.reads_bytes
            ));
        }
    }
    let counts: Vec<String> = counts.iter().map(|(class, n)| format!("{n} {class}")).collect();
    lines.push(format!("{} models: {}", planned.plans.len(), counts.join(", ")));
    let changed = entries.iter().filter_map(|entry| entry.change.as_ref());
    let (changed, breaking) =
        (changed.clone().count(), changed.filter(|change| change.breaking).count());
    if changed > 0 {
        lines.push(format!("a deployment makes {changed} tables, {breaking} of them breaking"));
    }
    lines.join("\n")
}
