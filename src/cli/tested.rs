//! What tests found, as commands tell it.

use clap::ValueEnum;

use crate::{
    cli::{Failure, chain, print},
    domain::tested::{Ran, Status},
    lake::Lake,
    process::{self, Planned},
    project::{
        Project,
        select::{Graph, Selected},
    },
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    Text,
    Json,
}

/// Which parts of a project a command is about, in dbt's selection syntax.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Selection {
    /// Only these, with their tests: names, paths, tag:NAME, state:modified, +parents, children+, a,b for both
    /// [default: all]
    #[arg(long, short, value_name = "SELECTION", num_args = 1..)]
    pub select: Vec<String>,
    /// Without these
    #[arg(long, value_name = "SELECTION", num_args = 1..)]
    pub exclude: Vec<String>,
}

impl Selection {
    pub(super) fn of(&self, project: &Project) -> Result<Selected, Failure> {
        let selected = Graph::new(project, None).select(&self.select, &self.exclude);
        selected.map_err(Failure::invalid)
    }

    /// The same, where a lake says what is modified.
    pub(super) async fn over(
        &self,
        planned: &Planned,
        lake: Option<&Lake>,
    ) -> Result<Selected, Failure> {
        let asks = |given: &[String]| given.iter().any(|part| part.contains("state:"));
        let Some(lake) = lake.filter(|_| asks(&self.select) || asks(&self.exclude)) else {
            return self.of(&planned.project);
        };
        let changes = process::changes(planned, lake).await;
        let changes = changes.map_err(|error| Failure::new(error.kind(), chain(&error)))?;
        let modified = changes.into_iter().map(|change| change.table).collect();
        let graph = Graph::new(&planned.project, Some(modified));
        graph.select(&self.select, &self.exclude).map_err(Failure::invalid)
    }
}

/// A line about a test.
pub(super) fn line(ran: &Ran) -> String {
    let status = ran.status.as_str().to_uppercase();
    let message = if ran.message.is_empty() { "" } else { "  " };
    let message = format!("{message}{}", ran.message.replace('\n', " "));
    format!("{status:<5} {:>6} ms  {}{message}", ran.took_ms, ran.name)
}

/// How many tests ended how.
pub(super) fn summary(all: &[Ran]) -> String {
    let count = |status| all.iter().filter(|ran| ran.status == status).count();
    let tests = if all.len() == 1 { "test" } else { "tests" };
    format!(
        "{} {tests}: {} passed, {} warned, {} failed, {} could not be run",
        all.len(),
        count(Status::Pass),
        count(Status::Warn),
        count(Status::Fail),
        count(Status::Error)
    )
}

/// Tells outcomes, as `output` says; those of text were told one by one.
pub(super) fn report(all: &[Ran], output: Output) -> Result<(), Failure> {
    match output {
        Output::Text => print::result(summary(all)),
        Output::Json => {
            let text = serde_json::to_string_pretty(all);
            print::result(text.map_err(|error| Failure::work(error.to_string()))?)
        }
    }
}

/// An error if a test failed, or could not be run.
pub(super) fn conclude(all: &[Ran]) -> Result<(), Failure> {
    let failed = all.iter().filter(|ran| ran.status.is_failure()).count();
    match failed {
        0 => Ok(()),
        failed => Err(Failure::work(format!("{failed} of {} tests failed", all.len()))),
    }
}
