//! Plans that were made for a FlightInfo and wait for their DoGet.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::serve::query::Planned;

/// Most plans kept; the oldest goes first. Each pins the view that it was made for.
const KEPT_MAX: usize = 64;
/// Longest time a plan is kept.
pub(crate) const KEPT_FOR: Duration = Duration::from_secs(30);

/// A small cache. Losing a plan costs a second planning, nothing else: tickets carry their SQL.
#[derive(Default)]
pub(crate) struct Plans {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    next: u64,
    kept: BTreeMap<u64, (Instant, Planned)>,
}

impl Plans {
    /// Keeps a plan and returns its number.
    pub(crate) fn keep(&self, planned: Planned) -> u64 {
        let mut inner = self.lock();
        inner.next += 1;
        let number = inner.next;
        inner.kept.insert(number, (Instant::now(), planned));
        if inner.kept.len() > KEPT_MAX {
            inner.kept.pop_first();
        }
        number
    }

    /// Hands out a plan, once.
    pub(crate) fn take(&self, number: u64) -> Option<Planned> {
        self.lock().kept.remove(&number).map(|(_, planned)| planned)
    }

    /// Lets go of plans that nobody came for.
    pub(crate) fn expire(&self) {
        self.lock().kept.retain(|_, (since, _)| since.elapsed() < KEPT_FOR);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
