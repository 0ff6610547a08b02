//! Which partitions this process reads, and whether the tables with one owner are its own.
//!
//! Alone, it holds everything from the start. In a group it takes and gives up partitions as the
//! group asks: what it read of them is committed before it gives them up, and what others committed
//! is loaded before it goes on from there. The processor that holds partition 0 of the project's
//! first stream writes all tables that cannot be written side by side. Nothing rests on two
//! processors never holding the same partition: each commit names the position that its writer
//! left the table at, and the first to find another one throws away what it has in memory and
//! starts again from the tables.

use std::{collections::BTreeSet, sync::Arc};

use futures::future::try_join_all;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    domain::{Assignment, Partition, Positions},
    log::Asked,
    ops::crash,
    process::{Error, derived::Derived, metrics, open, pipeline::Pipeline, stream::StreamTables},
};

impl Pipeline {
    /// Every partition of every stream.
    fn everything(&self) -> Assignment {
        let partitions = self.streams.iter().flat_map(|stream| {
            let count = stream.judge.contract().partitions;
            (0..count).map(|partition| (stream.name(), partition))
        });
        partitions.collect()
    }

    /// Brings every table up to Bronze, from the tables, and opens the log behind it.
    pub(super) async fn catch_up(&mut self) -> Result<(), Error> {
        let held = match &self.deps.membership {
            None => self.everything(),
            Some(membership) => membership.held(),
        };
        self.hold(held).await
    }

    /// Waits for the group to give this process its part.
    pub(super) async fn join(&mut self, stop: &CancellationToken) -> Result<(), Error> {
        while let Some(membership) = self.deps.membership.clone() {
            self.regroup().await?;
            if stop.is_cancelled() || (membership.has_joined() && membership.asked()?.is_none()) {
                break;
            }
            tokio::time::sleep(self.poll_wait()).await;
        }
        Ok(())
    }

    /// Does what the group asks for. Whether it asked.
    pub(super) async fn regroup(&mut self) -> Result<bool, Error> {
        let Some(membership) = self.deps.membership.clone() else { return Ok(false) };
        let Some(asked) = membership.asked()? else { return Ok(false) };
        match asked {
            Asked::Take(none) if none.is_empty() => {
                membership.take(&none)?;
            }
            Asked::Take(partitions) => {
                let started = Instant::now();
                self.give_back().await?;
                if !membership.take(&partitions)? {
                    // The next question says why.
                    return Ok(true);
                }
                let mut held = self.held.clone();
                held.merge(&partitions);
                self.hold(held).await?;
                crash::point("process.taken");
                let took = started.elapsed();
                tracing::info!(%partitions, ?took, "took partitions over");
            }
            Asked::Release(partitions) => {
                let started = Instant::now();
                self.give_back().await?;
                let mut held = self.held.clone();
                held.subtract(&partitions);
                self.hold(held).await?;
                crash::point("process.given");
                membership.release(&partitions)?;
                let took = started.elapsed();
                tracing::info!(%partitions, ?took, "gave partitions up");
            }
            Asked::Lost => {
                membership.forget();
                return Err(Error::Lost);
            }
        }
        Ok(true)
    }

    /// Commits everything, so that whoever comes next finds it.
    async fn give_back(&mut self) -> Result<(), Error> {
        if self.held.is_empty() {
            return Ok(());
        }
        self.seal(true).await?;
        if self.streams.iter_mut().flat_map(StreamTables::tables_mut).any(|t| t.tail_bytes() > 0) {
            // The log cannot be asked whether it is still the one that this came from.
            return Err(Error::Unconfirmed);
        }
        Ok(())
    }

    /// Goes on as the holder of `held`, from what the tables say.
    async fn hold(&mut self, held: Assignment) -> Result<(), Error> {
        let (was_owner, started) = (self.is_owner, Instant::now());
        // A project of seeds alone has no partitions to tell an owner by.
        self.is_owner = self.streams.first().is_none_or(|first| held.holds(first.name(), 0));
        if self.deps.membership.is_some() {
            self.follow_tables().await?;
        }
        for i in 0..self.streams.len() {
            let stream = &mut self.streams[i];
            let name = stream.name().to_owned();
            let all = 0..stream.judge.contract().partitions;
            let is_followed = stream.halted.is_none();
            let now = all.filter(|p| is_followed && held.holds(&name, *p));
            let now: BTreeSet<Partition> = now.collect();
            let new = now.difference(&stream.held).copied().collect();
            stream.hold(now, self.is_owner);
            open::check(&self.deps, stream, &new).await?;
            stream.learn().await?;
        }
        self.held = held;
        self.ends.clear();
        let is_new_owner = self.is_owner && !was_owner;
        if is_new_owner {
            self.own().await?;
        } else if !self.is_owner {
            self.disown().await?;
        }
        self.follow_bronze().await?;
        self.look_at_all(false).await?;
        if is_new_owner {
            let view = self.swap();
            self.trust_recorded(&view);
        }
        self.read_log().await?;
        self.swap();
        metrics::held(self.held.iter().count(), started.elapsed());
        Ok(())
    }

    /// Brings the tables that are decided here up to Bronze as it is committed.
    async fn follow_bronze(&mut self) -> Result<(), Error> {
        for i in 0..self.streams.len() {
            loop {
                self.tell_readers(i);
                let is_behind = self.streams[i].catch_up().await?;
                self.feed(i)?;
                if !is_behind {
                    break;
                }
                if self.tail_bytes() > self.settings.seal_bytes {
                    self.seal_tables(false, false).await?;
                }
            }
        }
        Ok(())
    }

    /// Begins to write the tables that have one owner.
    async fn own(&mut self) -> Result<(), Error> {
        self.round_mark.clear();
        self.last_mark.clear();
        for derived in &mut self.derived {
            derived.follow().await?;
            open::load_seed(&self.deps, derived).await?;
        }
        self.load_kept().await?;
        self.look_at_all(false).await?;
        self.report_models();
        Ok(())
    }

    /// Leaves the tables that have one owner to another.
    async fn disown(&mut self) -> Result<(), Error> {
        self.rounds.shutdown().await;
        self.finish_looks().await?;
        for derived in &mut self.derived {
            derived.follow().await?;
        }
        Ok(())
    }

    async fn read_log(&mut self) -> Result<(), Error> {
        let mut after = Positions::default();
        for stream in &self.streams {
            after.merge(&stream.bronze.positions());
        }
        self.reader = Some(match &self.deps.membership {
            Some(membership) => {
                let read = self.streams.iter();
                let read = read.flat_map(|s| s.held.iter().map(|partition| (s.name(), *partition)));
                membership.reader(&read.collect(), &after).await?
            }
            None => {
                let followed = self.streams.iter().filter(|stream| stream.halted.is_none());
                let names: Vec<String> = followed.map(|s| s.name().to_owned()).collect();
                Arc::clone(&self.deps.log).reader(&names, &after).await?
            }
        });
        Ok(())
    }

    /// Takes over what the others of the group have committed. Whether they had.
    pub(super) async fn follow_others(&mut self) -> Result<bool, Error> {
        if self.deps.membership.is_none() {
            return Ok(false);
        }
        let mut moved = self.follow_tables().await?;
        if !self.is_owner {
            let derived = self.derived.iter_mut().map(Derived::follow);
            moved |= try_join_all(derived).await?.contains(&true);
        }
        // A commit of ours takes over what others committed just before it, too.
        if moved || self.is_behind() {
            self.follow_bronze().await?;
            self.swap();
            moved = true;
        }
        Ok(moved)
    }

    fn is_behind(&mut self) -> bool {
        (0..self.streams.len()).for_each(|number| self.tell_readers(number));
        self.streams.iter().any(StreamTables::is_behind)
    }

    async fn follow_tables(&mut self) -> Result<bool, Error> {
        let tables = self.streams.iter_mut().flat_map(StreamTables::tables_mut);
        let followed = try_join_all(tables.map(|table| table.follow())).await?;
        Ok(self.discarded.follow().await? | followed.contains(&true))
    }
}
