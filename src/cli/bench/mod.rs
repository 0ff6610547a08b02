//! `sluice bench`: what this machine does.

pub mod ingest;
mod usage;
