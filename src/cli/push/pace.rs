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
        let Some(rate) = self.rate else { return };
        let now = Instant::now();
        let due = self.due.map_or(now, |due| due.max(now.checked_sub(CATCH_UP_MAX).unwrap_or(now)));
        sleep_until(due).await;
        #[allow(clippy::cast_precision_loss)] // a batch is small
        let seconds = events as f64 / rate;
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

    #[tokio::test(start_paused = true)]
    async fn events_pass_at_the_rate() {
        let start = Instant::now();
        let mut pacer = Pacer::new(Some(100.0));
        for _ in 0..20 {
            pacer.wait(5).await;
        }
        pacer.wait(5).await;
        assert_eq!(start.elapsed(), Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stall_is_not_followed_by_a_flood() {
        let mut pacer = Pacer::new(Some(10.0));
        pacer.wait(10).await;
        tokio::time::advance(Duration::from_secs(60)).await;
        let start = Instant::now();
        for _ in 0..5 {
            pacer.wait(10).await;
        }
        assert_eq!(start.elapsed(), Duration::from_secs(3));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_rate_nothing_waits() {
        let start = Instant::now();
        Pacer::new(None).wait(1_000_000).await;
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    #[test]
    fn a_slow_rate_makes_small_batches() {
        assert_eq!(batch_rows(Some(1.0), 500), 1);
        assert_eq!(batch_rows(Some(200.0), 500), 10);
        assert_eq!(batch_rows(Some(1e9), 500), 500);
        assert_eq!(batch_rows(None, 500), 500);
    }
}
