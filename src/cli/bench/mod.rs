//! `sluice bench`: what this machine does.
//!
//! Every benchmark prints its settings, a rate, CPU, p50/p99 and peak memory, and where there is
//! one, a baseline measured in the same run: figures of different runs are not comparable.

mod backlog;
mod bare;
mod clicks;
mod dvd;
mod end_to_end;
mod freshness;
mod ingest;
mod kafka;
mod models;
mod probe;
mod process;
mod project;
mod publisher;
mod query;
mod rebalance;
mod server;
mod usage;
mod work;

use clap::Subcommand;
use tokio_util::sync::CancellationToken;

use crate::{cli::Failure, domain::TableName, lake::LakeView};

const ANY_PORT: &str = "127.0.0.1:0";

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
    /// How soon after its ack an event can be queried, with dvd-clicks under a steady load
    Freshness(freshness::Args),
    /// What is in the log into Bronze and Silver, beside the same records read and written bare
    Backlog(backlog::Args),
    /// A log full of clicks into Bronze, Silver without repeats, and Gold per minute and film
    Dvd(dvd::Args),
    /// How long partitions stand still while a second processor joins a group and leaves it
    Rebalance(rebalance::Args),
    /// What each way of keeping a model costs, beside computing it whole
    Models(models::Args),
    /// Queries over Flight SQL, beside the same queries without the wire
    Query(query::Args),
}

/// Runs a benchmark; `stop` ends it early.
pub(super) async fn run(args: Args, stop: CancellationToken) -> Result<(), Failure> {
    match args.what {
        What::Ingest(args) => until(&stop, Box::pin(ingest::run(args))).await,
        What::EndToEnd(args) => Box::pin(end_to_end::run(args, &stop)).await,
        What::Freshness(args) => Box::pin(freshness::run(args, &stop)).await,
        What::Dvd(args) => Box::pin(dvd::run(args, &stop)).await,
        What::Backlog(args) => Box::pin(backlog::run(args, &stop)).await,
        What::Rebalance(args) => Box::pin(rebalance::run(args, &stop)).await,
        What::Models(args) => until(&stop, Box::pin(models::run(args))).await,
        What::Query(args) => until(&stop, Box::pin(query::run(args))).await,
    }
}

/// For work that leaves nothing behind when it is dropped.
async fn until<T>(
    stop: &CancellationToken,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    tokio::select! {
        ended = work => ended,
        () = stop.cancelled() => Err(stopped()),
    }
}

/// The rows of a table that are in a Delta commit.
fn committed(view: &LakeView, schema: &str, name: &str) -> u64 {
    let table = view.tables.get(&TableName::new(schema, name));
    table.and_then(|table| table.committed.as_ref()).map_or(0, |committed| committed.rows)
}

fn stopped() -> Failure {
    Failure::work("stopped before the end: there are no figures")
}

/// The benchmark that a command line asks for, without the program's name.
#[cfg(test)]
fn read(words: Vec<String>) -> What {
    use clap::Parser as _;

    let cli = crate::cli::Cli::try_parse_from([String::from("sluice")].into_iter().chain(words));
    match cli.expect("arguments").command {
        crate::cli::Command::Bench(bench) => bench.what,
        _ => panic!("not bench"),
    }
}
