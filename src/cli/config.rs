//! `sluice config`: the effective configuration.

use crate::{
    cli::{Failure, ServerFlags, print},
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
        return print::result(DEFAULTS.trim_end());
    }
    print::result(args.server.load()?.render())
}
