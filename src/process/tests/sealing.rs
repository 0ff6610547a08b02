//! What happens while tables are committed.

use std::sync::mpsc::{Receiver, Sender, channel};

use super::support::*;
use crate::lake::{LakeView, faults::Fault};

/// A commit that says when it is reached, and waits until it may go on.
struct Gate {
    reached: Sender<()>,
    go: Receiver<()>,
}

/// The other side of a gate.
struct Keeper {
    reached: Receiver<()>,
    go: Sender<()>,
}

fn gate() -> (Gate, Keeper) {
    let ((reached, is_reached), (go, may_go)) = (channel(), channel());
    (Gate { reached, go: may_go }, Keeper { reached: is_reached, go })
}

impl Gate {
    fn pass(&self) {
        self.reached.send(()).expect("the test goes on");
        self.go.recv().expect("the test goes on");
    }
}

impl Keeper {
    /// Waits until the commit is reached.
    async fn reached(self) -> Sender<()> {
        let reached = move || self.reached.recv().map(|()| self.go);
        tokio::task::spawn_blocking(reached).await.expect("task").expect("reached")
    }
}

fn records(view: &LakeView) -> i64 {
    view.positions.iter().map(|(_, _, offset)| offset + 1).sum()
}

/// Of what comes after Bronze was committed nothing is in the commits that follow, and queries see it
/// between them.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn what_comes_during_a_seal_is_visible_between_its_commits_and_part_of_the_next() {
    let rig = Rig::new().await;
    let ((bronze, at_bronze), (decisions, at_decisions)) = (gate(), gate());
    let running = rig.start_on_faults(move |path| {
        if path.ends_with("bronze/events/_delta_log/00000000000000000001.json") {
            bronze.pass();
        } else if path.ends_with("_acceptance/events/_delta_log/00000000000000000001.json") {
            decisions.pass();
            // As if it had been tried again.
            return Some(Fault::ReplyLost);
        }
        None
    });
    rig.append([(1, "a", 10)]).await;
    let go = at_bronze.reached().await;
    rig.append([(2, "b", 60), (3, "c", 7)]).await;
    go.send(()).expect("goes on");
    let go = at_decisions.reached().await;
    let seen = running.view.wait_until(|view| records(view) == 3);
    let seen = tokio::time::timeout(std::time::Duration::from_secs(60), seen).await;
    seen.expect("seen while the seal is under way");
    assert_eq!(running.numbers(COUNTS).await, [3, 3, 77]);
    assert_eq!(running.text("SELECT k, n FROM totals ORDER BY k").await, "a 1\nb 1\nc 1");
    assert_eq!(running.numbers("SELECT sum(w) FROM silver.big").await, [120]);
    let bronze = rig.plain_lake().stored(&crate::domain::TableName::new("bronze", "events")).await;
    let stored = bronze.expect("read").expect("there").table.committed().await.expect("read");
    assert_eq!(stored.rows, 1, "what was there when the seal began");
    go.send(()).expect("goes on");
    running.settled().await;
    assert_eq!(running.numbers(COUNTS).await, [3, 3, 77]);
    running.stop().await;
    verified(&rig, "at the end").await;
}
