//! The models that are measured, compiled. Their project is a folder here, which the baselines of
//! other engines read too.

use std::{path::Path, sync::Arc};

use arrow::datatypes::SchemaRef;
use rust_embed::RustEmbed;

use crate::{
    bronze::accepted_schema,
    cli::{Failure, check, example},
    models::{Input, KeptProgram, Program, RowProgram},
    process::{Driving, Planned},
};

#[derive(RustEmbed)]
#[folder = "src/cli/bench/models/project"]
struct Project;

pub(super) struct Programs {
    pub(super) rows: Arc<RowProgram>,
    pub(super) latest: Arc<dyn KeptProgram>,
    /// The columns of the stream.
    pub(super) accepted: SchemaRef,
    pub(super) totals: Arc<dyn KeptProgram>,
    pub(super) named: Arc<dyn KeptProgram>,
    pub(super) spread: Arc<dyn KeptProgram>,
    /// The rows that drive `spread`.
    pub(super) driving: Driving,
    /// SQL over a relation `rows`.
    pub(super) totals_sql: String,
    pub(super) spread_sql: String,
}

impl Programs {
    /// Compiles the models of the project, which is written to `folder`.
    pub(super) fn compile(folder: &Path) -> Result<Self, Failure> {
        let files = Project::iter().filter_map(|name| Project::get(&name).map(|file| (name, file)));
        files.into_iter().try_for_each(|(name, file)| example::write(folder, &name, &file.data))?;
        let planned = check::load(folder)?;
        let program = |name: &str| {
            let plan = planned.plans.iter().find(|plan| plan.model.name.name == name);
            plan.map_or(&Program::None, |plan| &plan.program)
        };
        let kept = |name: &str| match program(name) {
            Program::Kept(kept) => Some(Arc::clone(kept)),
            Program::None | Program::Rows(_) => None,
        };
        let other =
            || Failure::work("the models are kept in other ways than those that are measured");
        let Program::Rows(rows) = program("rows") else { return Err(other()) };
        let contract = planned.judges.iter().map(|judge| judge.contract()).next();
        let spread = kept("spread").filter(|spread| spread.by_key().is_some());
        Ok(Self {
            rows: Arc::clone(rows),
            latest: kept("latest").ok_or_else(other)?,
            accepted: contract.map(|contract| accepted_schema(contract)).ok_or_else(other)?,
            totals: kept("totals").ok_or_else(other)?,
            named: kept("named").ok_or_else(other)?,
            spread: spread.ok_or_else(other)?,
            driving: driving(&planned, "spread")?,
            totals_sql: sql("models/gold/totals.sql"),
            spread_sql: sql("models/gold/spread.sql"),
        })
    }
}

/// A model's text, over a relation `rows` where it refers to that model.
fn sql(name: &str) -> String {
    let text = Project::get(name).map(|file| String::from_utf8_lossy(&file.data).into_owned());
    text.unwrap_or_default().replace("{{ ref('rows') }}", "rows")
}

/// The rows that drive a model.
fn driving(planned: &Planned, name: &str) -> Result<Driving, Failure> {
    let reads = planned.plans.iter().find(|plan| plan.model.name.name == name);
    let table = reads.and_then(|plan| plan.tables.first().cloned());
    let table = table.ok_or_else(|| Failure::work(format!("{name} reads no table")))?;
    let driving = Driving::of(planned, &Input::Table(table));
    driving.map_err(|e| Failure::new(e.kind(), e.to_string()))
}
