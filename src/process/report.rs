//! What the loop tells about itself: which models follow, how long rounds and seals take.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crate::{
    domain::TableName,
    process::{metrics, pipeline::Pipeline, status::ModelStatus},
};

impl Pipeline {
    pub(super) fn is_stopped(&self, name: &TableName) -> bool {
        self.stopped.contains_key(name)
            || self.streams.iter().any(|stream| {
                let mut models = stream.models.iter().filter(|model| model.name == *name);
                models.any(|model| stream.halted.is_some() || model.failure.is_some())
            })
    }

    /// Models that do not follow their inputs, and why.
    pub(super) fn lagging(&self) -> BTreeMap<TableName, String> {
        let mut lagging = self.stopped.clone();
        for stream in &self.streams {
            let Some(reason) = &stream.halted else { continue };
            let models = stream.models.iter().map(|model| model.name.clone());
            let own = ["bronze", "quarantine"].map(|schema| TableName::new(schema, stream.name()));
            lagging.extend(own.into_iter().chain(models).map(|name| (name, reason.clone())));
        }
        for model in self.streams.iter().flat_map(|stream| &stream.models) {
            if let Some(failure) = &model.failure {
                lagging.insert(model.name.clone(), failure.clone());
            }
        }
        for derived in &self.derived {
            let reads = derived.plan.iter().flat_map(|plan| &plan.tables);
            let behind = reads.filter(|table| lagging.contains_key(table)).min();
            let behind = behind.map(|table| format!("reads {table}, which does not follow"));
            let halted = derived.plan.iter().flat_map(|plan| &plan.read_streams).find_map(|name| {
                let stream = self.streams.iter().find(|stream| stream.name() == name)?;
                stream.halted.as_ref().map(|_| format!("reads stream {name}, which is stopped"))
            });
            let behind = behind.or(halted);
            if let Some(reason) = derived.at.failure.clone().or(behind) {
                lagging.insert(derived.info.name.clone(), reason);
            }
        }
        lagging
    }

    pub(super) fn report_models(&self) {
        let lagging = self.lagging();
        let planned = Arc::clone(&self.deps.planned);
        self.deps.status.update(|status| {
            for stream in &self.streams {
                let entry = status.streams.entry(stream.name().to_owned()).or_default();
                entry.log_id.clone_from(&stream.origin.log_id);
                entry.topic.clone_from(&stream.origin.topic);
                entry.halted.clone_from(&stream.halted);
            }
            for plan in &planned.plans {
                let name = plan.model.name.to_string();
                let failure = lagging.get(&plan.model.name).cloned();
                let (class, reason) = (plan.class.to_string(), plan.reason.clone());
                status.models.insert(name, ModelStatus { class, reason, failure });
            }
        });
    }

    pub(super) fn report_round(&self, took: Duration) {
        metrics::round(took);
        self.report_models();
        let last_round_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        self.deps.status.update(|status| status.last_round_ms = last_round_ms);
    }

    pub(super) fn report_seal(&self, tables: usize, took: Duration) {
        metrics::sealed(tables, took);
        tracing::debug!(tables, ?took, "sealed");
        self.deps.status.update(|status| {
            status.seals += 1;
            status.last_seal_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        });
    }
}
