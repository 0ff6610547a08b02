//! Runs data tests again when what they read has moved, within their share of the time.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    domain::{
        Positions, TableName,
        tested::{Ran, Status},
    },
    lake::LakeView,
    models::TestPlan,
    process::{
        data_tests::{Results, Settings, Testing, run::run},
        metrics, relations,
    },
};

/// What a test was run over: for each stored table its version, its positions, and how much of it
/// is not committed.
type Basis = Vec<(TableName, Option<u64>, Positions, usize)>;

/// Follows the lake until `stop`: every data test is run once, and again when its input has moved.
pub(super) async fn follow(testing: &Testing, settings: &Settings, stop: &CancellationToken) {
    let Testing { lake, results, runner, .. } = testing;
    let planned = testing.planned.load_full();
    if settings.interval_ms == 0 || planned.tests.is_empty() {
        return;
    }
    let mut seen: BTreeMap<String, Basis> = BTreeMap::new();
    let mut wait = Duration::from_millis(settings.interval_ms);
    loop {
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = stop.cancelled() => return,
        }
        let started = Instant::now();
        for plan in &planned.tests {
            if stop.is_cancelled() {
                return;
            }
            // Each over the newest view: none is held for as long as all take.
            let view = lake.load();
            let basis = basis(&view, plan);
            let name = &plan.test.name;
            if seen.get(name) == Some(&basis) && !plan.test.depends_on_time() {
                continue;
            }
            let ran = tokio::select! {
                ran = run(runner, &view, plan) => ran,
                () = stop.cancelled() => return,
            };
            tell(&ran, results);
            results.record(ran);
            seen.insert(name.clone(), basis);
        }
        wait = pause(settings, started.elapsed());
    }
}

/// Logs an outcome that is new, and counts it.
fn tell(ran: &Ran, results: &Results) {
    metrics::tested(ran);
    let before = results.list().into_iter().find(|other| other.name == ran.name);
    let before = before.map_or(Status::Pass, |other| other.status);
    if ran.status != before {
        let (test, status, message) = (&ran.name, ran.status.as_str(), &ran.message);
        if ran.status.is_failure() {
            tracing::error!(%test, status, %message, "data test");
        } else {
            tracing::warn!(%test, status, %message, "data test");
        }
    }
}

/// How long to wait after a pass that took so long.
fn pause(settings: &Settings, took: Duration) -> Duration {
    let share = settings.percent.clamp(1, 100);
    let rest = took * (100 - share) / share;
    rest.max(Duration::from_millis(settings.interval_ms))
}

fn basis(view: &LakeView, plan: &TestPlan) -> Basis {
    let state = |name: TableName| {
        let table = view.tables.get(&name);
        let version = table.and_then(|table| Some(table.committed.as_ref()?.version));
        let positions = table.map(|table| table.positions.clone()).unwrap_or_default();
        let bytes = table.map_or(0, |table| table.overlay_bytes());
        (name, version, positions, bytes)
    };
    relations::stored_behind(&plan.plan).into_iter().map(state).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_take_their_share_of_the_time_at_most() {
        let settings = Settings { interval_ms: 1_000, percent: 10, ..Settings::default() };
        assert_eq!(pause(&settings, Duration::from_millis(50)), Duration::from_secs(1));
        assert_eq!(pause(&settings, Duration::from_secs(2)), Duration::from_secs(18));
    }
}
