//! Where commands ask SQL of a project before it is deployed: a running server, or a lake.

use std::{path::PathBuf, sync::Arc, time::Duration};

use crate::{
    cli::{Failure, LakeFlags, admin, chain, check},
    domain::{
        ErrorKind,
        previewed::{Asked, Previewed},
    },
    lake::LakeView,
    models::Plan,
    ops::Clock,
    process::{
        self, Planned,
        data_tests::{Runner, Settings},
        plan_partly,
    },
    project::{Diagnostics, nearest},
};

/// A preview may take so long.
const PATIENCE: Duration = Duration::from_secs(3_600);

/// A model of a project, and where to ask.
#[derive(Debug, clap::Args)]
pub struct Source {
    /// Name of the model
    pub model: String,
    /// Folder of the project, which holds sluice.yml or dbt_project.yml
    #[arg(long, default_value = ".", value_name = "DIR")]
    pub project: PathBuf,
    /// The HTTP port of the server that is asked
    #[arg(long, default_value = "http://127.0.0.1:8080", value_name = "URL",
          conflicts_with_all = ["data_dir", "lake"])]
    pub url: String,
    #[command(flatten)]
    pub lake: LakeFlags,
}

/// Who answers.
pub(super) enum Asker {
    Server(Box<admin::Client>),
    Lake(Runner, Arc<LakeView>),
}

impl Source {
    /// The plan of the model as its file stands now, and who answers.
    pub(super) async fn open(&self) -> Result<(Plan, Planned, Asker), Failure> {
        // Models that are wrong meanwhile are no hindrance, if it does not read them.
        let wrong = |errors: &Diagnostics| {
            Failure::invalid(format!("project {}\n{errors}", self.project.display()))
        };
        let planned = plan_partly(check::read(&self.project).map_err(|errors| wrong(&errors))?);
        let found = &planned.project.warnings;
        let plan = named(&planned, &self.model);
        let plan = plan.map_err(|failure| if found.has_errors() { wrong(found) } else { failure });
        let plan = plan?.clone();
        let asker = match self.lake.clone().open()? {
            None => {
                let client = admin::Client::new(&self.url, "preview")?.patient(PATIENCE);
                Asker::Server(Box::new(client))
            }
            Some(lake) => {
                let view = process::stored_view(&planned, &lake).await;
                let view = view.map_err(|e| Failure::new(e.kind(), chain(&e)))?;
                let runner = Runner::new(&Settings::default(), Clock::system(), 0);
                let runner = runner.map_err(|e| Failure::unavailable(e.to_string()))?;
                Asker::Lake(runner, Arc::new(view))
            }
        };
        Ok((plan, planned, asker))
    }
}

fn named<'a>(planned: &'a Planned, name: &str) -> Result<&'a Plan, Failure> {
    let models = || planned.plans.iter().map(|plan| &plan.model.name);
    let found = planned.plans.iter().find(|plan| {
        let of = &plan.model.name;
        of.name == name || of.to_string() == name
    });
    found.ok_or_else(|| {
        let hint = nearest(name, models().map(|name| name.name.as_str()));
        let hint = hint.map(|hint| format!("; {hint}")).unwrap_or_default();
        Failure::invalid(format!("there is no model `{name}`{hint}"))
    })
}

impl Asker {
    pub(super) async fn ask(&self, sql: &str, limit: usize) -> Result<Previewed, Failure> {
        let asked = Asked { sql: sql.to_owned(), limit };
        match self {
            Self::Server(client) => client.post(&[], &asked).await,
            Self::Lake(runner, view) => {
                let rows = process::preview(runner, view, &asked).await;
                rows.map_err(|error| Failure::new(ErrorKind::Data, error.strip_backtrace()))
            }
        }
    }
}
