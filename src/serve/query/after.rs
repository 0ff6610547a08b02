//! Reading one's own writes: waiting until the tables of a query reach given positions.

use crate::{
    domain::{Positions, TableName},
    lake::{LakeView, RelationKind, TableState},
};

/// Whether every table behind `names` reaches `wanted`.
///
/// A table is held to the streams that it carries positions of. For a stream that it carries none
/// of, it may be that the stream does not feed it, or that nothing of it has arrived yet: then what
/// counts is how far the lake as a whole is. Seeds never wait.
pub(crate) fn reached(view: &LakeView, names: &[TableName], wanted: &Positions) -> bool {
    stored(view, names).all(|table| {
        wanted.iter().all(|(stream, partition, offset)| {
            let carries = table.positions.iter().any(|(carried, _, _)| carried == stream);
            let at = if carries { &table.positions } else { &view.positions };
            at.get(stream, partition).is_some_and(|at| at >= offset)
        })
    })
}

/// Where the tables behind `names` are, for a message.
pub(crate) fn standing(view: &LakeView, names: &[TableName]) -> String {
    let all = stored(view, names).map(|table| table.positions.clone());
    all.reduce(|a, b| a.meet(&b)).unwrap_or_default().to_string()
}

fn stored<'a>(view: &'a LakeView, names: &'a [TableName]) -> impl Iterator<Item = &'a TableState> {
    let behind = names.iter().flat_map(|name| match view.views.get(name) {
        Some(found) => found.reads.as_slice(),
        None => std::slice::from_ref(name),
    });
    let tables = behind.filter_map(|name| view.tables.get(name)).map(AsRef::as_ref);
    tables.filter(|table| !matches!(table.info.kind, RelationKind::Seed | RelationKind::System))
}
