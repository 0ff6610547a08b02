//! `sluice rebuild`: tables made anew after their definition changed.

use std::{
    io::{IsTerminal as _, stderr},
    path::PathBuf,
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget};

use crate::{
    cli::{
        Failure, ServerFlags, chain, check, contracts,
        folders::{LakeFolder, existing_lake},
        print,
    },
    domain::TableName,
    lake::Lake,
    models::Class,
    process::{self, Done, Meter, Outcome, Planned, Reading},
    project::nearest,
};

/// How often it is shown how far it is: on a terminal, and elsewhere.
const DRAWN_EVERY: Duration = Duration::from_millis(250);
pub(super) const LINE_EVERY: Duration = Duration::from_secs(5);

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
    let done = shown(&planned, &folder.lake, &names, |done| print::status(told(done))).await;
    let done = done.map_err(|e| Failure::new(e.kind(), chain(&e)))?;
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

/// Makes tables anew, and shows on stderr how far it is.
pub(super) async fn shown(
    planned: &Planned,
    lake: &Lake,
    names: &[TableName],
    told: impl FnMut(&Done),
) -> Result<Vec<Done>, process::Error> {
    if !stderr().is_terminal() {
        return watched(planned, lake, names, (LINE_EVERY, |reading| print::status(reading)), told)
            .await;
    }
    let bar = ProgressBar::no_length();
    bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(4));
    let draw = |reading: Reading| {
        bar.set_message(reading.to_string());
        bar.tick();
    };
    let done = watched(planned, lake, names, (DRAWN_EVERY, draw), told).await;
    bar.finish_and_clear();
    done
}

/// Makes tables anew, and tells now and then how far it is.
pub(super) async fn watched(
    planned: &Planned,
    lake: &Lake,
    names: &[TableName],
    (every, mut tell): (Duration, impl FnMut(Reading)),
    told: impl FnMut(&Done),
) -> Result<Vec<Done>, process::Error> {
    let meter = Meter::default();
    let work = process::rebuild(planned, lake, names, &meter, told);
    tokio::pin!(work);
    let mut ticks = tokio::time::interval(every);
    ticks.tick().await; // The first comes at once.
    loop {
        tokio::select! {
            done = &mut work => return done,
            _ = ticks.tick() => meter.reading().into_iter().for_each(&mut tell),
        }
    }
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
