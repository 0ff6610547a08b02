//! Reading one's own writes: waiting until the tables of a query reach given positions.

use crate::{
    domain::{Positions, TableName},
    lake::LakeView,
    serve::{QueryError, error::closest, query::options::AFTER},
};

/// Refuses positions of streams and partitions that do not exist: no table ever reaches them.
pub(crate) fn check(view: &LakeView, wanted: &Positions) -> Result<(), QueryError> {
    let known = &view.partitions;
    for (stream, partition, _) in wanted.iter().filter(|_| !known.is_empty()) {
        let problem = match known.get(stream) {
            Some(count) if partition < *count => continue,
            Some(count) => {
                format!("stream {stream} has no partition {partition}, only 0 to {}", count - 1)
            }
            None => {
                let near = closest(stream, known.keys().map(String::as_str));
                let hint = near.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
                format!("there is no stream {stream}{hint}")
            }
        };
        return Err(QueryError::Option(format!("{AFTER}: {problem}")));
    }
    Ok(())
}

/// Whether every table behind `names` reaches `wanted`, as far as its streams feed it. Seeds, and
/// tables that only seeds feed, never wait.
pub(crate) fn reached(view: &LakeView, names: &[TableName], wanted: &Positions) -> bool {
    view.positions_of(names).covers(&wanted.only(&view.streams_of(names)))
}

/// Where the tables behind `names` are, for a message.
pub(crate) fn standing(view: &LakeView, names: &[TableName]) -> String {
    view.positions_of(names).to_string()
}
