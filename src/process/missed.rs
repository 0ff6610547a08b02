//! What a table that is kept by changes has not taken in of the tables that it reads, after a start.

use arrow::array::RecordBatch;

use crate::{
    domain::change::Change,
    lake::Table,
    process::{Error, derived::Derived, kept::Handed, relations::read_id},
};

/// What a table has not taken in of its inputs: of each parent what that made of its own start, and
/// its changes since the version that is recorded.
pub(super) async fn missed_of(
    table: &Table,
    parents: &[Option<(&Derived, Change)>],
) -> Result<Vec<Handed>, Error> {
    let mut all = Vec::with_capacity(parents.len());
    for parent in parents {
        let Some((parent, begun)) = parent else {
            all.push(Handed::default());
            continue;
        };
        let mut change = missed(table, parent).await?;
        change.extend(begun.clone());
        all.push((change, parent.at.positions.clone()));
    }
    Ok(all)
}

/// All rows of the parents, as what came of them.
pub(super) async fn whole(parents: &[Option<(&Derived, Change)>]) -> Result<Vec<Handed>, Error> {
    let mut all = Vec::with_capacity(parents.len());
    for parent in parents {
        let Some((parent, begun)) = parent else {
            all.push(Handed::default());
            continue;
        };
        let added = parent.told(&parent.table.all_rows().await?)?;
        let mut change = Change { added, removed: Vec::new() };
        change.extend(begun.clone());
        all.push((change, parent.at.positions.clone()));
    }
    Ok(all)
}

/// What a table has not taken in of a parent's changes: those since the version it records.
async fn missed(table: &Table, parent: &Derived) -> Result<Change, Error> {
    let recorded = table.position(&read_id(&parent.table.id()?));
    let recorded = recorded.and_then(|version| u64::try_from(version).ok());
    if recorded == Some(parent.table.version()) {
        return Ok(Change::default());
    }
    let Change { added, removed } = parent.table.change_since(recorded).await?;
    Ok(Change { added: parent.told(&added)?, removed: parent.told(&removed)? })
}

/// The rows that a table had when `reader` was made of it, as stored; an error if that is not known
/// any more.
pub(super) async fn rows_at(reader: &Table, parent: &Derived) -> Result<Vec<RecordBatch>, Error> {
    let recorded = reader.position(&read_id(&parent.table.id()?));
    let recorded = recorded.and_then(|version| u64::try_from(version).ok());
    if recorded.is_none() {
        let text = format!("{} was made anew", parent.info.name);
        return Err(Error::Internal(text));
    }
    let all = parent.table.all_rows().await?;
    if recorded == Some(parent.table.version()) {
        return Ok(all);
    }
    let Change { added, mut removed } = parent.table.change_since(recorded).await?;
    removed.extend(all);
    Ok(Change { added: removed, removed: added }.without_cancelled()?.added)
}
