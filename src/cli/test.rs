//! `sluice test`: a project's data tests and unit tests.

use std::{path::PathBuf, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;

use crate::{
    cli::{
        Failure, LakeFlags, ServerFlags, admin, chain, check, folders, print,
        query::unless_stopped,
        tested::{self, Output, Selection},
    },
    domain::{
        ErrorKind,
        tested::{Ran, Wanted},
    },
    lake::{Lake, LakeHandle, LakeView},
    ops::Clock,
    process::{
        self,
        data_tests::{Runner, Settings, Testing},
    },
};

/// Tests of a server may take so long.
const PATIENCE: Duration = Duration::from_secs(3_600);

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Without PROJECT a running server runs the tests of its project, over what can be queried now. With it
they are run over the tables of a lake as they are committed; without a lake unit tests alone.

Exit code 0: no test failed, though some may have warned; 1: a test failed or could not be run.")]
pub struct Args {
    /// Folder of a project, which holds sluice.yml or dbt_project.yml
    pub project: Option<PathBuf>,
    #[command(flatten)]
    pub selection: Selection,
    #[command(flatten)]
    pub lake: LakeFlags,
    /// The HTTP port of the server
    #[arg(long, default_value = "http://127.0.0.1:8080", value_name = "URL")]
    pub url: String,
    /// How the outcome is printed
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

pub(super) async fn run(args: Args, stop: CancellationToken) -> Result<(), Failure> {
    unless_stopped(&stop, test(args)).await
}

async fn test(args: Args) -> Result<(), Failure> {
    let all = match &args.project {
        None => of_server(&args).await?,
        Some(project) => {
            let planned = check::load(project)?;
            of_project(planned, &args).await?
        }
    };
    tested::report(&all, args.output)?;
    tested::conclude(&all)
}

async fn of_server(args: &Args) -> Result<Vec<Ran>, Failure> {
    if args.lake.data_dir.is_some() || args.lake.lake.is_some() {
        let hint = "name the project too: sluice test PROJECT --data-dir DIR";
        return Err(Failure::invalid(format!("a lake is tested by a project; {hint}")));
    }
    let client = admin::Client::new(&args.url, "tests")?.patient(PATIENCE);
    let Selection { select, exclude } = args.selection.clone();
    let all: Vec<Ran> = client.post(&["run"], &Wanted { select, exclude }).await?;
    if args.output == Output::Text {
        for ran in &all {
            print::result(tested::line(ran))?;
        }
    }
    Ok(all)
}

async fn of_project(planned: process::Planned, args: &Args) -> Result<Vec<Ran>, Failure> {
    let lake = match args.lake.clone().open()? {
        Some(lake) => Some(lake),
        None => folders::existing_lake(&ServerFlags::default().load()?.config.server).ok(),
    };
    let mut selected = args.selection.over(&planned, lake.as_ref()).await?.tests;
    let view = match &lake {
        Some(lake) => process::stored_view(&planned, lake)
            .await
            .map_err(|error| Failure::new(error.kind(), chain(&error)))?,
        None => {
            let before = selected.len();
            selected.retain(|name| planned.unit_tests.iter().any(|unit| unit.test.name == *name));
            if selected.len() < before {
                let left = before - selected.len();
                let hint = "give --data-dir or --lake, or ask a running server: sluice test";
                print::note(format_args!("{left} data tests are not run without a lake; {hint}"));
            }
            LakeView::default()
        }
    };
    let testing = testing(Arc::new(planned), view)?;
    let is_text = args.output == Output::Text;
    let tell = |ran: &Ran| {
        if is_text {
            print::status(tested::line(ran));
        }
    };
    Ok(testing.run(&selected, tell).await)
}

/// Runs all tests over a lake as it is committed.
pub(super) async fn over(planned: Arc<process::Planned>, lake: &Lake) -> Result<Vec<Ran>, Failure> {
    let view = process::stored_view(&planned, lake).await;
    let view = view.map_err(|error| Failure::new(error.kind(), chain(&error)))?;
    let all = Selection::default().of(&planned.project)?.tests;
    Ok(testing(planned, view)?.run(&all, |_| {}).await)
}

fn testing(planned: Arc<process::Planned>, view: LakeView) -> Result<Testing, Failure> {
    let runner = Runner::new(&Settings::default(), Clock::system(), 0);
    Ok(Testing {
        planned: Arc::new(ArcSwap::new(planned)),
        lake: LakeHandle::new(view),
        results: Arc::default(),
        runner: runner.map_err(|error| Failure::new(ErrorKind::Unavailable, error.to_string()))?,
    })
}
