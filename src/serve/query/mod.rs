//! From SQL text to a stream of batches: guard, wait, plan, run.

mod after;
mod engine;
mod options;
mod past;
mod plans;
mod run;
mod statement;

pub use crate::domain::sql_guard::{Counted, GuardError};
pub(crate) use engine::{Engine, Planned};
pub(crate) use options::{After, Freshness, Options, POSITIONS, deadline};
pub(crate) use plans::{KEPT_FOR as PLANS_KEPT_FOR, Plans};
pub(crate) use run::FlightStream;
