//! From SQL text to a stream of batches: guard, wait, plan, run.

mod after;
mod engine;
mod guard;
mod options;
mod plans;
mod run;
mod statement;

pub(crate) use engine::{Engine, Planned};
pub use guard::{Counted, GuardError};
pub(crate) use options::{After, Freshness, Options, POSITIONS, deadline};
pub(crate) use plans::{KEPT_FOR as PLANS_KEPT_FOR, Plans};
pub(crate) use run::FlightStream;
