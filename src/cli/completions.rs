//! `sluice completions`: what a shell needs to complete commands and options.

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::cli::{Cli, Failure, print};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Bash:  sluice completions bash > ~/.local/share/bash-completion/completions/sluice
Zsh:   sluice completions zsh > a folder of $fpath, as _sluice
Fish:  sluice completions fish > ~/.config/fish/completions/sluice.fish")]
pub struct Args {
    /// The shell
    #[arg(value_enum)]
    pub shell: Shell,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "sluice", &mut script);
    print::result(String::from_utf8_lossy(&script).trim_end())
}
