//! Those who wait until everything that is in the log can be queried.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    domain::{Offset, Partition, Positions},
    process::{Error, ends::if_reachable, pipeline::Pipeline},
};

/// While somebody waits for other processors, their commits are looked for this often.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// A wait that is under way.
pub(super) struct Settling {
    wanted: u64,
    /// Where the log ended when it began.
    ends: Vec<(usize, Partition, Offset)>,
    /// Whether what this process read up to there is committed, so that others see it.
    is_sealed: bool,
    looked: Instant,
}

impl Pipeline {
    /// Answers those who wait, once everything that was in the log when they asked is here.
    pub(super) async fn settle(&mut self) -> Result<(), Error> {
        let wanted = self.deps.view.settle_wanted();
        if wanted <= self.settled {
            return Ok(());
        }
        if self.settling.is_none() {
            // Where the log does not answer they go on waiting, and what is here stays visible.
            let Some(ends) = if_reachable(self.all_ends().await)? else { return Ok(()) };
            let looked = Instant::now();
            self.settling = Some(Settling { wanted, ends, is_sealed: false, looked });
        }
        let Some(mut settling) = self.settling.take() else { return Ok(()) };
        while !self.reaches(&settling.ends) {
            if !self.poll().await? && self.pass_over_holes(&settling.ends).await? {
                break;
            }
        }
        if self.deps.membership.is_some() && !self.group_settled(&mut settling).await? {
            self.settling = Some(settling);
            return Ok(());
        }
        self.whole_round().await?;
        self.swap();
        self.seal(true).await?;
        self.settled = settling.wanted;
        self.deps.view.mark_settled(settling.wanted);
        Ok(())
    }

    /// Whether the other processors have committed their part: of the log, and of the tables that
    /// one of them owns.
    async fn group_settled(&mut self, settling: &mut Settling) -> Result<bool, Error> {
        if !settling.is_sealed {
            self.seal(true).await?;
            settling.is_sealed = true;
        } else if settling.looked.elapsed() < LOOK_EVERY {
            return Ok(false);
        }
        settling.looked = Instant::now();
        self.follow_others().await?;
        if !self.others_reach(&settling.ends).await? {
            return Ok(false);
        }
        let mut reached = Positions::default();
        for (i, partition, end) in &settling.ends {
            let stream = &self.streams[*i];
            let at = stream.bronze.at(*partition).map(|at| at.min(end - 1));
            at.into_iter().for_each(|at| reached.advance(stream.name(), *partition, at));
        }
        Ok(self.is_owner || self.derived.iter().all(|derived| derived.reaches(&reached)))
    }
}
