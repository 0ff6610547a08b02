//! The checker: whether a lake keeps the promises of `docs/promises.md`.
//!
//! [`collect`] reads a lake into plain [`Facts`], [`check`] is a pure function of these and of what
//! producers say that they sent. Operators run it as `sluice verify`, the tests of every tier
//! after each fault.

mod check;
mod collect;
mod content;
mod facts;
mod history;
mod report;
#[cfg(test)]
mod tests;

pub use check::check;
pub use collect::{Error, collect};
pub use facts::{Facts, Part, Unread};
pub use history::{HistoryError, Outcome, Sent, read};
pub use report::{Finding, Kind, Report};
