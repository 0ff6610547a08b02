//! Events in: the gRPC services that validate, stamp and append events, and ack what is durable.

pub mod proto;
