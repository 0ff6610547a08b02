use serde::{Deserialize, Serialize};

/// What "durable" means for the lake's and the log's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// Survives a power failure.
    #[default]
    Fsync,
    /// Survives the end of the process, not that of the machine.
    Os,
}
