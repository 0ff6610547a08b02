//! What the admin API of a node answers.

use crate::{
    cli::{chain, node::Deployer},
    domain::{
        ErrorKind, Place,
        deployed::Deployed,
        previewed::{Asked, Previewed},
        quarantine::{Discard, Discarded, Filter, Listed, Places, Replay, Replayed, Shown},
        tested::{Ran, Wanted},
    },
    process::{self, data_tests::Testing, quarantine::Quarantine},
    project::select::Graph,
    serve::{self, admin::Refusal},
};

/// Answers the admin API.
pub(super) struct Answers {
    quarantine: Quarantine,
    testing: Testing,
    deployer: Deployer,
}

impl Answers {
    pub(super) fn new(quarantine: Quarantine, testing: Testing, deployer: Deployer) -> Self {
        Self { quarantine, testing, deployer }
    }
}

fn refusal(error: process::quarantine::Error) -> Refusal {
    Refusal { kind: error.kind(), message: chain(&error) }
}

#[async_trait::async_trait]
impl serve::admin::AdminSource for Answers {
    async fn list(&self, filter: Filter, limit: usize) -> Result<Listed, Refusal> {
        self.quarantine.list(&filter, limit).await.map_err(refusal)
    }

    async fn places(&self, filter: Filter) -> Result<Places, Refusal> {
        let positions = self.quarantine.places(&filter).await.map_err(refusal)?;
        Ok(Places { positions })
    }

    async fn show(&self, stream: String, place: Place) -> Result<Shown, Refusal> {
        self.quarantine.show(&stream, place).await.map_err(refusal)
    }

    async fn replay(&self, stream: String, asked: Replay) -> Result<Replayed, Refusal> {
        self.quarantine.replay(&stream, &asked).await.map_err(refusal)
    }

    async fn discard(&self, stream: String, asked: Discard) -> Result<Discarded, Refusal> {
        self.quarantine.discard(&stream, &asked).await.map_err(refusal)
    }

    async fn test(&self, wanted: Wanted) -> Result<Vec<Ran>, Refusal> {
        let planned = self.testing.planned.load_full();
        let graph = Graph::new(&planned.project, None);
        let selected = graph.select(&wanted.select, &wanted.exclude);
        let selected = selected.map_err(|message| Refusal { kind: ErrorKind::Invalid, message })?;
        Ok(self.testing.run(&selected.tests, |_| {}).await)
    }

    async fn preview(&self, asked: Asked) -> Result<Previewed, Refusal> {
        let view = self.testing.lake.load();
        let rows = process::preview(&self.testing.runner, &view, &asked).await;
        rows.map_err(|error| Refusal { kind: ErrorKind::Invalid, message: error.strip_backtrace() })
    }

    async fn deploy(&self) -> Result<Deployed, Refusal> {
        self.deployer.deploy().await
    }
}
