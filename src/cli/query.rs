//! `sluice query`: one SQL statement over Flight SQL, its rows on the terminal or in a file.

mod client;
mod output;

use std::{io::Write, path::PathBuf, time::Duration};

use clap::ValueEnum;
use futures::TryStreamExt;
use tokio_util::sync::CancellationToken;

pub(crate) use client::{Client, failed};

use crate::cli::Failure;

/// Runs one SQL statement and prints its rows.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The statement. `-` reads it from standard input.
    pub sql: String,
    /// Address of the Flight SQL server.
    #[arg(long, default_value = "grpc://127.0.0.1:50052", value_name = "URL")]
    pub url: String,
    /// How the rows are written. `json` is one object per line; `csv` has a header line and leaves
    /// nulls empty; times are ISO 8601 in UTC; `arrow` is an IPC stream, for --output or a pipe.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
    /// Wait until the tables that are read reach these positions (`clicks/0=41,clicks/1=17`), or
    /// `all`: until everything that is in the log now is in every table.
    #[arg(long, value_name = "POSITIONS")]
    pub after: Option<String>,
    /// Write to this file instead of standard output.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Give up after this many seconds.
    #[arg(long, default_value_t = 300, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub timeout: u64,
}

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Table,
    Csv,
    Json,
    Arrow,
}

/// Runs the command. `stop` ends it at once: the server gives up a query whose caller has gone.
pub async fn run(args: Args, stop: CancellationToken) -> Result<(), Failure> {
    unless_stopped(&stop, query(args)).await
}

/// Does `work` until it ends, or drops it as soon as `stop` is asked for.
pub(crate) async fn unless_stopped<T>(
    stop: &CancellationToken,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    tokio::select! {
        ended = work => ended,
        () = stop.cancelled() => Err(Failure::stopped()),
    }
}

async fn query(args: Args) -> Result<(), Failure> {
    let sql = if args.sql == "-" { standard_input().await? } else { args.sql };
    if args.format == Format::Arrow && args.output.is_none() && output::is_terminal() {
        let message = "arrow is binary: give --output FILE, or send standard output to a file";
        return Err(Failure::invalid(message));
    }
    let mut client = Client::connect(&args.url, Duration::from_secs(args.timeout)).await?;
    if let Some(after) = &args.after {
        client.after(after)?;
    }
    let ticket = client.plan(&sql).await?;
    let mut rows = client.rows(ticket).await?;
    let mut writer = output::Writer::new(args.format, sink(args.output.as_deref())?);
    while let Some(batch) = rows.try_next().await.map_err(failed)? {
        writer.write(&batch)?;
        if writer.is_abandoned() {
            return Ok(());
        }
    }
    writer.finish(rows.schema())
}

/// All of standard input. Read on a thread that nobody waits for once the command is stopped.
async fn standard_input() -> Result<String, Failure> {
    let read = tokio::task::spawn_blocking(|| std::io::read_to_string(std::io::stdin()));
    let read = read.await.unwrap_or_else(|error| Err(std::io::Error::other(error)));
    read.map_err(|error| Failure::invalid(format!("read the statement from stdin: {error}")))
}

fn sink(path: Option<&std::path::Path>) -> Result<Box<dyn Write + Send>, Failure> {
    let Some(path) = path else { return Ok(Box::new(std::io::stdout())) };
    let file = std::fs::File::create(path).map_err(|error| {
        Failure::unavailable(format!("create the file {}: {error}", path.display()))
    })?;
    Ok(Box::new(std::io::BufWriter::new(file)))
}
