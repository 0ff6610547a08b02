//! `sluice deploy`: a running server takes over its changed project.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::{
    cli::{Failure, admin, print, query::unless_stopped},
    domain::deployed::Deployed,
};

/// Large tables take long to be made anew.
const PATIENCE: Duration = Duration::from_secs(24 * 3_600);

#[derive(Debug, clap::Args)]
#[command(after_help = "\
The server reads its project folder again. What is wrong in it is told, and nothing changes. Else tables
of changed models, and all that reads them, are made anew beside what they are, each replaced in one
commit. Events are taken in meanwhile, and queries see what was there before until all of it is new.
`sluice plan PROJECT --data-dir DIR` tells before which tables these are.

Exit code 0: done; 1: a table could not be made anew: it is as it was, and does not follow.")]
pub struct Args {
    /// The HTTP port of the server
    #[arg(long, default_value = "http://127.0.0.1:8080", value_name = "URL")]
    pub url: String,
}

pub(super) async fn run(args: Args, stop: CancellationToken) -> Result<(), Failure> {
    unless_stopped(&stop, deploy(args)).await
}

async fn deploy(args: Args) -> Result<(), Failure> {
    let client = admin::Client::new(&args.url, "deployments")?.patient(PATIENCE);
    let deployed: Deployed = client.post(&[], &serde_json::json!({})).await?;
    print::result(told(&deployed))?;
    match deployed.failed.len() {
        0 => Ok(()),
        failed => Err(Failure::work(format!(
            "{failed} tables could not be made anew: they are as they were, and do not follow"
        ))),
    }
}

/// What a deployment did, a line each.
pub(super) fn told(deployed: &Deployed) -> String {
    let line = |what: &str, name: &str, more: String| {
        format!("{what:<8}{name:<32}{more}").trim_end().to_owned()
    };
    let added = deployed.added.iter().map(|name| line("new", name, String::new()));
    let rebuilt = deployed.rebuilt.iter().map(|table| {
        let seconds = Duration::from_millis(table.took_ms).as_secs_f64();
        line("built", &table.table, format!("{} rows, {seconds:.1} s", table.rows))
    });
    let failed =
        deployed.failed.iter().map(|table| line("failed", &table.table, table.reason.clone()));
    let removed = deployed
        .removed
        .iter()
        .map(|name| line("gone", name, "no longer served; its table stays in the lake".to_owned()));
    let seconds = Duration::from_millis(deployed.took_ms).as_secs_f64();
    let all = format!("deployed in {seconds:.1} s");
    let warnings = deployed.warnings.iter().cloned();
    let lines: Vec<String> =
        warnings.chain(added).chain(rebuilt).chain(failed).chain(removed).chain([all]).collect();
    lines.join("\n")
}
