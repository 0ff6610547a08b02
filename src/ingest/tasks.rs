//! The tasks of the ingest role, so that a stop can wait for them.

use tokio::{sync::watch, task::JoinHandle};

/// Counts the tasks that run: each holds a receiver of a channel that carries nothing.
#[derive(Debug)]
pub(super) struct Tasks(watch::Sender<()>);

impl Tasks {
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(()))
    }

    pub(super) fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        let alive = self.0.subscribe();
        tokio::spawn(async move {
            let done = work.await;
            drop(alive);
            done
        })
    }

    /// Waits until none runs.
    pub(super) async fn wait(&self) {
        self.0.closed().await;
    }

    pub(super) fn count(&self) -> usize {
        self.0.receiver_count()
    }
}
