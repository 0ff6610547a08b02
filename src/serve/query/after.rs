//! Reading one's own writes: waiting until the tables of a query reach given positions.

use crate::{
    domain::{Positions, TableName},
    lake::LakeView,
};

/// Whether every table behind `names` reaches `wanted`, as far as its streams feed it. Seeds, and
/// tables that only seeds feed, never wait.
pub(crate) fn reached(view: &LakeView, names: &[TableName], wanted: &Positions) -> bool {
    view.positions_of(names).covers(&wanted.only(&view.streams_of(names)))
}

/// Where the tables behind `names` are, for a message.
pub(crate) fn standing(view: &LakeView, names: &[TableName]) -> String {
    view.positions_of(names).to_string()
}
