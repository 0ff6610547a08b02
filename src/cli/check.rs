//! `sluice check`: a project's errors, or how its models are kept.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    cli::{Failure, LakeFlags, chain, contracts, print},
    process::{self, Planned, plan},
    project::{self, Diagnostics, Project},
};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
With --data-dir or --lake its contracts are compared with those that filled the lake, and tables
that have to be rebuilt are named.")]
pub struct Args {
    /// Folder of the project, which holds sluice.yml or dbt_project.yml
    pub project: PathBuf,
    #[command(flatten)]
    pub lake: LakeFlags,
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let planned = load(&args.project)?;
    let mut to_rebuild = Vec::new();
    if let Some(lake) = args.lake.open()? {
        contracts::compare(&planned, &lake).await?;
        let outdated = process::outdated(&planned, &lake).await;
        let outdated = outdated.map_err(|e| Failure::new(e.kind(), chain(&e)))?;
        let lines = outdated.iter().map(|name| {
            format!(
                "rebuild {:<28} built by another definition: run `sluice rebuild`",
                name.to_string()
            )
        });
        to_rebuild.extend(lines);
    }
    let warnings = planned.project.warnings.iter().map(|warning| format!("{warning}\n"));
    let lines: Vec<String> = warnings.chain([described(&planned)]).chain(to_rebuild).collect();
    print::result(lines.join("\n"))
}

/// Every stream, seed and model, a line each.
fn described(planned: &Planned) -> String {
    let streams = planned.project.streams.iter().map(|stream| {
        format!(
            "stream  {:<28} {} fields, {} partitions, event id {}",
            stream.name,
            stream.fields.len(),
            stream.partitions,
            stream.event_id.describe()
        )
    });
    let seeds =
        planned.project.seeds.iter().map(|seed| {
            format!("seed    {:<28} {} rows", seed.name.to_string(), seed.rows.num_rows())
        });
    let models = planned.plans.iter().map(|plan| {
        let name = plan.model.name.to_string();
        format!("model   {name:<28} {:<10} {}", plan.class.to_string(), plan.reason)
    });
    let counts = format!(
        "ok: {} streams, {} seeds, {} models",
        planned.project.streams.len(),
        planned.project.seeds.len(),
        planned.plans.len()
    );
    let lines: Vec<String> = streams.chain(seeds).chain(models).chain([counts]).collect();
    lines.join("\n")
}

/// Reads, checks and plans a project.
pub(super) fn load(root: &Path) -> Result<Planned, Failure> {
    let loaded = read(root).and_then(plan);
    loaded.map_err(|errors| Failure::invalid(format!("project {}\n{errors}", root.display())))
}

/// Reads a project, whose templates may ask for environment variables.
pub(super) fn read(root: &Path) -> Result<Project, Diagnostics> {
    let set: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let variables = Arc::new(move |name: &str| set.get(name).cloned());
    project::load_partly(root, &project::Options { variables })
}
