//! What the loop is doing, for `/status` and the demo.

use std::{collections::BTreeMap, sync::Mutex};

use serde_json::{Value, json};

/// Shared between the loop, which writes it, and whoever shows it.
#[derive(Debug, Default)]
pub struct Status(Mutex<Snapshot>);

#[derive(Debug, Default, Clone)]
pub(super) struct Snapshot {
    pub streams: BTreeMap<String, StreamStatus>,
    pub models: BTreeMap<String, ModelStatus>,
    pub seals: u64,
    pub last_seal_ms: u64,
    pub last_round_ms: u64,
    /// Why processing does not go on, while it tries again.
    pub outage: Option<String>,
}

#[derive(Debug, Default, Clone)]
pub(super) struct StreamStatus {
    pub log_id: String,
    pub topic: String,
    /// Records since the process started.
    pub records: u64,
    pub accepted: u64,
    pub repeats: u64,
    pub quarantined: u64,
    /// Identities held in memory.
    pub identities: usize,
    /// Why the stream is not followed any more.
    pub halted: Option<String>,
}

#[derive(Debug, Default, Clone)]
pub(super) struct ModelStatus {
    pub class: String,
    pub reason: String,
    pub failure: Option<String>,
}

impl Status {
    /// For another project, which has others.
    pub fn forget_models(&self) {
        self.update(|status| status.models.clear());
    }

    pub(super) fn update(&self, change: impl FnOnce(&mut Snapshot)) {
        // A poisoned lock only means that a writer panicked between two plain assignments.
        let mut snapshot = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        change(&mut snapshot);
    }

    /// Why processing does not go on, while it tries again.
    pub fn outage(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).outage.clone()
    }

    /// Records, verdicts and models as JSON.
    pub fn to_json(&self) -> Value {
        let snapshot = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        let streams: serde_json::Map<String, Value> = snapshot
            .streams
            .into_iter()
            .map(|(name, s)| {
                let value = json!({
                    "log_id": s.log_id, "topic": s.topic,
                    "records": s.records, "accepted": s.accepted, "repeats": s.repeats,
                    "quarantined": s.quarantined, "identities": s.identities,
                    "stopped": s.halted,
                });
                (name, value)
            })
            .collect();
        let models: serde_json::Map<String, Value> = snapshot
            .models
            .into_iter()
            .map(|(name, m)| {
                let value = json!({ "class": m.class, "reason": m.reason, "failure": m.failure });
                (name, value)
            })
            .collect();
        json!({
            "streams": streams, "models": models,
            "outage": snapshot.outage, "seals": snapshot.seals, "last_seal_ms": snapshot.last_seal_ms,
            "last_recompute_ms": snapshot.last_round_ms,
        })
    }
}
