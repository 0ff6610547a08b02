//! The serve role: reads the lake, never writes it.
//!
//! Arrow Flight SQL for queries and metadata, HTTP for health, status and metrics. Every query pins
//! one [`LakeView`](crate::lake::LakeView), so it sees each row exactly once and all tables at one
//! instant. SQL is read-only: that is checked on every plan, whatever it came from.

pub mod admin;
mod error;
pub mod flight;
pub mod http;
mod metadata;
mod metrics;
mod query;
mod settings;
#[cfg(test)]
mod tests;
mod wire;

pub use error::{Error, QueryError};
pub use query::{Counted, GuardError};
pub use settings::Settings;
