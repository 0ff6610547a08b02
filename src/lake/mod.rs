//! The lake: Delta tables whose commits carry positions, and the view that queries read.

pub mod session;
pub mod view;

pub use view::{
    Committed, LakeHandle, LakeView, Overlay, RelationInfo, RelationKind, TableState, ViewState,
};
