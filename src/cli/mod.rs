//! The command line: one file per subcommand.

pub mod bench;
mod failure;

pub use failure::{Failure, chain};
