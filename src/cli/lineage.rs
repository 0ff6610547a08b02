//! `sluice lineage`: what is made of what, by tables or by columns.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use clap::ValueEnum;
use serde::Serialize;

use crate::{
    cli::{Failure, LakeFlags, check, print, tested::Selection},
    domain::{ACCEPTED, TableName},
    process::Planned,
};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
With --columns it is told which columns each column's values are made of. What only decides which rows
there are (filters, join conditions, groups) is no part of that.

  sluice lineage PROJECT --select +fact_orders --output mermaid")]
pub struct Args {
    /// Folder of the project, which holds sluice.yml or dbt_project.yml
    pub project: PathBuf,
    #[command(flatten)]
    pub selection: Selection,
    #[command(flatten)]
    pub lake: LakeFlags,
    /// By columns, not just by tables
    #[arg(long)]
    pub columns: bool,
    /// How it is printed
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Output {
    Text,
    Json,
    /// A flow chart, as Markdown pages show it
    Mermaid,
}

/// A relation of a project, with what it is made of.
#[derive(Debug, Serialize)]
pub(super) struct Node {
    pub name: String,
    pub kind: &'static str,
    pub reads: Vec<String>,
    /// Per column, the columns that it is made of.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub columns: BTreeMap<String, Vec<String>>,
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let planned = check::load(&args.project)?;
    let lake = args.lake.open()?;
    let selected = args.selection.over(&planned, lake.as_ref()).await?.tables;
    let nodes = nodes(&planned, args.columns, &selected);
    match args.output {
        Output::Text => print::result(text(&nodes)),
        Output::Mermaid => print::result(mermaid(&nodes)),
        Output::Json => {
            let text = serde_json::to_string_pretty(&nodes);
            print::result(text.map_err(|error| Failure::work(error.to_string()))?)
        }
    }
}

/// What is selected and what it reads, parents first.
pub(super) fn nodes(
    planned: &Planned,
    with_columns: bool,
    selected: &BTreeSet<TableName>,
) -> Vec<Node> {
    let plans: Vec<_> =
        planned.plans.iter().filter(|plan| selected.contains(&plan.model.name)).collect();
    let read: BTreeSet<TableName> = plans.iter().flat_map(|plan| plan.model.reads()).collect();
    let is_shown = |name: &TableName| selected.contains(name) || read.contains(name);
    let blank =
        |name: String, kind| Node { name, kind, reads: Vec::new(), columns: BTreeMap::new() };
    let streams = planned.project.streams.iter();
    let streams = streams.filter(|stream| read.contains(&TableName::new(ACCEPTED, &stream.name)));
    let mut nodes: Vec<Node> =
        streams.map(|stream| blank(format!("bronze.{}", stream.name), "stream")).collect();
    let seeds = planned.project.seeds.iter().filter(|seed| is_shown(&seed.name));
    nodes.extend(seeds.map(|seed| blank(seed.name.to_string(), "seed")));
    let outside = planned
        .plans
        .iter()
        .filter(|plan| read.contains(&plan.model.name) && !selected.contains(&plan.model.name));
    nodes.extend(outside.map(|plan| blank(plan.model.name.to_string(), "model")));
    for plan in plans {
        let mut reads: Vec<String> = plan.model.reads().map(|name| shown(&name)).collect();
        reads.sort();
        reads.dedup();
        let column = |(name, from): (&String, &BTreeSet<(TableName, String)>)| {
            let from = from.iter().map(|(table, column)| format!("{}.{column}", shown(table)));
            (name.clone(), from.collect())
        };
        let columns = plan.lineage.iter().filter(|_| with_columns).map(column).collect();
        nodes.push(Node { name: plan.model.name.to_string(), kind: "model", reads, columns });
    }
    nodes
}

/// A relation as users name it.
pub(super) fn shown(name: &TableName) -> String {
    if name.schema == ACCEPTED { format!("bronze.{}", name.name) } else { name.to_string() }
}

fn text(nodes: &[Node]) -> String {
    let mut lines = Vec::new();
    for node in nodes {
        let reads = match node.reads.as_slice() {
            [] => format!("({})", node.kind),
            reads => format!("← {}", reads.join(", ")),
        };
        lines.push(format!("{:<32} {reads}", node.name));
        for (column, from) in &node.columns {
            let from =
                if from.is_empty() { "nothing that is read".into() } else { from.join(", ") };
            lines.push(format!("    {column:<28} ← {from}"));
        }
    }
    lines.join("\n")
}

/// A flow chart. <https://mermaid.js.org/syntax/flowchart.html>
pub(super) fn mermaid(nodes: &[Node]) -> String {
    let id = |name: &str| name.replace(['.', ' '], "_");
    let mut lines = vec!["flowchart LR".to_owned()];
    for node in nodes {
        let (open, close) = match node.kind {
            "stream" => ("[/", "/]"),
            "seed" => ("[(", ")]"),
            _ => ("[", "]"),
        };
        lines.push(format!("    {}{open}\"{}\"{close}", id(&node.name), node.name));
    }
    let is_by_column = nodes.iter().any(|node| !node.columns.is_empty());
    for node in nodes {
        for parent in &node.reads {
            let via: Vec<&str> = node
                .columns
                .iter()
                .filter(|(_, from)| from.iter().any(|from| from.starts_with(&format!("{parent}."))))
                .map(|(column, _)| column.as_str())
                .collect();
            let label = match via.as_slice() {
                [] => String::new(),
                via => format!("|\"{}\"|", via.join(", ")),
            };
            let label = if is_by_column { label } else { String::new() };
            lines.push(format!("    {} -->{label} {}", id(parent), id(&node.name)));
        }
    }
    lines.join("\n")
}
