//! A steady rate of events.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// After a longer stall the lost time is not made up for.
const CATCH_UP_MAX: Duration = Duration::from_secs(1);
/// However low the rate is.
const GAP_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// Lets events pass at `rate` per second.
#[derive(Debug)]
pub(super) struct Pacer {
    rate: Option<f64>,
    due: Option<Instant>,
}

impl Pacer {
    /// `None`: as fast as possible.
    pub(super) fn new(rate: Option<f64>) -> Self {
        Self { rate, due: None }
    }

    /// Waits until `events` more may pass. Cancel-safe: a wait given up has not let them pass.
    pub(super) async fn wait(&mut self, events: usize) {
        let Some(due) = self.due_at(Instant::now()) else { return };
        sleep_until(due).await;
        self.passed(due, events);
    }

    /// When the next events may pass.
    fn due_at(&self, now: Instant) -> Option<Instant> {
        self.rate?;
        let earliest = now.checked_sub(CATCH_UP_MAX).unwrap_or(now);
        Some(self.due.map_or(now, |due| due.max(earliest)))
    }

    /// `events` passed at `due`, which puts off the next ones.
    fn passed(&mut self, due: Instant, events: usize) {
        #[allow(clippy::cast_precision_loss)] // a batch is small
        let seconds = self.rate.map_or(0.0, |rate| events as f64 / rate);
        let gap = Duration::try_from_secs_f64(seconds).unwrap_or(GAP_MAX).min(GAP_MAX);
        self.due = Some(due + gap);
    }
}

/// Events per batch that keep a rate smooth: about twenty batches a second.
pub(super) fn batch_rows(rate: Option<f64>, most: usize) -> usize {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // saturates
    rate.map_or(most, |rate| ((rate / 20.0) as usize).clamp(1, most))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets batches of `events` pass one after the other, from `now` on; when the last one did.
    fn pass(pacer: &mut Pacer, now: &mut Instant, batches: usize, events: usize) -> Instant {
        for _ in 0..batches {
            let due = pacer.due_at(*now).expect("a rate");
            *now = due.max(*now);
            pacer.passed(due, events);
        }
        *now
    }

    #[test]
    fn events_pass_at_the_rate() {
        let start = Instant::now();
        let (mut pacer, mut now) = (Pacer::new(Some(100.0)), start);
        let last = pass(&mut pacer, &mut now, 21, 5);
        assert_eq!(last - start, Duration::from_secs(1));
    }

    #[test]
    fn time_lost_in_between_is_made_up_for() {
        let start = Instant::now();
        let (mut pacer, mut now) = (Pacer::new(Some(100.0)), start);
        pass(&mut pacer, &mut now, 10, 5);
        now += Duration::from_millis(300);
        let last = pass(&mut pacer, &mut now, 11, 5);
        assert_eq!(last - start, Duration::from_secs(1));
    }

    #[test]
    fn a_stall_is_not_followed_by_a_flood() {
        let start = Instant::now();
        let (mut pacer, mut now) = (Pacer::new(Some(10.0)), start);
        pass(&mut pacer, &mut now, 1, 10);
        now += Duration::from_secs(60);
        // One second's worth passes at once, the rest at the rate.
        let last = pass(&mut pacer, &mut now, 5, 10);
        assert_eq!(last - start, Duration::from_secs(63));
    }

    #[test]
    fn without_a_rate_nothing_waits() {
        assert_eq!(Pacer::new(None).due_at(Instant::now()), None);
    }

    #[test]
    fn a_slow_rate_makes_small_batches() {
        assert_eq!(batch_rows(Some(1.0), 500), 1);
        assert_eq!(batch_rows(Some(200.0), 500), 10);
        assert_eq!(batch_rows(Some(1e9), 500), 500);
        assert_eq!(batch_rows(None, 500), 500);
    }
}
