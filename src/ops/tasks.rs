//! Background tasks: named, stopped together, never lost.

use std::{collections::BTreeSet, future::Future, time::Duration};

use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;

/// A task that ended otherwise than asked.
#[derive(Debug, thiserror::Error)]
pub enum TaskError<E> {
    #[error("{name}: {error}")]
    Failed { name: &'static str, error: E },
    #[error("{name} panicked: {reason}")]
    Panicked { name: &'static str, reason: String },
    #[error("still running after {0:?}: {1}")]
    Stragglers(Duration, String),
}

/// A task's name and how it ended.
type Named<E> = (&'static str, Result<(), E>);

/// A group of tasks: the first error cancels all.
pub struct Tasks<E> {
    set: JoinSet<Named<E>>,
    names: std::collections::HashMap<Id, &'static str>,
    stop: CancellationToken,
}

impl<E: Send + 'static> Tasks<E> {
    pub fn new(stop: CancellationToken) -> Self {
        Self { set: JoinSet::new(), names: std::collections::HashMap::new(), stop }
    }

    /// The token that asks the group to stop.
    pub fn token(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Starts a task; it is expected to end once the group's token is cancelled.
    pub fn spawn(
        &mut self,
        name: &'static str,
        task: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        let handle = self.set.spawn(async move { (name, task.await) });
        self.names.insert(handle.id(), name);
    }

    /// Waits until a task ends or the group is asked to stop.
    pub async fn wait(&mut self) -> Result<(), TaskError<E>> {
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return Ok(()),
                ended = self.set.join_next_with_id() => match ended {
                    None => return Ok(()),
                    Some(ended) => self.ended(ended)?,
                },
            }
        }
    }

    /// Asks every task to stop and waits up to `limit`; names those that do not.
    pub async fn stop(mut self, limit: Duration) -> Result<(), TaskError<E>> {
        self.stop.cancel();
        let mut first = Ok(());
        let joined = tokio::time::timeout(limit, async {
            while let Some(ended) = self.set.join_next_with_id().await {
                let result = self.ended(ended);
                first = std::mem::replace(&mut first, Ok(())).and(result);
            }
        });
        if joined.await.is_err() {
            let names: BTreeSet<&str> = self.names.values().copied().collect();
            let names = names.into_iter().collect::<Vec<_>>().join(", ");
            return Err(TaskError::Stragglers(limit, names));
        }
        first
    }

    fn ended(
        &mut self,
        ended: Result<(Id, Named<E>), tokio::task::JoinError>,
    ) -> Result<(), TaskError<E>> {
        match ended {
            Ok((id, (name, result))) => {
                self.names.remove(&id);
                result.map_err(|error| TaskError::Failed { name, error })
            }
            Err(error) => {
                let name = self.names.remove(&error.id()).unwrap_or("a task");
                Err(TaskError::Panicked { name, reason: error.to_string() })
            }
        }
    }
}
