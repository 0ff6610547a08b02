//! `sluice status`: how far a running server is, from its system tables.

use tokio_util::sync::CancellationToken;

use crate::cli::{
    Failure, print,
    query::{self, Format, unless_stopped},
};

/// What is asked for, each under its heading.
const QUESTIONS: [(&str, &str); 3] = [
    (
        "Streams",
        "SELECT stream, partition, held, position, committed, log_end, lag, state, why \
         FROM system.streams ORDER BY stream, partition",
    ),
    (
        "Tables",
        "SELECT schema || '.' || name AS \"table\", kind, version, rows, files, bytes, \
         uncommitted_bytes, last_checkpoint FROM system.tables ORDER BY 1",
    ),
    (
        "Models",
        "SELECT schema || '.' || name AS model, class, state, why, computed_at \
         FROM system.models ORDER BY 1",
    ),
];

/// Shows how far a running server is: streams with their lag, tables, models.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Address of the Flight SQL server.
    #[arg(long, default_value = "grpc://127.0.0.1:50052", value_name = "URL")]
    pub url: String,
    /// Give up after this many seconds.
    #[arg(long, default_value_t = 30, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub timeout: u64,
}

pub(super) async fn run(args: Args, stop: CancellationToken) -> Result<(), Failure> {
    unless_stopped(&stop, show(args)).await
}

async fn show(args: Args) -> Result<(), Failure> {
    for (heading, sql) in QUESTIONS {
        print::result(heading)?;
        let asked = query::Args {
            sql: Some(sql.to_owned()),
            url: args.url.clone(),
            format: Format::Table,
            after: None,
            output: None,
            timeout: args.timeout,
        };
        query::single(asked, sql).await?;
    }
    Ok(())
}
