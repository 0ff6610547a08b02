//! A log that is filled through the gateway, and a whole Sluice that works it off.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::{
    process::Sent,
    publisher::{self, Load},
    stopped,
    usage::{self, Figures},
};
use crate::{
    cli::{Bound, Failure, Node, chain, check, node, up},
    config::Config,
    ingest::{self, Contracts, Service},
    lake::LakeView,
    ops::Clock,
};

/// Events per batch of the filling, and batches under way.
const BATCH: u64 = 500;
const IN_FLIGHT: usize = 64;

/// What working a backlog off took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Worked {
    pub(super) events: u64,
    pub(super) took: Duration,
    pub(super) cpu: Option<Duration>,
    /// Resident before the first record, and the most until the end.
    pub(super) resident_mib: Option<u64>,
    pub(super) peak_mib: Option<u64>,
}

impl Worked {
    /// Adds what it took; `mark`: events per second of CPU.
    pub(super) fn show(&self, figures: &mut Figures, mark: Option<f64>) {
        figures.rate("  events/s, worked off", self.events, self.took);
        if let Some(cpu) = self.cpu {
            figures.cpu_per_event("  cpu per event", self.events, Some(cpu));
            figures.rate("  events per second of cpu", self.events, cpu);
            if let Some(mark) = mark {
                let outcome = usage::outcome(usage::rate(self.events, cpu) >= mark);
                figures.line("  mark", format_args!("{mark}: {outcome}"));
            }
        }
        figures.peak("  resident before the work", self.resident_mib);
        figures.peak("  peak memory", self.peak_mib);
    }
}

/// Every event through the gateway, without anyone who reads them.
pub(super) async fn fill(
    config: &Config,
    project: &Path,
    stream: &'static str,
    events: u64,
    event: impl FnMut(u64) -> Bytes,
) -> Result<Sent, Failure> {
    let planned = check::load(project)?;
    let log = node::open_log(config, &Clock::system()).await?;
    node::ensure(log.as_ref(), &planned).await?;
    let contracts: Contracts = planned
        .judges
        .iter()
        .map(|judge| (judge.contract().name.clone(), Arc::clone(judge.contract())))
        .collect();
    let service = Service::new(config.ingest.clone(), Arc::clone(&log), Arc::new(contracts));
    let unavailable = |error: &dyn std::error::Error| Failure::unavailable(chain(error));
    let listener = tokio::net::TcpListener::bind(&config.server.ingest_listen).await;
    let listener = listener.map_err(|e| unavailable(&e))?;
    let load = Load {
        url: format!("http://{}", listener.local_addr().map_err(|e| unavailable(&e))?),
        stream,
        events,
        batch: BATCH,
        in_flight: IN_FLIGHT,
        rate: None,
    };
    let served = CancellationToken::new();
    let server = tokio::spawn(ingest::run(service, listener, served.clone()));
    let published = publisher::publish(&load, event).await;
    served.cancel();
    if let Ok(Err(error)) = server.await {
        return Err(Failure::new(error.kind(), chain(&error)));
    }
    log.close().await;
    Ok(Sent::of(events, &published?))
}

/// A whole Sluice, from its start until everything is committed and it has stopped. Returns what
/// that took, with the number of events that `count` finds, and what it left.
pub(super) async fn work_off(
    config: &Config,
    project: &Path,
    count: impl FnOnce(&LakeView) -> u64,
    stop: &CancellationToken,
) -> Result<(Worked, Arc<LakeView>), Failure> {
    up::init_logs(config);
    let planned = check::load(project)?;
    let bound = Bound::bind(&config.server).await?;
    let (started, before, resident_mib) = (Instant::now(), usage::cpu(), usage::resident_mib());
    let node = Box::pin(Node::start(config, planned, bound, None, stop)).await?;
    let lake = Arc::clone(&node.lake);
    node.stop().await?;
    if stop.is_cancelled() {
        return Err(stopped());
    }
    let view = lake.load();
    let worked = Worked {
        events: count(&view),
        took: started.elapsed(),
        cpu: usage::since(before),
        resident_mib,
        peak_mib: usage::peak_mib(),
    };
    Ok((worked, view))
}
