//! What a measured run cost this process, as Linux counts it.

use std::{fs, time::Duration};

/// Clock ticks of `/proc` are hundredths of a second on every Linux.
const TICK: Duration = Duration::from_millis(10);

/// CPU time of this process so far, all threads; `None` where there is no `/proc`.
pub(super) fn cpu() -> Option<Duration> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The name in parentheses may hold blanks; user and system time are the 12th and 13th after it.
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(11);
    let (user, system): (u32, u32) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(TICK * user.saturating_add(system))
}

/// The largest resident size so far, in MiB.
pub(super) fn peak_mib() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib / 1024)
}

/// The value below which `percent` of the sorted `values` lie.
pub(super) fn percentile(values: &[Duration], percent: usize) -> Duration {
    let at = values.len().saturating_sub(1) * percent / 100;
    values.get(at).copied().unwrap_or_default()
}
