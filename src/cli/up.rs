//! `sluice up`: a project, running.

use std::{path::PathBuf, sync::Arc};

use tokio_util::sync::CancellationToken;

use crate::{
    cli::{Bound, Failure, Node, ServerFlags, check, print, watch},
    config::{Config, LogFormat},
    domain::ErrorKind,
    ops::telemetry,
};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder of the project, which holds sluice.yml or dbt_project.yml
    pub project: PathBuf,
    /// Deploy each change of the project's files, and show what becomes of the tables: for
    /// development
    #[arg(long)]
    pub watch: bool,
    #[command(flatten)]
    pub server: ServerFlags,
}

pub(super) async fn run(args: Args, stop: CancellationToken) -> Result<(), Failure> {
    let config = args.server.load()?.config;
    init_logs(&config);
    let planned = check::load(&args.project)?;
    for warning in planned.project.warnings.iter() {
        tracing::warn!(file = %warning.file.display(), line = warning.line, "{}", warning.message);
    }
    let bound = Bound::bind(&config.server).await?;
    let urls = bound.urls();
    let metrics = telemetry::init_metrics()
        .map_err(|e| Failure::new(ErrorKind::Internal, format!("metrics: {e}")))?;
    let (project, data_dir) = (args.project.display(), config.server.data_dir.display());
    let log = String::from(config.server.log.clone());
    print::status(format_args!("starting {project}: data in {data_dir}, log {log}"));
    let mut node = Node::start(&config, planned, bound, Some(metrics), &stop).await?;
    if !stop.is_cancelled() {
        announce(&urls);
        print::status("ready");
    }
    let (root, deployer, lake) = (args.project, node.deployer(), Arc::clone(&node.lake));
    let ended = tokio::select! {
        ended = node.wait(&stop) => ended,
        () = watch::watch(root, deployer, lake), if args.watch => Ok(()),
    };
    let stopped = node.stop().await;
    ended.and(stopped)
}

pub(super) fn init_logs(config: &Config) {
    let json = config.telemetry.log_format == LogFormat::Json;
    telemetry::init_logs(&config.telemetry.log_filter, json);
}

/// Tells the addresses, once all of them answer.
pub(super) fn announce(urls: &[(&'static str, String)]) {
    for (name, url) in urls {
        print::status(format_args!("{name:<7} {url}"));
    }
}
