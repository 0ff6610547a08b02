//! The ways in which a model is kept.

use std::fmt;

/// How a model is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Computed when read.
    View,
    /// Row by row: new input rows give new output rows.
    Append,
    /// Row by row, where input rows may change: each makes the output row under its key.
    Project,
    /// Running values per group: new and gone input rows change the groups that they are in.
    Aggregate,
    /// Of the rows of each key the first in an order.
    Keyed,
    /// Rows of one input joined to what is known of them, such as dimensions.
    Lookup,
    /// Its SQL over the rows of the input under the keys that were touched.
    ByKey,
    /// Computed whole when inputs moved.
    Recompute,
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::View => "view",
            Self::Append | Self::Project => "append",
            Self::Aggregate => "aggregate",
            Self::Keyed => "keyed",
            Self::Lookup => "lookup",
            Self::ByKey => "by key",
            Self::Recompute => "recompute",
        })
    }
}

impl Class {
    /// Whether a table of this class only grows, and each row carries its place in a log.
    pub fn is_by_offset(self) -> bool {
        self == Self::Append
    }

    /// Whether it is kept by the changes of its input, without looking at the rest of it.
    pub fn is_by_changes(self) -> bool {
        use Class::{Aggregate, ByKey, Keyed, Lookup, Project};
        matches!(self, Project | Aggregate | Keyed | Lookup | ByKey)
    }
}
