//! `sluice bench`: what this machine does.

mod ingest;
mod usage;

use clap::Subcommand;
use tokio_util::sync::CancellationToken;

use crate::cli::Failure;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    pub what: What,
}

#[derive(Debug, Subcommand)]
pub enum What {
    /// Acked events per second through one stream
    Ingest(ingest::Args),
}

/// Runs a benchmark; `stop` ends it early.
pub async fn run(args: Args, _stop: CancellationToken) -> Result<(), Failure> {
    match args.what {
        What::Ingest(args) => ingest::run(args).await,
    }
}
