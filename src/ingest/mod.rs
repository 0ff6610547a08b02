//! Events in: the gRPC services that validate, stamp and append events, and ack what is durable.

mod acker;
mod judge;
mod metrics;
mod producers;
pub mod proto;
mod server;
mod service;
mod settings;
mod status;
mod stream;
mod tasks;

#[cfg(test)]
mod tests;

pub use server::{Error, run};
pub use service::{Contracts, Service};
pub use settings::Settings;
