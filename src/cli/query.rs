//! `sluice query`: SQL over Flight SQL, its rows on the terminal or in a file; without SQL, a shell.

mod client;
mod commands;
mod editor;
mod output;
mod relations;
mod shell;
mod split;

use std::{
    io::{IsTerminal as _, Write},
    path::PathBuf,
    time::Duration,
};

use clap::ValueEnum;
use futures::TryStreamExt;
use tokio_util::sync::CancellationToken;

pub(crate) use client::{Client, failed};
pub(crate) use output::{Look, Writer};

use crate::{cli::Failure, domain::ErrorKind, ops::Stop};

/// Runs one SQL statement and prints its rows; without one, opens a shell.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The statement. `-` reads statements from standard input, each ended by `;`, up to the first
    /// that fails. Without it: a shell on a terminal, else as with `-`.
    pub sql: Option<String>,
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
pub async fn run(args: Args, stop: Stop) -> Result<(), Failure> {
    let shown = std::io::stdout().is_terminal();
    if args.sql.is_none() && shown && std::io::stdin().is_terminal() {
        return shell::run(args, stop).await;
    }
    if args.format == Format::Arrow && args.output.is_none() && shown {
        let message = "arrow is binary: give --output FILE, or send standard output to a file";
        return Err(Failure::invalid(message));
    }
    let token = stop.token();
    match args.sql.clone().filter(|sql| sql != "-") {
        Some(sql) => unless_stopped(&token, single(args, &sql)).await,
        None => unless_stopped(&token, script(args)).await,
    }
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

pub(super) async fn single(args: Args, sql: &str) -> Result<(), Failure> {
    let mut client = connect(&args).await?;
    let mut sink = Sink::to(args.output);
    answer(&mut client, sql, Look::plain(args.format), &mut sink).await.map(|_| ())
}

/// Runs the statements of standard input.
async fn script(args: Args) -> Result<(), Failure> {
    let statements = split::split(&standard_input().await?).all();
    if statements.is_empty() {
        let hint = "give one as an argument, or start the shell on a terminal";
        return Err(Failure::invalid(format!("standard input holds no statement: {hint}")));
    }
    if let (Format::Arrow, [_, second, ..]) = (args.format, &statements[..]) {
        let line = second.line;
        return Err(Failure::invalid(format!(
            "arrow holds the rows of one statement, but another begins in line {line}"
        )));
    }
    let mut client = connect(&args).await?;
    let mut sink = Sink::to(args.output);
    for statement in statements {
        let look = Look::plain(args.format);
        let answered = answer(&mut client, &statement.text, look, &mut sink).await;
        let place = format!("line {}", statement.line);
        if !answered.map_err(|failure| in_script(&failure, &place))? {
            break;
        }
    }
    Ok(())
}

/// A statement that fails is the work of a script that fails, whatever is wrong with it.
fn in_script(failure: &Failure, place: &str) -> Failure {
    let message = format!("{place}: {failure}");
    match failure.kind() {
        ErrorKind::Invalid => Failure::work(message),
        kind => Failure::new(kind, message),
    }
}

async fn connect(args: &Args) -> Result<Client, Failure> {
    let mut client = Client::connect(&args.url, Duration::from_secs(args.timeout)).await?;
    if let Some(after) = &args.after {
        client.after(after)?;
    }
    Ok(client)
}

/// Runs a statement and writes its rows as they come. Whether anybody still reads them.
async fn answer(
    client: &mut Client,
    sql: &str,
    look: Look,
    sink: &mut Sink,
) -> Result<bool, Failure> {
    let ticket = client.plan(sql).await?;
    let mut rows = client.rows(ticket).await?;
    let mut writer = Writer::new(look, sink.open()?);
    while let Some(batch) = rows.try_next().await.map_err(failed)? {
        writer.write(&batch)?;
        if writer.is_done() {
            break;
        }
    }
    writer.finish(rows.schema())
}

/// Where rows go: a file, else standard output.
#[derive(Default)]
struct Sink {
    path: Option<PathBuf>,
    open: Option<Box<dyn Write + Send>>,
}

impl Sink {
    fn to(path: Option<PathBuf>) -> Self {
        Self { path, open: None }
    }

    /// Makes the file when the first rows come, so that a wrong statement leaves an old one alone.
    fn open(&mut self) -> Result<&mut (dyn Write + Send), Failure> {
        let open: Box<dyn Write + Send> = match (self.open.take(), &self.path) {
            (Some(open), _) => open,
            (None, None) => Box::new(std::io::stdout()),
            (None, Some(path)) => {
                let file = std::fs::File::create(path).map_err(|error| {
                    Failure::unavailable(format!("create the file {}: {error}", path.display()))
                })?;
                Box::new(std::io::BufWriter::new(file))
            }
        };
        Ok(self.open.insert(open).as_mut())
    }
}

/// All of standard input. Read on a thread that nobody waits for once the command is stopped.
async fn standard_input() -> Result<String, Failure> {
    let read = tokio::task::spawn_blocking(|| std::io::read_to_string(std::io::stdin()));
    let read = read.await.unwrap_or_else(|error| Err(std::io::Error::other(error)));
    read.map_err(|error| Failure::invalid(format!("read the statements from stdin: {error}")))
}
