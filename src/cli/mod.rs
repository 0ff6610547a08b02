//! The command line: one file per subcommand.

mod failure;

pub use failure::{Failure, chain};
