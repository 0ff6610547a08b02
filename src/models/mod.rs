//! Silver and Gold: SQL models as tables that follow their inputs.
//!
//! Pure: the planner says how each model is kept and why, and each way of keeping one turns changes
//! of its input into changes of its rows. Running and storing is up to `process`.

mod aggregate;
mod append;
mod by_key;
mod class;
mod classify;
mod constants;
mod diagnose;
mod kept;
mod keyed;
mod known;
mod lineage;
mod lookup;
mod plan;
mod reads;
mod shape;
mod steps;
mod test_plan;
mod types;
mod unit_plan;
mod united;

#[cfg(test)]
mod tests;

pub use append::{ProgramError, RowProgram};
pub use class::Class;
pub use diagnose::plain;
pub use kept::{Applied, KeptProgram, KeptState, with_key};
pub use lineage::Origin;
pub use lookup::Side;
pub use plan::{Input, Plan, Plans, Program, Relation, plan_project, relation_of};
pub use test_plan::TestPlan;
pub use types::{sql_columns, storable, storable_batch};
pub use unit_plan::{UnitInput, UnitPlan, UnitRows};
