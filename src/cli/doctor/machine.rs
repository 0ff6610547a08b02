//! What the operating system allows: open files, disk, memory, the clock.

use std::path::Path;

use nix::sys::{
    resource::{Resource, getrlimit},
    statvfs::statvfs,
};

use super::{
    finding::{Finding, bytes},
    lake::existing,
};
use crate::{config::Config, ops::Clock};

/// Fewer open files than fjall alone keeps in its cache (900), and some connections.
const FILES_MIN: u64 = 1_024;
/// With tables that are read and written, and a thousand connections.
const FILES_GOOD: u64 = 4_096;
const FILES_MEND: &str = "run `ulimit -n 65536` before the start, or set LimitNOFILE=65536 in the \
                          service's unit";
/// Less does not hold what is written between two commits.
const DISK_MIN: u64 = 1 << 30;
/// Less is soon full.
const DISK_GOOD: u64 = 10 << 30;
/// Percentage of the memory that limits may add up to: the rest is for what they do not count.
const MEMORY_PERCENT: u64 = 75;
/// 2026-01-01: no right clock says less.
const YOUNGEST_US: i64 = 1_767_225_600_000_000;

pub(super) fn check(config: &Config, clock: &Clock) -> Vec<Finding> {
    let mut findings = vec![match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, hard)) => open_files(soft, hard),
        Err(error) => Finding::warn("open files", format!("not told: {error}"), FILES_MEND),
    }];
    let limits = [config.serve.memory_bytes_max, config.ingest.inflight_bytes_max];
    let wanted = limits.iter().map(|limit| *limit as u64).sum();
    findings.push(memory(wanted, available_memory()));
    findings.push(disk(free(&config.server.data_dir)));
    findings.push(spill(config.serve.spill_bytes_max, free(&std::env::temp_dir())));
    findings.push(time(clock.now_us()));
    findings
}

fn open_files(soft: u64, hard: u64) -> Finding {
    let shown = |limit: u64| if limit == u64::MAX { "any".to_owned() } else { limit.to_string() };
    let found = format!("{} at once, {} where asked for", shown(soft), shown(hard));
    match soft {
        _ if soft < FILES_MIN => Finding::fail(
            "open files",
            format!("{found}: at least {FILES_MIN} are needed"),
            FILES_MEND,
        ),
        _ if soft < FILES_GOOD => Finding::warn(
            "open files",
            format!("{found}: many tables and connections take {FILES_GOOD}"),
            FILES_MEND,
        ),
        _ => Finding::ok("open files", found),
    }
}

/// `wanted`: what the limits of the configuration add up to.
fn memory(wanted: u64, available: Option<u64>) -> Finding {
    let mend = "lower serve.memory_bytes_max or ingest.inflight_bytes_max, or give more memory";
    let limits = format!("the limits of queries and of ingest add up to {}", bytes(wanted));
    let Some(available) = available else {
        return Finding::ok("memory", format!("{limits}; what is there is not told here"));
    };
    let found = format!("{limits}, {} are there", bytes(available));
    match wanted {
        _ if wanted > available => Finding::fail("memory", found, mend),
        _ if wanted > available / 100 * MEMORY_PERCENT => Finding::warn("memory", found, mend),
        _ => Finding::ok("memory", found),
    }
}

/// Memory of the machine, or what its control group may take of it.
fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let machine = line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024;
    let group = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let group = group.and_then(|text| text.trim().parse::<u64>().ok());
    Some(group.map_or(machine, |group| group.min(machine)))
}

fn disk(free: Result<u64, String>) -> Finding {
    let mend = "make room, or choose a folder on another disk with --data-dir";
    match free {
        Err(reason) => Finding::warn("disk", format!("free space is not told: {reason}"), mend),
        Ok(free) => {
            let found = format!("{} free for the data folder", bytes(free));
            match free {
                _ if free < DISK_MIN => Finding::fail("disk", found, mend),
                _ if free < DISK_GOOD => Finding::warn("disk", found, mend),
                _ => Finding::ok("disk", found),
            }
        }
    }
}

fn spill(wanted: u64, free: Result<u64, String>) -> Finding {
    let (name, place) = ("disk for queries", std::env::temp_dir());
    let (place, wanted_text) = (place.display(), bytes(wanted));
    let mend = "set TMPDIR to a folder on a larger disk, or lower serve.spill_bytes_max";
    match free {
        Err(reason) => Finding::warn(name, format!("{place}: not told: {reason}"), mend),
        Ok(free) => {
            let found = format!("{} free in {place}, queries may take {wanted_text}", bytes(free));
            if free < wanted { Finding::warn(name, found, mend) } else { Finding::ok(name, found) }
        }
    }
}

/// Bytes that we may still write on the disk of `folder`.
fn free(folder: &Path) -> Result<u64, String> {
    let stat = statvfs(&existing(folder)?).map_err(|error| error.to_string())?;
    #[allow(clippy::useless_conversion, reason = "the types differ between systems")]
    Ok(u64::from(stat.blocks_available()) * u64::from(stat.fragment_size()))
}

fn time(now_us: i64) -> Finding {
    let now = chrono::DateTime::from_timestamp_micros(now_us).unwrap_or_default();
    let found = format!("{} UTC", now.format("%Y-%m-%d %H:%M:%S"));
    if now_us < YOUNGEST_US {
        return Finding::fail("clock", found, "set the clock: `timedatectl set-ntp true`");
    }
    Finding::ok("clock", found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::finding::Level;

    #[test]
    fn limits_are_judged_by_what_a_server_needs() {
        let levels = |values: [u64; 3], judge: &dyn Fn(u64) -> Finding| {
            values.map(|value| judge(value).level)
        };
        let expected = [Level::Fail, Level::Warn, Level::Ok];
        assert_eq!(levels([1_023, 4_095, 4_096], &|n| open_files(n, n)), expected);
        assert_eq!(levels([DISK_MIN - 1, DISK_GOOD - 1, DISK_GOOD], &|n| disk(Ok(n))), expected);
        assert_eq!(levels([999, 1_200, 2_000], &|n| memory(1_000, Some(n))), expected);
        assert_eq!(spill(10, Ok(9)).level, Level::Warn);
        assert_eq!(spill(10, Ok(10)).level, Level::Ok);
        assert_eq!(time(0).level, Level::Fail);
        assert_eq!(time(YOUNGEST_US).found, "2026-01-01 00:00:00 UTC");
    }

    #[test]
    fn this_machine_tells_its_limits() {
        assert!(available_memory().expect("Linux tells it") > 1 << 20);
        assert!(free(Path::new("/nowhere/at/all")).expect("the root's") > 0);
    }
}
