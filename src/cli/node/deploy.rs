//! A changed project takes the place of the running one, while events come in and queries go on.
//!
//! The loop stops at its next commits; queries go on seeing the last view of it, and ingest goes on
//! acking into the log. Tables whose definition changed are made anew beside what they are, and
//! replaced in one commit each, parents first. Then the loop starts with the new project and what
//! it makes visible is one view again.

use std::{collections::BTreeSet, sync::Arc};

use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    cli::{Failure, Node, chain, check, node::task_failure, rebuild},
    domain::{
        ErrorKind, TableName,
        deployed::{Deployed, FailedTable, RebuiltTable},
    },
    models::Class,
    ops::{crash, tasks::Tasks},
    process::{self, Done, Outcome, Planned, Reading},
    serve::admin::Refusal,
};

/// A deployment that is asked for.
pub(super) struct Request {
    pub answer: oneshot::Sender<Result<Deployed, Refusal>>,
}

/// Asks a node to deploy.
#[derive(Clone)]
pub(in crate::cli) struct Deployer(mpsc::Sender<Request>);

impl Deployer {
    pub(super) fn new(asked: mpsc::Sender<Request>) -> Self {
        Self(asked)
    }

    /// Returns what was done, or why nothing was.
    pub(in crate::cli) async fn deploy(&self) -> Result<Deployed, Refusal> {
        let refused = |kind, message: &str| Refusal { kind, message: message.to_owned() };
        let (answer, answered) = oneshot::channel();
        let busy = "the server deploys already; ask again when it has";
        let asked = self.0.try_send(Request { answer });
        asked.map_err(|_| refused(ErrorKind::Conflict, busy))?;
        answered.await.map_err(|_| refused(ErrorKind::Unavailable, "the server stops"))?
    }
}

impl Node {
    /// Reads the project again and runs it from now on. A refusal leaves everything as it is; a failure
    /// is one of the node.
    pub(super) async fn deploy(
        &mut self,
        stop: &CancellationToken,
    ) -> Result<Result<Deployed, Refusal>, Failure> {
        let started = Instant::now();
        let planned = match self.changed().await {
            Ok(planned) => Arc::new(planned),
            Err(refusal) => return Ok(Err(refusal)),
        };
        let mut deployed = compared(&self.deps.planned, &planned);
        let running = std::mem::replace(&mut self.process, Tasks::new(CancellationToken::new()));
        running.stop(super::STOP).await.map_err(task_failure)?;
        crash::point("deploy.stopped");
        let made = self.make_anew(&planned, &mut deployed).await;
        if let Err(error) = &made {
            tracing::error!(error = chain(error), "tables could not be made anew");
        }
        self.deps.planned = Arc::clone(&planned);
        self.testing.planned.store(planned);
        self.status.forget_models();
        let caught_up = self.start_process();
        self.wait_caught_up(caught_up, stop).await?;
        self.start_tests();
        deployed.took_ms = millis(started.elapsed());
        Ok(match made {
            Ok(()) => Ok(deployed),
            Err(error) => Err(Refusal { kind: error.kind(), message: chain(&error) }),
        })
    }

    /// The project as it stands in its folder now, if it can take the place of the running one.
    async fn changed(&self) -> Result<Planned, Refusal> {
        let refused = |kind, message: String| Refusal { kind, message };
        if self.deps.membership.is_some() {
            let message = "processors of a group cannot change their project while they run: stop \
                           all of them, run `sluice rebuild`, start them again";
            return Err(refused(ErrorKind::Conflict, message.to_owned()));
        }
        let root = self.deps.planned.project.root.clone();
        let read = tokio::task::spawn_blocking(move || check::load(&root)).await;
        let read = read.map_err(|error| refused(ErrorKind::Internal, error.to_string()))?;
        let planned = read.map_err(|error| refused(error.kind(), error.to_string()))?;
        let before = &self.deps.planned.project.streams;
        let streams = planned.project.streams.iter();
        let changed: Vec<&str> = streams
            .filter(|stream| !before.contains(stream))
            .chain(before.iter().filter(|stream| {
                !planned.project.streams.iter().any(|other| other.name == stream.name)
            }))
            .map(|stream| stream.name.as_str())
            .collect();
        if !changed.is_empty() {
            let message = format!(
                "the contracts of these streams changed: {}; that takes a restart of the server",
                changed.join(", ")
            );
            return Err(refused(ErrorKind::Conflict, message));
        }
        Ok(planned)
    }

    /// Makes tables anew that are defined otherwise by now, and those that are new.
    async fn make_anew(
        &self,
        planned: &Planned,
        deployed: &mut Deployed,
    ) -> Result<(), process::Error> {
        let lake = &self.deps.lake;
        let mut names = process::outdated(planned, lake).await?;
        for plan in planned.plans.iter().filter(|plan| plan.class != Class::View) {
            if lake.stored(&plan.model.name).await?.is_none() {
                names.push(plan.model.name.clone());
            }
        }
        if names.is_empty() {
            return Ok(());
        }
        let far = |reading: Reading| tracing::info!("{reading}");
        let told = |done: &Done| {
            tracing::info!(table = %done.table, outcome = ?done.outcome, "deployed");
            crash::point("deploy.built");
        };
        for done in
            rebuild::watched(planned, lake, &names, (rebuild::LINE_EVERY, far), told).await?
        {
            let (table, took_ms) = (done.table.to_string(), millis(done.took));
            match done.outcome {
                Outcome::Rebuilt(rebuilt) => deployed.rebuilt.push(RebuiltTable {
                    table,
                    rows: rebuilt.rows,
                    files: rebuilt.files as u64,
                    took_ms,
                }),
                Outcome::Failed(reason) => deployed.failed.push(FailedTable { table, reason }),
            }
        }
        Ok(())
    }
}

/// Which relations come and go.
fn compared(before: &Planned, now: &Planned) -> Deployed {
    let names = |planned: &Planned| -> BTreeSet<TableName> {
        let seeds = planned.project.seeds.iter().map(|seed| seed.name.clone());
        seeds.chain(planned.plans.iter().map(|plan| plan.model.name.clone())).collect()
    };
    let (old, new) = (names(before), names(now));
    Deployed {
        added: new.difference(&old).map(ToString::to_string).collect(),
        removed: old.difference(&new).map(ToString::to_string).collect(),
        warnings: now.project.warnings.iter().map(ToString::to_string).collect(),
        ..Deployed::default()
    }
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
