//! A store that answers badly: whatever it does, once it is well again everything is there once.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::support::*;
use crate::{
    domain::Durability,
    lake::{
        FsyncStore, Lake,
        faults::{Fault, FaultStore},
    },
    verify,
};

/// A lake that one request in eight finds ill, while `ill`.
fn lake(rig: &Rig, seed: u64, ill: &Arc<AtomicBool>) -> Lake {
    let random = Arc::new(Mutex::new(StdRng::seed_from_u64(seed)));
    let fault = |kinds: &'static [Fault]| {
        let (random, ill) = (Arc::clone(&random), Arc::clone(ill));
        move |_: &str| {
            let mut random = random.lock().expect("random");
            let is_due = ill.load(Ordering::SeqCst) && random.random_ratio(1, 8);
            is_due.then(|| kinds[random.random_range(0..kinds.len())])
        }
    };
    let writes = &[Fault::Refused, Fault::ReplyLost, Fault::ReplyExists, Fault::Slow];
    let reads = &[Fault::Refused, Fault::Cut, Fault::Slow];
    let inner = Arc::new(FsyncStore::new(Durability::Os));
    let store = FaultStore::new(inner, fault(writes)).on_reads(fault(reads));
    Lake::with_store(&rig.path("lake"), Arc::new(store)).expect("lake")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_the_store_answers_everything_counts_once_when_it_is_well_again() {
    for seed in 1..=3 {
        let rig = Rig::new().await;
        let ill = Arc::new(AtomicBool::new(false));
        let running = rig.start_on(lake(&rig, seed, &ill));
        rig.append([(0, "a", 0)]).await;
        running.settled().await;
        ill.store(true, Ordering::SeqCst);
        for batch in 0..60 {
            let ids = batch * 10 + 1..=batch * 10 + 10;
            // Each batch again with the next.
            rig.append(ids.clone().map(|id| (id, "b", 1))).await;
            rig.append(ids.map(|id| (id - 1, "b", i64::from(id > 1)))).await;
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            assert!(!running.task.is_finished(), "seed {seed}: the process has ended");
        }
        ill.store(false, Ordering::SeqCst);
        running.settled().await;
        assert_eq!(running.numbers(COUNTS).await, [601, 601, 600], "seed {seed}");
        running.stop().await;
        let facts = verify::collect(&rig.planned(), &rig.plain_lake()).await.expect("facts");
        let report = verify::check(&[], &facts);
        assert!(report.green && report.not_compared.is_empty(), "seed {seed}: {report}");
    }
}
