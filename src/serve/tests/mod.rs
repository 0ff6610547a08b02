//! The serve role over real connections, on a lake that is only in memory.

mod client;
mod http;
mod metadata;
mod statements;
mod support;
mod waiting;
