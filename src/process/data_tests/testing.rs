//! The tests of a project over a lake that can be queried.

use std::{collections::BTreeSet, sync::Arc};

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;

use crate::{
    domain::tested::Ran,
    lake::LakeHandle,
    process::{
        Planned,
        data_tests::{Results, Runner, Settings, run::run, schedule, unit::run_unit},
    },
};

/// What runs the tests of a project.
#[derive(Clone)]
pub struct Testing {
    /// The project, which a deployment replaces.
    pub planned: Arc<ArcSwap<Planned>>,
    pub lake: Arc<LakeHandle>,
    pub results: Arc<Results>,
    pub runner: Runner,
}

impl Testing {
    /// Runs the tests `names` over the newest view, and tells each as it is done: first unit tests,
    /// which need no data.
    pub async fn run(&self, names: &BTreeSet<String>, mut done: impl FnMut(&Ran)) -> Vec<Ran> {
        let planned = self.planned.load_full();
        let mut all = Vec::new();
        let mut tell = |ran: Ran| {
            done(&ran);
            self.results.record(ran.clone());
            all.push(ran);
        };
        let units = planned.unit_tests.iter();
        for plan in units.filter(|plan| names.contains(&plan.test.name)) {
            tell(run_unit(&self.runner, plan).await);
        }
        let view = self.lake.load();
        for plan in planned.tests.iter().filter(|plan| names.contains(&plan.test.name)) {
            tell(run(&self.runner, &view, plan).await);
        }
        all
    }

    /// Runs data tests again when what they read has moved, until `stop`.
    pub async fn follow(&self, settings: &Settings, stop: &CancellationToken) {
        schedule::follow(self, settings, stop).await;
    }
}
