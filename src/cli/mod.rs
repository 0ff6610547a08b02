//! The command line: one file per subcommand.

mod failure;
pub mod query;
pub mod wait;

pub use failure::{Failure, chain};
