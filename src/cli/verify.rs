//! `sluice verify`: whether a lake keeps its promises.

use std::path::PathBuf;

use clap::ValueEnum;

use crate::{
    cli::{Failure, ServerFlags, chain, check, folders, print},
    verify,
};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
A server may run beside it. Without --history the lake is compared with itself; with it, also with
what producers were told. A history has a JSON object per line:

  {\"stream\":\"orders\",\"event_id\":\"17\",\"outcome\":\"acked\"}

event_id as bronze.orders._event_id shows it; outcome is acked, rejected or unknown. Optional:
payload_sha256, and producer with key for the order in which events were sent.

Exit code 0: green; 1: a promise is broken.")]
pub struct Args {
    /// Folder of the project, which holds sluice.yml or dbt_project.yml
    pub project: PathBuf,
    /// What producers sent and were told, NDJSON; may be given more than once
    #[arg(long, value_name = "FILE")]
    pub history: Vec<PathBuf>,
    /// How the report is printed
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
    #[command(flatten)]
    pub server: ServerFlags,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Output {
    Text,
    Json,
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let config = args.server.load()?.config;
    let planned = check::load(&args.project)?;
    let mut sent = Vec::new();
    for path in &args.history {
        sent.extend(verify::read(path).map_err(|e| Failure::new(e.kind(), e.to_string()))?);
    }
    let lake = folders::existing_lake(&config.server)?;
    let facts = verify::collect(&planned, &lake).await;
    let facts = facts.map_err(|e| Failure::new(e.kind(), chain(&e)))?;
    let report = verify::check(&sent, &facts);
    match args.output {
        Output::Text => print::result(&report)?,
        Output::Json => {
            let text = serde_json::to_string_pretty(&report);
            print::result(text.map_err(|e| Failure::work(e.to_string()))?)?;
        }
    }
    if report.green { Ok(()) } else { Err(Failure::work("the lake breaks a promise")) }
}
