//! `sluice bench rebalance`: how long the partitions of a stream stand still while a second
//! processor joins a group, and while it leaves.
//!
//! Two whole Sluices over one Kafka log and one lake, and a steady load. A partition's progress is
//! the larger of the two positions up to which it can be queried; the longest time without progress
//! is told for the steady time before (the baseline), for the join and for the leave.
#![allow(clippy::print_stdout)]

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use super::{
    committed,
    project::{self, STREAM, Upto},
    publisher::{self, Load, Published},
    server,
    usage::{self, Figures},
};
use crate::{
    cli::{Bound, Failure, Node, ServerFlags, chain, check, up},
    config::{Config, LogKind},
    domain::{Offset, Partition, contract::Topic},
    lake::LakeHandle,
    log::StreamSpec,
};

const PHASES: [&str; 3] = ["steady", "a second processor joins", "it leaves"];
/// How often positions are looked at.
const LOOK: Duration = Duration::from_millis(2);
const BATCH: u64 = 50;
const IN_FLIGHT: usize = 256;

#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// kafka://HOST:PORT[,HOST:PORT] of a cluster where topics may be made
    #[arg(long)]
    pub log: String,
    /// Partitions of the stream
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(2..))]
    pub partitions: u32,
    /// Events per second
    #[arg(long, default_value_t = 6_000, value_parser = clap::value_parser!(u64).range(100..))]
    pub rate: u64,
    /// Seconds of each of the three phases
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(5..))]
    pub seconds: u64,
    /// Folder of the lake; default: a temporary one
    #[arg(long)]
    pub data_dir: Option<PathBuf>,
}

/// What the partitions did, phase by phase.
#[derive(Debug, Default)]
struct Watched {
    /// The longest time without progress of any partition.
    gaps: [Duration; PHASES.len()],
    /// Partitions that were last moved by the second processor.
    moved: [usize; PHASES.len()],
}

/// Runs the benchmark and prints what it found.
pub(super) async fn run(args: Args, stop: &CancellationToken) -> Result<(), Failure> {
    let temporary = tempfile::tempdir().map_err(|e| Failure::unavailable(e.to_string()))?;
    let folder = args.data_dir.clone().unwrap_or_else(|| temporary.path().to_owned());
    let name = server::new_topic();
    let first = config(&args, &folder, &name, "first")?;
    if !matches!(first.server.log, LogKind::Kafka(_)) {
        let message = format!("--log {}: only the processors of a Kafka log share it", args.log);
        return Err(Failure::invalid(message));
    }
    println!(
        "bench rebalance: {} partitions, {} events/s, three times {} s, seal interval {} ms, {}, {}",
        args.partitions,
        args.rate,
        args.seconds,
        first.process.seal_interval_ms,
        args.log,
        usage::build(),
    );
    let topic = Topic { name: Some(name.clone()), ..Topic::default() };
    let spec = StreamSpec { topic, ..StreamSpec::new(STREAM, args.partitions) };
    let second = config(&args, &folder, &name, "second")?;
    let project = folder.join("project");
    project::unpack(&project, Upto::Silver, args.partitions, Some(&name))?;
    let measured = Box::pin(measure(&args, [&first, &second], &project, stop));
    let watched = server::with_topics(&first, &[spec], measured).await?;
    println!("{}", figures(&watched, first.process.seal_interval_ms));
    Ok(())
}

/// One of the two processors, each with a data folder of its own.
fn config(args: &Args, folder: &Path, group: &str, name: &str) -> Result<Config, Failure> {
    let flags = ServerFlags {
        data_dir: Some(folder.join(name)),
        lake: Some(folder.join("lake")),
        log: Some(args.log.clone()),
        group: Some(group.to_owned()),
        ingest_listen: Some(super::ANY_PORT.into()),
        flight_listen: Some(super::ANY_PORT.into()),
        http_listen: Some(super::ANY_PORT.into()),
        ..ServerFlags::default()
    };
    Ok(flags.load()?.config)
}

async fn measure(
    args: &Args,
    [first, second]: [&Config; 2],
    project: &Path,
    stop: &CancellationToken,
) -> Result<Watched, Failure> {
    up::init_logs(first);
    let (one, ingest) = start(first, project, stop).await?;
    let load = tokio::spawn(publish(ingest, args.rate, args.seconds * PHASES.len() as u64));
    let phase = Arc::new(AtomicUsize::new(0));
    let lakes = Arc::new(Mutex::new(vec![Arc::clone(&one.lake)]));
    let end = CancellationToken::new();
    let watching =
        tokio::spawn(watch(args.partitions, Arc::clone(&lakes), Arc::clone(&phase), end.clone()));
    let pause = Duration::from_secs(args.seconds);
    let phases = async {
        tokio::time::sleep(pause).await;
        phase.store(1, Ordering::SeqCst);
        let (two, _) = start(second, project, stop).await?;
        lakes.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&two.lake));
        tokio::time::sleep(pause).await;
        phase.store(2, Ordering::SeqCst);
        two.stop().await?;
        tokio::time::sleep(pause).await;
        Ok::<(), Failure>(())
    };
    let done = super::until(stop, phases).await;
    end.cancel();
    let broken = |e: tokio::task::JoinError| Failure::work(chain(&e));
    let watched = watching.await.map_err(broken)?;
    if done.is_err() {
        load.abort();
    }
    done?;
    let published = load.await.map_err(broken)??;
    let lake = Arc::clone(&one.lake);
    one.stop().await?;
    let (rows, wanted) =
        (committed(&lake.load(), "silver", STREAM), published.latencies.len() as u64 * BATCH);
    if rows != wanted {
        return Err(Failure::work(format!("{wanted} events were acked, Silver has {rows}")));
    }
    Ok(watched)
}

/// A running Sluice and the URL where it takes events.
async fn start(
    config: &Config,
    project: &Path,
    stop: &CancellationToken,
) -> Result<(Node, String), Failure> {
    let planned = check::load(project)?;
    let bound = Bound::bind(&config.server).await?;
    let ingest = bound.urls().into_iter().find(|(name, _)| *name == "ingest");
    let node = Box::pin(Node::start(config, planned, bound, None, stop)).await?;
    Ok((node, ingest.map_or_else(String::new, |(_, url)| url)))
}

async fn publish(url: String, rate: u64, seconds: u64) -> Result<Published, Failure> {
    #[allow(clippy::cast_precision_loss)] // some thousands
    let per_second = rate as f64;
    let load = Load {
        url,
        stream: STREAM,
        events: (rate * seconds).next_multiple_of(BATCH),
        batch: BATCH,
        in_flight: IN_FLIGHT,
        rate: Some(per_second),
    };
    let run = project::new_run();
    publisher::publish(&load, |number| project::event(&run, number, 256)).await
}

/// Looks at the partitions until `end`.
async fn watch(
    partitions: u32,
    lakes: Arc<Mutex<Vec<Arc<LakeHandle>>>>,
    phase: Arc<AtomicUsize>,
    end: CancellationToken,
) -> Watched {
    let mut watched = Watched::default();
    let mut seen: Vec<(Option<Offset>, Instant, usize)> =
        vec![(None, Instant::now(), 0); partitions as usize];
    while !end.is_cancelled() {
        let views: Vec<_> = {
            let lakes = lakes.lock().unwrap_or_else(PoisonError::into_inner);
            lakes.iter().map(|lake| lake.load()).collect()
        };
        let (now, phase) = (Instant::now(), phase.load(Ordering::SeqCst));
        for (partition, (at, since, by)) in (0..).zip(&mut seen) {
            let of = |view: usize| views[view].positions.get(STREAM, partition as Partition);
            // The first of equals: where the second is as far, it only follows the first.
            let best = (0..views.len()).rev().max_by_key(|view| of(*view));
            let Some(best) = best.filter(|best| of(*best) > *at) else { continue };
            // Before the first event there was nothing to wait for.
            if at.is_some() {
                watched.gaps[phase] = watched.gaps[phase].max(now - *since);
            }
            (*at, *since, *by) = (of(best), now, best);
        }
        watched.moved[phase] = seen.iter().filter(|(_, _, by)| *by == 1).count();
        tokio::time::sleep(LOOK).await;
    }
    watched
}

fn figures(watched: &Watched, seal_interval_ms: u64) -> Figures {
    let mut figures = Figures::default();
    for ((name, gap), moved) in PHASES.iter().zip(&watched.gaps).zip(&watched.moved) {
        figures.line(&format!("longest stall, {name}"), format_args!("{} ms", gap.as_millis()));
        figures.line("  partitions of the second at its end", moved);
    }
    let longest = watched.gaps.iter().max().copied().unwrap_or_default();
    let met = longest <= Duration::from_millis(seal_interval_ms) && watched.moved[1] > 0;
    let outcome = usage::outcome(met);
    figures.line("mark", format_args!("no stall over {seal_interval_ms} ms: {outcome}"));
    figures
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_wants_partitions_that_move_and_do_not_stall() {
        let of = |millis, moved| {
            let gaps = [Duration::ZERO, Duration::from_millis(millis), Duration::ZERO];
            figures(&Watched { gaps, moved: [0, moved, 0] }, 500).to_string()
        };
        assert!(of(500, 6).ends_with("met"));
        assert!(of(501, 6).ends_with("missed"));
        assert!(of(5, 0).ends_with("missed"), "nothing moved");
    }
}
