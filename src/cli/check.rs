//! `sluice check`: a project's errors, or how its models are kept.

use std::path::{Path, PathBuf};

use crate::{
    cli::{Failure, ServerFlags, chain, contracts, folders, print},
    process::{self, Planned, plan},
    project,
};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder of the project, which holds sluice.yml
    pub project: PathBuf,
    /// Also compare its contracts with those that filled the lake in this data folder
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// The same for a lake elsewhere
    #[arg(long, value_name = "DIR")]
    pub lake: Option<PathBuf>,
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let planned = load(&args.project)?;
    let Args { data_dir, lake, .. } = args;
    let mut to_rebuild = Vec::new();
    if data_dir.is_some() || lake.is_some() {
        let flags = ServerFlags { data_dir, lake, ..ServerFlags::default() };
        let lake = folders::existing_lake(&flags.load()?.config.server)?;
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
    let lines: Vec<String> = [described(&planned)].into_iter().chain(to_rebuild).collect();
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
    let loaded = project::load(root).and_then(plan);
    loaded.map_err(|errors| Failure::invalid(format!("project {}\n{errors}", root.display())))
}
