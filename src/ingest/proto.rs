//! The wire contract, generated from `proto/sluice/ingest/v1`.
#![allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub, unused_qualifications)]
#![allow(rust_2018_idioms, clippy::clone_on_ref_ptr, clippy::or_fun_call)]

tonic::include_proto!("sluice.ingest.v1");

/// Descriptors of the services, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/ingest.bin"));
