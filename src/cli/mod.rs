//! The command line: one file per subcommand.

mod failure;
pub mod generate;
pub mod push;

pub use failure::{Failure, chain};
