//! The command line: one file per subcommand.

mod admin;
mod bench;
mod check;
mod completions;
mod config;
mod contracts;
mod demo;
mod deploy;
mod diff;
mod docs;
mod doctor;
mod example;
mod failure;
mod flags;
mod folders;
pub mod generate;
mod history;
mod init;
mod lineage;
mod log;
mod node;
mod plan;
mod preview;
mod print;
pub mod push;
mod quarantine;
pub mod query;
mod rebuild;
mod run;
mod show;
mod status;
mod test;
mod tested;
mod up;
mod verify;
pub mod wait;
mod watch;

use clap::{Parser, Subcommand};

pub use failure::Failure;
pub use flags::{LakeFlags, ServerFlags};
pub use node::{Bound, Node};

pub use crate::domain::chain;
use crate::ops::{Stop, crash};

/// A real-time lakehouse data plane: events in over gRPC, Delta tables out over Arrow Flight SQL.
#[derive(Debug, Parser)]
#[command(name = "sluice", version, propagate_version = true, arg_required_else_help = true)]
#[command(after_help = "Exit codes: 0 done, 1 the work failed, 2 bad usage, project or \
                        configuration, 69 a server or port is missing, 70 a defect of Sluice, \
                        130 stopped by Ctrl-C, or at once by a second")]
pub struct Cli {
    /// For tests: where the process is to end by SIGKILL
    #[arg(long, env = crash::VARIABLE, hide = true)]
    crash_at: Option<String>,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the built-in example, fed with real rentals and made-up clicks, and watch it
    Demo(demo::Args),
    /// Begin a new project, which works and can be changed into one's own
    Init(init::Args),
    /// Run a project: ingest, processing and serving in one process
    Up(up::Args),
    /// Run a project up to the end of its input, then its tests
    Run(run::Args),
    /// Run a project's tests: of a running server, or over a lake
    Test(test::Args),
    /// Push files into a stream of a running server
    Push(push::Args),
    /// Make up events
    Generate(generate::Args),
    /// Ask a running server with SQL; without a statement, in a shell
    Query(query::Args),
    /// Wait until everything acked so far can be queried
    Wait(wait::Args),
    /// Show how far a running server is: streams with their lag, tables, models
    Status(status::Args),
    /// Measure what this machine does
    Bench(bench::Args),
    /// Check a project without running it, and show how its models are kept
    Check(check::Args),
    /// Show how each model is kept and why, what it reads, and what an update costs
    Plan(plan::Args),
    /// Show the rows that a model's SQL gives, before it is deployed
    Show(show::Args),
    /// Show what a change of a model's SQL would change in its rows
    Diff(diff::Args),
    /// Show what is made of what: tables, or columns
    Lineage(lineage::Args),
    /// Show the versions of a table, which SQL can ask for
    History(history::Args),
    /// Write a project as web pages: tables, columns, tests, lineage, when they changed
    Docs(docs::Args),
    /// Look whether log, lake, ports and machine are fit for a server, and say how to mend them
    Doctor(doctor::Args),
    /// Check that a lake keeps its promises: nothing lost, nothing twice, every table what its SQL
    /// gives
    Verify(verify::Args),
    /// Make tables anew whose model, or what it reads, is defined otherwise by now
    Rebuild(rebuild::Args),
    /// Have a running server take over its changed project, while data flows
    Deploy(deploy::Args),
    /// Decide about records that broke their contract: list, show, replay, discard
    #[command(subcommand)]
    Quarantine(quarantine::Command),
    /// Decide about the log: adopt another one
    #[command(subcommand)]
    Log(log::Command),
    /// Print what a shell needs to complete commands and options
    Completions(completions::Args),
    /// Show the effective configuration and where each value comes from
    Config(config::Args),
}

/// Runs a command. `stop` tells Ctrl-C and SIGTERM.
pub async fn run(cli: Cli, stop: Stop) -> Result<(), Failure> {
    if let Some(plan) = &cli.crash_at {
        crash::arm(plan).map_err(Failure::invalid)?;
    }
    match cli.command {
        Command::Demo(args) => demo::run(args, stop.token()).await,
        Command::Init(args) => init::run(&args),
        Command::Up(args) => up::run(args, stop.token()).await,
        Command::Run(args) => Box::pin(run::run(args, stop.token())).await,
        Command::Test(args) => test::run(args, stop.token()).await,
        Command::Push(args) => push::run(args, stop.token()).await,
        Command::Generate(args) => generate::run(args, stop.token()).await,
        Command::Query(args) => query::run(args, stop).await,
        Command::Wait(args) => wait::run(args, stop.token()).await,
        Command::Status(args) => status::run(args, stop.token()).await,
        Command::Bench(args) => bench::run(args, stop.token()).await,
        Command::Check(args) => check::run(args).await,
        Command::Plan(args) => plan::run(args).await,
        Command::Show(args) => show::run(args, stop.token()).await,
        Command::Diff(args) => diff::run(args, stop.token()).await,
        Command::Lineage(args) => lineage::run(args).await,
        Command::History(args) => history::run(args).await,
        Command::Docs(args) => Box::pin(docs::run(args, stop.token())).await,
        Command::Doctor(args) => doctor::run(args, stop.token()).await,
        Command::Verify(args) => verify::run(args).await,
        Command::Rebuild(args) => rebuild::run(args).await,
        Command::Deploy(args) => deploy::run(args, stop.token()).await,
        Command::Quarantine(command) => quarantine::run(command, stop.token()).await,
        Command::Log(command) => log::run(command).await,
        Command::Completions(args) => completions::run(&args),
        Command::Config(args) => config::run(&args),
    }
}
