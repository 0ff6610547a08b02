//! What a deployment of a changed project did.

use serde::{Deserialize, Serialize};

/// What a deployment did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployed {
    /// Tables made anew, parents first.
    pub rebuilt: Vec<RebuiltTable>,
    /// Tables that could not be, and why: they are as they were, and do not follow.
    pub failed: Vec<FailedTable>,
    /// Relations that are new, and that are gone: their tables stay where they are.
    pub added: Vec<String>,
    pub removed: Vec<String>,
    /// Warnings about the project.
    pub warnings: Vec<String>,
    pub took_ms: u64,
}

/// A table that was made anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RebuiltTable {
    pub table: String,
    pub rows: u64,
    pub files: u64,
    pub took_ms: u64,
}

/// A table that could not be made anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedTable {
    pub table: String,
    pub reason: String,
}
