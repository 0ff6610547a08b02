//! Sluice: events in over gRPC, tables out over Arrow Flight SQL.
//!
//! An event travels top to bottom through this list.

pub mod cli;
pub mod domain; // what an event, an identity, a position, a contract and a change are
pub mod ingest; // gRPC in: validate, publish, ack
pub mod lake; // Delta tables; a commit carries its positions; the view that queries read
pub mod log; // the durable log // one file per subcommand
pub mod serve; // Flight SQL and HTTP, over the view of the moment
