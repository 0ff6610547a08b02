//! Tables made anew, where their model or what it reads is defined otherwise by now.
//!
//! From tables alone, parents first: row-wise models from Bronze and the recorded decisions, the
//! others by their SQL. Each table gets new files beside the old ones and one commit, which never
//! moves a position back. No server may be running.

mod changes;
mod meter;
mod work;

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use crate::{
    domain::TableName,
    lake::{Lake, Rebuilt},
    models::{Class, Plan},
    process::{Error, Planned, rebuild::work::Work},
};

pub use changes::{ColumnChange, TableChange, changes};
pub use meter::{Meter, Reading};

/// A table that was to be made anew.
#[derive(Debug)]
pub struct Done {
    pub table: TableName,
    pub outcome: Outcome,
    pub took: Duration,
}

/// What became of it.
#[derive(Debug)]
pub enum Outcome {
    Rebuilt(Rebuilt),
    /// It is as it was, and why.
    Failed(String),
}

/// The tables that were built by another definition than that of their model, parents first.
pub async fn outdated(planned: &Planned, lake: &Lake) -> Result<Vec<TableName>, Error> {
    let mut found = Vec::new();
    for plan in stored(planned) {
        let name = &plan.model.name;
        if let Some(stored) = lake.stored(name).await?
            && stored.table.fingerprint()? != plan.fingerprint
        {
            found.push(name.clone());
        }
    }
    Ok(found)
}

/// Makes the tables of `names` anew, or of every outdated model where there are none, and all that
/// reads them. `meter` tells how far it is; `told` hears of each table when it is done.
pub async fn rebuild(
    planned: &Planned,
    lake: &Lake,
    names: &[TableName],
    meter: &Meter,
    mut told: impl FnMut(&Done),
) -> Result<Vec<Done>, Error> {
    let outdated = outdated(planned, lake).await?;
    let chosen = if names.is_empty() { outdated.as_slice() } else { names };
    let mut work = Work::open(planned, lake, meter).await?;
    let wanted = wanted(planned, chosen, |name| work.has(name));
    let mut unfit: BTreeSet<TableName> =
        outdated.into_iter().filter(|name| !wanted.contains(name)).collect();
    let mut all = Vec::new();
    for plan in stored(planned).filter(|plan| wanted.contains(&plan.model.name)) {
        let (started, table) = (Instant::now(), plan.model.name.clone());
        meter.begin(&table);
        let outcome = match plan.tables.iter().find(|parent| unfit.contains(parent)) {
            Some(parent) => {
                Outcome::Failed(format!("it reads {parent}, which is of another definition"))
            }
            None => match work.rebuild(plan).await {
                Ok(rebuilt) => Outcome::Rebuilt(rebuilt),
                Err(error) => Outcome::Failed(reason(error)?),
            },
        };
        if matches!(outcome, Outcome::Failed(_)) {
            unfit.insert(table.clone());
        }
        let done = Done { table, outcome, took: started.elapsed() };
        told(&done);
        all.push(done);
    }
    Ok(all)
}

fn stored(planned: &Planned) -> impl Iterator<Item = &Plan> {
    planned.plans.iter().filter(|plan| plan.class != Class::View)
}

/// The tables to make: those chosen, all that reads them, and what these read and is not there.
fn wanted(
    planned: &Planned,
    chosen: &[TableName],
    is_there: impl Fn(&TableName) -> bool,
) -> BTreeSet<TableName> {
    let mut wanted: BTreeSet<TableName> = chosen.iter().cloned().collect();
    for plan in stored(planned) {
        if plan.tables.iter().any(|parent| wanted.contains(parent)) {
            wanted.insert(plan.model.name.clone());
        }
    }
    let plans: Vec<&Plan> = stored(planned).collect();
    let models: BTreeSet<&TableName> = plans.iter().map(|plan| &plan.model.name).collect();
    for plan in plans.iter().rev() {
        if wanted.contains(&plan.model.name) {
            let parents = plan.tables.iter().filter(|parent| models.contains(parent));
            wanted.extend(parents.filter(|parent| !is_there(parent)).cloned());
        }
    }
    wanted
}

/// Why one table stays as it is while others go on; what is no matter of that table is an error.
fn reason(error: work::Failed) -> Result<String, Error> {
    match error {
        work::Failed::Sql(error) => Ok(error.strip_backtrace()),
        work::Failed::Row(error) => Ok(error.reason()),
        work::Failed::Behind(input) => Ok(format!(
            "{input} does not reach as far as it does: start the server once, so that it catches up"
        )),
        work::Failed::Missing(input) => Ok(format!(
            "it reads {input}, which the lake does not have: start the server once, which makes it"
        )),
        work::Failed::Commit(error) => Err(error.into()),
        work::Failed::Other(error) => Err(error),
    }
}
