//! What a measured run cost this process, as Linux counts it, and how that is shown.

use std::{fmt::Write as _, fs, time::Duration};

/// Clock ticks of `/proc` are hundredths of a second on every Linux.
const TICK: Duration = Duration::from_millis(10);

/// CPU time of this process so far, all threads; `None` where there is no `/proc`.
pub(super) fn cpu() -> Option<Duration> {
    cpu_of(&fs::read_to_string("/proc/self/stat").ok()?)
}

fn cpu_of(stat: &str) -> Option<Duration> {
    // The name in parentheses may hold blanks; user and system time are the 12th and 13th after it.
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(11);
    let (user, system): (u32, u32) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(TICK * user.saturating_add(system))
}

/// CPU time of the child processes that have ended so far.
pub(super) fn cpu_of_children() -> Option<Duration> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(13);
    let (user, system): (u32, u32) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(TICK * user.saturating_add(system))
}

/// CPU time of this process since `before`.
pub(super) fn since(before: Option<Duration>) -> Option<Duration> {
    cpu().zip(before).map(|(after, before)| after.saturating_sub(before))
}

/// The largest resident size so far, in MiB.
pub(super) fn peak_mib() -> Option<u64> {
    status_mib("VmHWM:")
}

/// The resident size now, in MiB.
pub(super) fn resident_mib() -> Option<u64> {
    status_mib("VmRSS:")
}

fn status_mib(name: &str) -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib / 1024)
}

/// The smallest of the sorted `values` that `percent` of them do not exceed: of few values p99 is
/// the largest.
pub(super) fn percentile(values: &[Duration], percent: usize) -> Duration {
    let at = (values.len() * percent).div_ceil(100).saturating_sub(1);
    values.get(at).copied().unwrap_or_default()
}

/// `count` per second.
#[allow(clippy::cast_precision_loss)] // shown rounded
pub(super) fn rate(count: u64, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64().max(1e-9)
}

/// What became of a mark.
pub(super) fn outcome(is_met: bool) -> &'static str {
    if is_met { "met" } else { "missed" }
}

/// How this binary was built, as far as it knows.
pub(super) fn build() -> &'static str {
    if cfg!(debug_assertions) { "dev profile (not a release build)" } else { "release" }
}

/// What is printed: one `name  value` per line.
#[derive(Debug, Default)]
pub(super) struct Figures(String);

impl Figures {
    pub(super) fn line(&mut self, name: &str, value: impl std::fmt::Display) {
        // Writing to a string cannot fail.
        writeln!(self.0, "{name:<40} {value}").ok();
    }

    pub(super) fn rate(&mut self, name: &str, count: u64, took: Duration) {
        self.line(name, format_args!("{:.0}", rate(count, took)));
    }

    #[allow(clippy::cast_precision_loss)] // shown rounded
    pub(super) fn cpu_per_event(&mut self, name: &str, events: u64, cpu: Option<Duration>) {
        if let Some(cpu) = cpu {
            let micros = cpu.as_secs_f64() * 1e6 / events.max(1) as f64;
            self.line(name, format_args!("{micros:.2} µs"));
        }
    }

    pub(super) fn percentiles(&mut self, name: &str, p50: Duration, p99: Duration) {
        for (percent, value) in [(50, p50), (99, p99)] {
            let millis = value.as_secs_f64() * 1e3;
            self.line(&format!("{name} p{percent}"), format_args!("{millis:.1} ms"));
        }
    }

    /// What is known of the distribution of sorted values.
    pub(super) fn spread(&mut self, name: &str, values: &[Duration]) {
        let millis = |percent| percentile(values, percent).as_secs_f64() * 1e3;
        let [p50, p90, p99, max] = [50, 90, 99, 100].map(millis);
        self.line(
            name,
            format_args!("p50 {p50:.1} ms, p90 {p90:.1} ms, p99 {p99:.1} ms, max {max:.1} ms"),
        );
    }

    pub(super) fn peak(&mut self, name: &str, mib: Option<u64>) {
        if let Some(mib) = mib {
            self.line(name, format_args!("{mib} MiB"));
        }
    }
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.trim_end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_is_read_behind_a_name_with_blanks_and_parentheses() {
        let stat = "7 (a (b) c) S 1 7 7 0 -1 4194560 9 0 0 0 250 50 0 0 20 0 3 0 100 0 0";
        assert_eq!(cpu_of(stat), Some(Duration::from_secs(3)));
        assert_eq!(cpu_of("7 a"), None);
    }

    #[test]
    fn percentiles_are_values_that_occurred() {
        let values: Vec<Duration> = (1..=100).map(Duration::from_millis).collect();
        assert_eq!(percentile(&values, 50), Duration::from_millis(50));
        assert_eq!(percentile(&values, 99), Duration::from_millis(99));
        assert_eq!(percentile(&values[..50], 99), Duration::from_millis(50));
        assert_eq!(percentile(&values[..1], 50), Duration::from_millis(1));
        assert_eq!(percentile(&[], 50), Duration::ZERO);
    }

    #[test]
    fn figures_are_one_to_a_line() {
        let mut figures = Figures::default();
        figures.rate("events/s", 3_000, Duration::from_secs(2));
        figures.cpu_per_event("cpu per event", 4, Some(Duration::from_micros(50)));
        figures.percentiles("ack", Duration::from_millis(1), Duration::from_micros(2_500));
        figures.cpu_per_event("unknown", 4, None);
        let lines: Vec<String> = figures.to_string().lines().map(String::from).collect();
        let names = ["events/s", "cpu per event", "ack p50", "ack p99"];
        let values = ["1500", "12.50 µs", "1.0 ms", "2.5 ms"];
        let expected = names.iter().zip(values).map(|(name, value)| format!("{name:<40} {value}"));
        assert_eq!(lines, expected.collect::<Vec<_>>());
    }
}
