//! Bronze: every log record as it came, and what its contract makes of it.
//!
//! Pure: batches in, batches out. A record's row holds the payload unparsed, so nothing in a
//! payload can stop it and no contract change touches it; typed columns and verdicts are computed
//! from it by the contract of today.

mod accept;
mod decode;
mod events;
mod rows;
#[cfg(test)]
mod tests;
mod udf;

pub use accept::{Decision, Identities, Verdict, acceptance_rows, acceptance_schema};
pub use decode::{DecodedBatch, Judge, RuleError, quarantine_rows, quarantine_schema};
pub use rows::{Origin, bronze_rows, bronze_schema, headers_of, in_arrival_order, origins};
pub use udf::{
    WARNINGS, accepted_rows, accepted_schema, accepted_sql, bronze_view_schema, bronze_view_sql,
    decode_udf, decoded_sql, decoded_type,
};
