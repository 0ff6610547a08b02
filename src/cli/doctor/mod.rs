//! `sluice doctor`: whether a server would find here what it needs, and how to mend what is not so.
//!
//! Changes nothing: files that try something out are removed, no topic is created, no log opened.

mod finding;
mod kafka;
mod lake;
mod machine;
mod ports;

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use tokio_util::sync::CancellationToken;

use self::finding::{Finding, Level};
use crate::{
    cli::{Failure, ServerFlags, check, print, query::unless_stopped},
    config::{Config, LogKind},
    log::{StreamSpec, embedded},
    ops::Clock,
};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder of a project: with it, the topics of its streams are looked at, too
    pub project: Option<PathBuf>,
    #[command(flatten)]
    pub server: ServerFlags,
    /// Form of the report
    #[arg(long, value_enum, default_value_t = Form::Text, value_name = "FORM")]
    pub format: Form,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Form {
    Text,
    Json,
}

/// Runs the checks; fails where one of them did.
pub(super) async fn run(args: Args, stop: CancellationToken) -> Result<(), Failure> {
    let config = args.server.load()?.config;
    let specs = args.project.as_deref().map(specs).transpose()?.unwrap_or_default();
    let findings = unless_stopped(&stop, examine(&config, &specs, args.format)).await?;
    let failed = findings.iter().filter(|f| f.level == Level::Fail).count();
    let warned = findings.iter().filter(|f| f.level == Level::Warn).count();
    if args.format == Form::Json {
        let report = serde_json::json!({ "checks": findings, "failed": failed, "warned": warned });
        print::result(format_args!("{report:#}"))?;
    } else {
        let all = findings.len();
        print::result(format_args!("{all} checks: {failed} failed, {warned} with a warning"))?;
    }
    match failed {
        0 => Ok(()),
        1 => Err(Failure::work("1 check failed")),
        _ => Err(Failure::work(format!("{failed} checks failed"))),
    }
}

fn specs(project: &Path) -> Result<Vec<StreamSpec>, Failure> {
    let loaded = check::read(project)
        .map_err(|errors| Failure::invalid(format!("project {}\n{errors}", project.display())))?;
    Ok(loaded.streams.iter().map(StreamSpec::from).collect())
}

/// All checks in the order in which a start needs what they look at. Text is printed as it comes.
async fn examine(
    config: &Config,
    specs: &[StreamSpec],
    form: Form,
) -> Result<Vec<Finding>, Failure> {
    let mut all = Vec::new();
    let mut add = |findings: Vec<Finding>| -> Result<(), Failure> {
        for finding in findings {
            if form == Form::Text {
                print::result(&finding)?;
            }
            all.push(finding);
        }
        Ok(())
    };
    let clock = Clock::system();
    add(machine::check(config, &clock))?;
    add(ports::check(&config.server).await)?;
    add(lake::check(&config.server, &clock).await)?;
    match &config.server.log {
        LogKind::Embedded => add(vec![embedded(&config.server.data_dir.join("log"))])?,
        LogKind::Kafka(brokers) => add(kafka::check(brokers, config, specs, &clock).await)?,
    }
    Ok(all)
}

fn embedded(path: &Path) -> Finding {
    let shown = path.display();
    match embedded::look(path) {
        Ok(embedded::Folder::Absent) => {
            Finding::ok("log", format!("embedded in {shown}: none yet, the first start makes it"))
        }
        Ok(embedded::Folder::Free) => {
            Finding::ok("log", format!("embedded in {shown}, not in use"))
        }
        Ok(embedded::Folder::InUse) => {
            Finding::ok("log", format!("embedded in {shown}, in use by a running server"))
        }
        Err(error) => Finding::fail(
            "log",
            format!("embedded in {shown}, which cannot be looked at: {error}"),
            "let the user that runs the server own the folder, or choose another with --data-dir",
        ),
    }
}
