//! A steady rate of events, or the pace at which they happened.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// After a longer stall the lost time is not made up for.
const CATCH_UP_MAX: Duration = Duration::from_secs(1);
/// However low the rate is.
const GAP_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// Batches a second, about, that keep a pace smooth.
const BATCHES_PER_S: f64 = 20.0;
const US_PER_S: f64 = 1e6;

/// How fast events go.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Pace {
    /// As fast as possible.
    Free,
    /// Events per second.
    Rate(f64),
    /// By the times of the events, so many times faster than they happened.
    Speed(f64),
}

impl Pace {
    /// Events per batch that keep a rate smooth.
    pub(super) fn batch_rows(self, most: usize) -> usize {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // saturates
        match self {
            Self::Rate(rate) => ((rate / BATCHES_PER_S) as usize).clamp(1, most),
            Self::Free | Self::Speed(_) => most,
        }
    }

    /// Microseconds of event time per batch that keep a replay smooth.
    pub(super) fn batch_span_us(self) -> Option<i64> {
        #[allow(clippy::cast_possible_truncation)] // saturates
        match self {
            Self::Speed(speed) => Some((speed / BATCHES_PER_S * US_PER_S) as i64),
            Self::Free | Self::Rate(_) => None,
        }
    }
}

/// Lets events pass at a pace.
#[derive(Debug)]
pub(super) struct Pacer {
    pace: Pace,
    /// At a rate: when the next events may pass. By time: when the last ones did.
    due: Option<Instant>,
    /// The time of the last events that passed.
    last_us: Option<i128>,
}

impl Pacer {
    pub(super) fn new(pace: Pace) -> Self {
        Self { pace, due: None, last_us: None }
    }

    /// Waits until `events` more may pass, the first of which happened at `at_us` (microseconds
    /// since 1970). Cancel-safe: a wait given up has not let them pass.
    pub(super) async fn wait(&mut self, events: usize, at_us: Option<i128>) {
        let Some(due) = self.due_at(Instant::now(), at_us) else { return };
        sleep_until(due).await;
        self.passed(due, events, at_us);
    }

    /// When the next events may pass; `None`: now, and the pace is not touched.
    fn due_at(&self, now: Instant, at_us: Option<i128>) -> Option<Instant> {
        let due = match self.pace {
            Pace::Free => return None,
            Pace::Rate(_) => self.due,
            // A batch without an event has no time.
            Pace::Speed(speed) => {
                let at_us = at_us?;
                let wait = self.last_us.map(|last_us| replayed(at_us - last_us, speed));
                self.due.zip(wait).map(|(due, wait)| due + wait)
            }
        };
        let earliest = now.checked_sub(CATCH_UP_MAX).unwrap_or(now);
        Some(due.map_or(now, |due| due.max(earliest)))
    }

    /// `events` passed at `due`, which puts off the next ones.
    fn passed(&mut self, due: Instant, events: usize, at_us: Option<i128>) {
        #[allow(clippy::cast_precision_loss)] // a batch is small
        let put_off = match self.pace {
            Pace::Rate(rate) => gap(events as f64 / rate),
            Pace::Free | Pace::Speed(_) => Duration::ZERO,
        };
        self.due = Some(due + put_off);
        self.last_us = at_us;
    }
}

/// How long `us` microseconds of event time take.
fn replayed(us: i128, speed: f64) -> Duration {
    #[allow(clippy::cast_precision_loss)] // 285 years to the microsecond
    gap((us.max(0) as f64 / US_PER_S) / speed)
}

fn gap(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(GAP_MAX).min(GAP_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets batches of `events` pass one after the other, from `now` on; when the last one did.
    fn pass(pacer: &mut Pacer, now: &mut Instant, batches: usize, events: usize) -> Instant {
        for _ in 0..batches {
            let due = pacer.due_at(*now, None).expect("a rate");
            *now = due.max(*now);
            pacer.passed(due, events, None);
        }
        *now
    }

    #[test]
    fn events_pass_at_the_rate() {
        let start = Instant::now();
        let (mut pacer, mut now) = (Pacer::new(Pace::Rate(100.0)), start);
        let last = pass(&mut pacer, &mut now, 21, 5);
        assert_eq!(last - start, Duration::from_secs(1));
    }

    #[test]
    fn time_lost_in_between_is_made_up_for() {
        let start = Instant::now();
        let (mut pacer, mut now) = (Pacer::new(Pace::Rate(100.0)), start);
        pass(&mut pacer, &mut now, 10, 5);
        now += Duration::from_millis(300);
        let last = pass(&mut pacer, &mut now, 11, 5);
        assert_eq!(last - start, Duration::from_secs(1));
    }

    #[test]
    fn a_stall_is_not_followed_by_a_flood() {
        let start = Instant::now();
        let (mut pacer, mut now) = (Pacer::new(Pace::Rate(10.0)), start);
        pass(&mut pacer, &mut now, 1, 10);
        now += Duration::from_secs(60);
        // One second's worth passes at once, the rest at the rate.
        let last = pass(&mut pacer, &mut now, 5, 10);
        assert_eq!(last - start, Duration::from_secs(63));
    }

    #[test]
    fn without_a_rate_nothing_waits() {
        assert_eq!(Pacer::new(Pace::Free).due_at(Instant::now(), Some(1)), None);
    }

    #[test]
    fn a_slow_rate_makes_small_batches() {
        assert_eq!(Pace::Rate(1.0).batch_rows(500), 1);
        assert_eq!(Pace::Rate(200.0).batch_rows(500), 10);
        assert_eq!(Pace::Rate(1e9).batch_rows(500), 500);
        assert_eq!(Pace::Free.batch_rows(500), 500);
        assert_eq!(Pace::Speed(3600.0).batch_rows(500), 500);
        assert_eq!(Pace::Speed(3600.0).batch_span_us(), Some(180_000_000));
        assert_eq!(Pace::Rate(1.0).batch_span_us(), None);
    }

    /// Lets a batch of each time (in seconds) pass, from `now` on; when each did.
    fn replay(pacer: &mut Pacer, now: &mut Instant, times: &[i128]) -> Vec<Instant> {
        let mut passed = Vec::new();
        for time in times {
            let at_us = Some(1_700_000_000_000_000 + time * 1_000_000);
            // A wait that is given up and begun anew changes nothing.
            let due = pacer.due_at(*now, at_us).expect("a time");
            *now = pacer.due_at((*now).max(due), at_us).expect("a time").max(*now);
            pacer.passed(due, 7, at_us);
            passed.push(*now);
        }
        passed
    }

    #[test]
    fn events_pass_as_they_happened_only_faster() {
        let start = Instant::now();
        let (mut pacer, mut now) = (Pacer::new(Pace::Speed(3600.0)), start);
        let passed = replay(&mut pacer, &mut now, &[0, 0, 1_800, 3_600, 90_000]);
        let waited: Vec<_> = passed.iter().map(|at| (*at - start).as_millis()).collect();
        assert_eq!(waited, [0, 0, 500, 1_000, 25_000]);
        assert_eq!(pacer.due_at(now, None), None, "a batch without an event does not wait");
    }

    #[test]
    fn a_stall_of_a_replay_is_made_up_for_up_to_a_second() {
        let start = Instant::now();
        let (mut pacer, mut now) = (Pacer::new(Pace::Speed(1.0)), start);
        replay(&mut pacer, &mut now, &[0]);
        now += Duration::from_secs(60);
        let passed = replay(&mut pacer, &mut now, &[1, 2, 3]);
        let waited: Vec<_> = passed.iter().map(|at| (*at - start).as_secs()).collect();
        assert_eq!(waited, [60, 60, 61]);
    }
}
