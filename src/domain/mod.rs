//! The vocabulary: what an event, an identity, a contract, a position and a change are.
//!
//! Pure data and pure functions over it. Nothing here does I/O, knows a clock or uses another
//! module of ours.

pub mod array;
mod assignment;
pub mod change;
pub mod columns;
pub mod compatibility;
pub mod content;
pub mod contract;
pub mod csv;
pub mod decode;
pub mod deployed;
mod durability;
mod error;
pub mod identity;
mod name;
mod place;
mod position;
pub mod previewed;
pub mod quarantine;
pub mod record;
pub mod sql_exprs;
pub mod sql_functions;
pub mod sql_guard;
pub mod sql_limits;
pub mod sql_ties;
pub mod tested;
pub mod timestamp;

pub use assignment::Assignment;
pub use durability::Durability;
pub use error::{ErrorKind, chain};
pub use name::{ACCEPTED, META_COLUMNS, TableName};
pub use place::{ParsePlaceError, Place};
pub use position::{Offset, ParsePositionsError, Partition, Positions};
