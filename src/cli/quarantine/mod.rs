//! `sluice quarantine`: the records that broke their contract, and what is decided about them.

mod output;
mod work;

use clap::{Subcommand, ValueEnum};
use tokio_util::sync::CancellationToken;

use self::work::Which;
use crate::{
    cli::{Failure, admin::Client, print, query::unless_stopped},
    domain::{
        Place,
        quarantine::{PLACES_MAX, Shown},
    },
};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// List what is in quarantine
    List(ListArgs),
    /// Show one record: payload, rules, message, identity, headers, and what became of it
    Show(ShowArgs),
    /// Append records to the log again, once their contract is mended. Each is accepted once,
    /// however often it is replayed; what still breaks the contract stays in quarantine
    Replay(ReplayArgs),
    /// Take records out of quarantine for good; `system.quarantine` goes on showing them
    Discard(DiscardArgs),
}

#[derive(Debug, clap::Args)]
pub(super) struct Server {
    /// Address of the server's HTTP port
    #[arg(long, default_value = "http://127.0.0.1:8080", value_name = "URL")]
    url: String,
}

#[derive(Debug, clap::Args)]
pub struct ListArgs {
    /// Of this stream only
    stream: Option<String>,
    /// Only those that broke this rule
    #[arg(long)]
    rule: Option<String>,
    /// List so many at most
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    /// How the records are written; `json` is one object per line
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    #[command(flatten)]
    server: Server,
}

/// How the list is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    Table,
    Json,
    Csv,
}

#[derive(Debug, clap::Args)]
pub struct ShowArgs {
    /// Name of the stream
    stream: String,
    /// The record, as `list` names it
    #[arg(value_name = "PARTITION/OFFSET")]
    position: Place,
    #[command(flatten)]
    server: Server,
}

/// Which records of a stream.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub(super) struct Selection {
    /// These records, as `list` names them
    #[arg(value_name = "PARTITION/OFFSET")]
    positions: Vec<Place>,
    /// All that broke this rule
    #[arg(long)]
    rule: Option<String>,
    /// All
    #[arg(long)]
    all: bool,
}

#[derive(Debug, clap::Args)]
pub struct ReplayArgs {
    /// Name of the stream
    stream: String,
    #[command(flatten)]
    selection: Selection,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Append so many at once
    #[arg(long, default_value_t = 500, value_name = "N", value_parser = batch())]
    batch: u32,
    #[command(flatten)]
    server: Server,
}

#[derive(Debug, clap::Args)]
pub struct DiscardArgs {
    /// Name of the stream
    stream: String,
    #[command(flatten)]
    selection: Selection,
    /// Why; `system.quarantine` shows it
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    server: Server,
}

#[allow(clippy::cast_possible_wrap, reason = "a thousand")]
fn batch() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=PLACES_MAX as i64)
}

/// Runs the command. `stop` ends it between two batches of a replay or discard.
pub(super) async fn run(command: Command, stop: CancellationToken) -> Result<(), Failure> {
    match command {
        Command::List(args) => unless_stopped(&stop, list(args)).await,
        Command::Show(args) => unless_stopped(&stop, show(args)).await,
        Command::Replay(args) => {
            let client = Client::new(&args.server.url, "quarantine")?;
            let which = Which::of(args.stream, args.selection);
            work::replay(&client, &which, args.batch as usize, args.dry_run, &stop).await
        }
        Command::Discard(args) => {
            let client = Client::new(&args.server.url, "quarantine")?;
            let which = Which::of(args.stream, args.selection);
            work::discard(&client, &which, &args.reason, &stop).await
        }
    }
}

async fn list(args: ListArgs) -> Result<(), Failure> {
    let client = Client::new(&args.server.url, "quarantine")?;
    let limit = args.limit.to_string();
    let mut query = vec![("limit", limit.as_str())];
    query.extend(args.stream.as_deref().map(|stream| ("stream", stream)));
    query.extend(args.rule.as_deref().map(|rule| ("rule", rule)));
    let listed = client.get(&[], &query).await?;
    output::list(&listed, args.format)
}

async fn show(args: ShowArgs) -> Result<(), Failure> {
    let client = Client::new(&args.server.url, "quarantine")?;
    let place = args.position.to_string();
    let path: Vec<&str> =
        [args.stream.as_str(), "records"].into_iter().chain(place.split('/')).collect();
    let shown: Shown = client.get(&path, &[]).await?;
    print::result(output::record(&shown))
}
