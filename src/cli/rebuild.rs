//! `sluice rebuild`: tables made anew after their definition changed.

use std::path::PathBuf;

use crate::{
    cli::{
        Failure, ServerFlags, chain, check, contracts,
        folders::{LakeFolder, existing_lake},
        print,
    },
    domain::TableName,
    models::Class,
    process::{self, Done, Outcome, Planned},
    project::nearest,
};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Stop the server first. Each table gets new files beside its old ones and one commit: until then, and
after a crash, it is the old one, and the command can be given again. No position moves back.

Exit code 0: done, or nothing to do; 1: a table could not be made anew, and is as it was.")]
pub struct Args {
    /// Folder of the project, which holds sluice.yml or dbt_project.yml
    pub project: PathBuf,
    /// Models whose tables to make anew, with all that reads them [default: every one that was built
    /// by another definition]
    pub models: Vec<String>,
    #[command(flatten)]
    pub server: ServerFlags,
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let config = args.server.load()?.config;
    let planned = check::load(&args.project)?;
    let names = args.models.iter().map(|name| stored_model(&planned, name));
    let names: Vec<TableName> = names.collect::<Result<_, _>>()?;
    existing_lake(&config.server)?;
    let folder = LakeFolder::open(&config.server)?;
    contracts::compare(&planned, &folder.lake).await?;
    let done = process::rebuild(&planned, &folder.lake, &names, |done| print::status(told(done)));
    let done = done.await.map_err(|e| Failure::new(e.kind(), chain(&e)))?;
    let failed = done.iter().filter(|done| matches!(done.outcome, Outcome::Failed(_))).count();
    match (done.len(), failed) {
        (0, _) => print::result("nothing to do: every table is that of its model"),
        (all, 0) => print::result(format_args!("tables rebuilt: {all}")),
        (all, _) => Err(Failure::work(format!(
            "{failed} of {all} tables could not be rebuilt, and are as they were"
        ))),
    }
}

/// The model of that name that has a table.
fn stored_model(planned: &Planned, name: &str) -> Result<TableName, Failure> {
    let stored = planned.plans.iter().filter(|plan| plan.class != Class::View);
    let names: Vec<&TableName> = stored.map(|plan| &plan.model.name).collect();
    let found = names.iter().find(|model| model.to_string() == name || model.name == name);
    found.map(|found| TableName::clone(found)).ok_or_else(|| {
        let hint = nearest(name, names.iter().map(|model| model.name.as_str()));
        let hint = hint.map(|hint| format!("; {hint}")).unwrap_or_default();
        Failure::invalid(format!("no model with a table is named {name}{hint}"))
    })
}

pub(super) fn told(done: &Done) -> String {
    let (name, seconds) = (done.table.to_string(), done.took.as_secs_f64());
    match &done.outcome {
        Outcome::Rebuilt(rebuilt) => {
            format!("{name:<28} {} rows in {} files, {seconds:.1} s", rebuilt.rows, rebuilt.files)
        }
        Outcome::Failed(reason) => format!("{name:<28} not rebuilt: {reason}"),
    }
}
