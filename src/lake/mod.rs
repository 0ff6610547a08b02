//! The lake: Delta tables whose commits carry positions, and the view that queries read.
//!
//! Only this module knows delta. Everything that is written goes through `commit`.

mod audit;
mod changes;
mod checkpoint;
mod commit;
mod damage;
mod documents;
#[cfg(test)]
pub(crate) mod faults;
mod files;
mod follow;
mod history;
mod patch;
mod patches;
mod probe;
mod rebuild;
pub mod session;
mod store;
mod table;
#[cfg(test)]
mod tests;
mod upkeep;
pub mod view;

pub use audit::{Audited, AuditedFile, AuditedVersion};
pub use changes::{OFFSET, OffsetWindow, PARTITION, STREAM, conform};
pub use commit::{CommitError, Move};
pub use history::{Change, History, Version};
pub use patches::Patches;
pub use probe::{Probe, ProbeError, probe};
pub use rebuild::{Rebuild, Rebuilt, Stored};
pub use store::FsyncStore;
pub use table::{Lake, LakeError, Table, TableSpec, reason_of};
pub use upkeep::{Compacted, Compaction, SMALL_FILES};
pub use view::{
    Committed, Derive, LakeHandle, LakeView, Overlay, RelationInfo, RelationKind, TableState,
    ViewState,
};
