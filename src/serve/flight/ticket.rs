//! Tickets and prepared handles: they carry the statement itself, so any replica can answer them.

use prost::Message;

use crate::serve::{
    QueryError,
    query::{After, Freshness, Options},
};

/// A statement as it travels in a ticket or a handle.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Ticket {
    #[prost(string, tag = "1")]
    pub(crate) sql: String,
    #[prost(string, tag = "2")]
    after: String,
    #[prost(bool, tag = "3")]
    committed: bool,
    /// Number of the plan that this server keeps for it; 0: none.
    #[prost(uint64, tag = "4")]
    pub(crate) plan: u64,
}

impl Ticket {
    pub(crate) fn new(sql: &str, options: &Options, plan: u64) -> Self {
        Self {
            sql: sql.to_owned(),
            after: options.after.text(),
            committed: options.freshness == Freshness::Committed,
            plan,
        }
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, QueryError> {
        Self::decode(bytes)
            .map_err(|_| QueryError::Option("the handle is not one of this server".to_owned()))
    }

    pub(crate) fn options(&self) -> Result<Options, QueryError> {
        let freshness = if self.committed { Freshness::Committed } else { Freshness::Hot };
        Ok(Options { after: After::parse(&self.after)?, freshness })
    }
}
