//! `sluice wait`: returns when everything acked so far can be queried.

use std::time::Duration;

use futures::TryStreamExt;
use tokio_util::sync::CancellationToken;

use crate::cli::{
    Failure,
    query::{Client, unless_stopped},
};

/// Waits until everything that is in the log now is in every table, also in those that are rebuilt
/// less often.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Address of the Flight SQL server.
    #[arg(long, default_value = "grpc://127.0.0.1:50052", value_name = "URL")]
    pub url: String,
    /// Give up after this many seconds, with exit code 1.
    #[arg(long, default_value_t = 60, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub timeout: u64,
}

/// Runs the command. `stop` ends it at once.
pub async fn run(args: Args, stop: CancellationToken) -> Result<(), Failure> {
    unless_stopped(&stop, wait(args)).await
}

async fn wait(args: Args) -> Result<(), Failure> {
    let mut client = Client::connect(&args.url, Duration::from_secs(args.timeout)).await?;
    client.after("all")?;
    let ticket = client.plan("SELECT 1").await?;
    let rows = client.rows(ticket).await?;
    rows.try_collect::<Vec<_>>().await.map_err(crate::cli::query::failed)?;
    Ok(())
}
