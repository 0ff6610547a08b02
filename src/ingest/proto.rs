//! The wire contract, generated from `proto/sluice/ingest/v1`.
#![allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub)]

tonic::include_proto!("sluice.ingest.v1");

/// Descriptors of the services, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/ingest.bin"));
