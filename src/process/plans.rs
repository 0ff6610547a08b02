//! From a checked project to what runs: the relations of its streams, and its models by the way
//! they are kept.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    bronze::{Judge, accepted_schema},
    domain::{TableName, contract::Contract, identity::fingerprint},
    models::{Input, Plan, Relation, RowProgram, plan_project},
    process::offset_table::OffsetTable,
    project::{Diagnostic, Diagnostics, Project},
};

/// A project with compiled rules and planned models.
pub struct Planned {
    pub project: Project,
    /// Per stream, in the project's order.
    pub judges: Vec<Arc<Judge>>,
    pub plans: Vec<Plan>,
}

/// A row-wise model that is running.
pub(super) struct RowModel {
    pub name: TableName,
    pub input: Input,
    pub program: Arc<RowProgram>,
    pub table: OffsetTable,
    /// Why it stopped while running. Its table stays as it is, until a restart after mending.
    pub failure: Option<String>,
}

impl RowModel {
    /// Stops the model: its table keeps what it has.
    pub(super) fn stop(&mut self, reason: String) {
        tracing::error!(model = %self.name, %reason, "model stopped");
        self.failure = Some(reason);
    }
}

/// Compiles every rule and plans every model; reports everything that is wrong.
pub fn plan(project: Project) -> Result<Planned, Diagnostics> {
    let mut found = Diagnostics::default();
    let mut judges = Vec::new();
    for contract in &project.streams {
        match Judge::new(Arc::new(contract.clone())) {
            Ok(judge) => judges.push(Arc::new(judge)),
            Err(error) => {
                let file = std::path::PathBuf::from(format!("streams/{}.yml", error.stream));
                let text = std::fs::read_to_string(project.root.join(&file)).unwrap_or_default();
                let reason = error.reason.lines().next().unwrap_or_default();
                let message = format!("rule `{}`: {reason}", error.rule);
                let needle = format!("{}:", error.rule);
                found.push(Diagnostic::file(&file, message).find(&text, &needle));
            }
        }
    }
    let accepted = relations(&project.streams);
    match plan_project(&project, &accepted) {
        Ok(plans) if found.is_empty() => Ok(Planned { project, judges, plans }),
        Ok(_) => Err(found),
        Err(more) => {
            more.iter().for_each(|diagnostic| found.push(diagnostic.clone()));
            Err(found)
        }
    }
}

fn relations(streams: &[Contract]) -> BTreeMap<String, Relation> {
    let relation = |contract: &Contract| Relation {
        schema: accepted_schema(contract),
        fingerprint: decoding_fingerprint(contract),
    };
    streams.iter().map(|contract| (contract.name.clone(), relation(contract))).collect()
}

/// Digest of what decides how accepted records are decoded. Rules are no part of it: a changed rule
/// applies to new records.
fn decoding_fingerprint(contract: &Contract) -> String {
    let fields = contract.fields.iter().map(|f| format!("{} {}", f.name, f.data_type.name()));
    let text = format!("{} {}", contract.name, fields.collect::<Vec<_>>().join(","));
    fingerprint(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}
