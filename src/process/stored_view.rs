//! What the tables of a lake hold as they are committed, as queries of a project see it.

use crate::{
    domain::TableName,
    lake::{Lake, LakeError, LakeView},
    models::Class,
    process::{
        Planned,
        quarantine::discarded,
        relations::{self, QUARANTINED, base_view, pinned, raw_name},
    },
};

/// A view of the committed tables of a project. Tables that were never made are missing from it.
pub async fn stored_view(planned: &Planned, lake: &Lake) -> Result<LakeView, LakeError> {
    let mut view = base_view(planned);
    let mut shown: Vec<(TableName, TableName)> = vec![(discarded(), discarded())];
    for contract in &planned.project.streams {
        let [bronze, acceptance, quarantine] = relations::stored_of(&contract.name);
        shown.push((bronze, raw_name(&contract.name)));
        shown.push((acceptance.clone(), acceptance));
        shown.push((quarantine, TableName::new(QUARANTINED, &contract.name)));
    }
    let seeds = planned.project.seeds.iter().map(|seed| &seed.name);
    let models = planned.plans.iter().filter(|plan| plan.class != Class::View);
    let tables = seeds.chain(models.map(|plan| &plan.model.name));
    shown.extend(tables.map(|name| (name.clone(), name.clone())));
    for (stored, shown) in shown {
        let Some(found) = lake.stored(&stored).await? else { continue };
        let committed = found.table.committed().await?;
        let (schema, version) = (found.table.schema(), found.table.version());
        let state = pinned(&shown, schema, version, committed.provider);
        view.tables.insert(shown, state);
    }
    Ok(view)
}
