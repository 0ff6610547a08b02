//! `sluice bench`: what this machine does.
//!
//! Every benchmark prints its settings, a rate, CPU, p50/p99 and peak memory, and where there is
//! one, a baseline measured in the same run: figures of different runs are not comparable.

mod bare;
mod end_to_end;
mod ingest;
mod kafka;
mod process;
mod publisher;
mod query;
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
    /// Acked events per second through one stream, beside bare appends to the store below the log,
    /// or beside Kafka's own producer
    Ingest(ingest::Args),
    /// From gRPC to Silver and Gold over Flight SQL, all in one server
    EndToEnd(end_to_end::Args),
    /// Queries over Flight SQL, beside the same queries without the wire
    Query(query::Args),
}

/// Runs a benchmark; `stop` ends it early.
pub(super) async fn run(args: Args, stop: CancellationToken) -> Result<(), Failure> {
    match args.what {
        What::Ingest(args) => until(&stop, Box::pin(ingest::run(args))).await,
        What::EndToEnd(args) => Box::pin(end_to_end::run(args, &stop)).await,
        What::Query(args) => until(&stop, Box::pin(query::run(args))).await,
    }
}

/// For a benchmark that leaves nothing behind when it is dropped.
async fn until(
    stop: &CancellationToken,
    work: impl Future<Output = Result<(), Failure>>,
) -> Result<(), Failure> {
    tokio::select! {
        ended = work => ended,
        () = stop.cancelled() => Err(stopped()),
    }
}

fn stopped() -> Failure {
    Failure::work("stopped before the end: there are no figures")
}
