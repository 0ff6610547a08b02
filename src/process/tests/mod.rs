//! The loop as a whole, on an embedded log and real Delta tables.

mod arrays;
mod by_key;
mod contracts;
mod deletes;
mod delivery;
mod failing;
mod group;
mod halted;
mod kept;
mod macros;
mod mistakes;
mod models;
mod projects;
mod quarantine;
mod rebuild;
mod sealing;
mod several;
mod store;
pub(crate) mod support;
mod ties;
mod upkeep;
mod warnings;
