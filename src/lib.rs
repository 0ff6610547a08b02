//! Sluice: events in over gRPC, tables out over Arrow Flight SQL.
//!
//! An event travels top to bottom through this list.

pub mod bronze; // every record as it came, and what its contract makes of it
pub mod cli; // one file per subcommand
pub mod config; // settings of every part
pub mod domain; // what an event, an identity, a position, a contract and a change are
pub mod ingest; // gRPC in: validate, publish, ack
pub mod lake; // Delta tables; a commit carries its positions; the view that queries read
pub mod log; // the durable log
pub mod models; // Silver and Gold: SQL kept up to date
pub mod ops; // clock, tasks, telemetry
pub mod process; // moves each stage forward, exactly once
pub mod project; // the user's streams, models and seeds, checked
pub mod serve; // Flight SQL and HTTP
pub mod verify; // whether a lake keeps its promises
