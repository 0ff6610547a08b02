//! Silver and Gold: SQL models as tables that follow their inputs.
//!
//! Pure: the planner says how each model is kept and why, the row-wise form turns input rows into
//! output rows. Running and storing is up to `process`.

mod append;
mod plan;
mod reads;
mod types;

#[cfg(test)]
mod tests;

pub use append::{RowProgram, RowProgramError};
pub use plan::{Class, Input, Plan, Relation, plan_project};
pub use types::{storable, storable_batch};
