//! `sluice up`: a project, running.
#![allow(clippy::print_stdout)]

use std::{io::Write as _, path::PathBuf};

use tokio_util::sync::CancellationToken;

use crate::{
    cli::{Bound, Failure, Node, ServerFlags, check},
    config::{Config, LogFormat},
    domain::ErrorKind,
    ops::telemetry,
};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder of the project, which holds sluice.yml
    pub project: PathBuf,
    #[command(flatten)]
    pub server: ServerFlags,
}

pub(super) async fn run(args: Args, stop: CancellationToken) -> Result<(), Failure> {
    let config = args.server.load()?.config;
    init_logs(&config);
    let planned = check::load(&args.project)?;
    let bound = Bound::bind(&config.server).await?;
    let urls = bound.urls();
    let metrics = telemetry::init_metrics()
        .map_err(|e| Failure::new(ErrorKind::Internal, format!("metrics: {e}")))?;
    for (name, url) in &urls {
        println!("{name:<7} {url}");
    }
    flush();
    let mut node = Node::start(&config, planned, bound, Some(metrics), &stop).await?;
    println!("ready");
    flush();
    let ended = node.wait(&stop).await;
    let stopped = node.stop().await;
    ended.and(stopped)
}

pub(super) fn init_logs(config: &Config) {
    let json = config.telemetry.log_format == LogFormat::Json;
    telemetry::init_logs(&config.telemetry.log_filter, json);
}

/// A reader of a pipe sees each line when it is printed.
pub(super) fn flush() {
    // Nobody reads any more: nothing to do about it here.
    std::io::stdout().flush().ok();
}
