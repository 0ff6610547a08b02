//! `sluice config`: the effective configuration.
#![allow(clippy::print_stdout)]

use crate::{
    cli::{Failure, ServerFlags},
    config::DEFAULTS,
};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub server: ServerFlags,
    /// Show the commented defaults instead
    #[arg(long)]
    pub defaults: bool,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    if args.defaults {
        println!("{}", DEFAULTS.trim_end());
    } else {
        println!("{}", args.server.load()?.render());
    }
    Ok(())
}
