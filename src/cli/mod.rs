//! The command line: one file per subcommand.

mod bench;
mod check;
mod config;
mod contracts;
mod demo;
mod doctor;
mod example;
mod failure;
mod flags;
mod folders;
pub mod generate;
mod log;
mod node;
mod plan;
mod print;
pub mod push;
mod quarantine;
pub mod query;
mod rebuild;
mod status;
mod up;
mod verify;
pub mod wait;

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
    /// Run a project: ingest, processing and serving in one process
    Up(up::Args),
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
    /// Look whether log, lake, ports and machine are fit for a server, and say how to mend them
    Doctor(doctor::Args),
    /// Check that a lake keeps its promises: nothing lost, nothing twice, every table what its SQL
    /// gives
    Verify(verify::Args),
    /// Make tables anew whose model, or what it reads, is defined otherwise by now
    Rebuild(rebuild::Args),
    /// Decide about records that broke their contract: list, show, replay, discard
    #[command(subcommand)]
    Quarantine(quarantine::Command),
    /// Decide about the log: adopt another one
    #[command(subcommand)]
    Log(log::Command),
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
        Command::Up(args) => up::run(args, stop.token()).await,
        Command::Push(args) => push::run(args, stop.token()).await,
        Command::Generate(args) => generate::run(args, stop.token()).await,
        Command::Query(args) => query::run(args, stop).await,
        Command::Wait(args) => wait::run(args, stop.token()).await,
        Command::Status(args) => status::run(args, stop.token()).await,
        Command::Bench(args) => bench::run(args, stop.token()).await,
        Command::Check(args) => check::run(args).await,
        Command::Plan(args) => plan::run(args).await,
        Command::Doctor(args) => doctor::run(args, stop.token()).await,
        Command::Verify(args) => verify::run(args).await,
        Command::Rebuild(args) => rebuild::run(args).await,
        Command::Quarantine(command) => quarantine::run(command, stop.token()).await,
        Command::Log(command) => log::run(command).await,
        Command::Config(args) => config::run(&args),
    }
}
