use std::fmt;

/// The two-part name of a table: `gold.dim_film`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableName {
    pub schema: String,
    pub name: String,
}

/// Schema under which a model sees the accepted rows of a stream.
pub const ACCEPTED: &str = "accepted";
/// Columns that every accepted row carries beside the fields of its contract.
pub const META_COLUMNS: [&str; 8] =
    ["_topic", "_partition", "_offset", "_index", "_ts", "_key", "_event_id", "_ingested_at"];

impl TableName {
    pub fn new(schema: impl Into<String>, name: impl Into<String>) -> Self {
        Self { schema: schema.into(), name: name.into() }
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}
