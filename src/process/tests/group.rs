//! Several processors over one lake and one log, whose group is played by the test.

use std::{
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::support::*;
use crate::{
    domain::{Assignment, Durability, Positions, record::Record},
    lake::LakeHandle,
    log::{
        self, Asked, Chunk, Log as _, Membership, Reader, StreamSpec,
        embedded::{self, EmbeddedLog},
        part::Part,
    },
    ops::Clock,
};

/// One member's side of a group that does what the test says.
struct Member {
    log: Arc<EmbeddedLog>,
    part: Mutex<Part>,
    /// Whether the group changes its mind when the next partitions are taken.
    changes_mind: AtomicBool,
}

impl Member {
    fn new(rig: &Rig) -> Arc<Self> {
        let log = Arc::clone(rig.log());
        Arc::new(Self { log, part: Mutex::default(), changes_mind: AtomicBool::new(false) })
    }

    fn part(&self) -> MutexGuard<'_, Part> {
        self.part.lock().expect("part")
    }

    fn ask(&self, asked: Asked) {
        self.part().ask(asked);
    }

    /// Asks, and waits for the answer.
    async fn answers(&self, asked: Asked) {
        self.ask(asked);
        let answered = async {
            while self.part().next().is_some() {
                tokio::task::yield_now().await;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), answered).await.expect("an answer");
    }
}

#[async_trait::async_trait]
impl Membership for Member {
    fn asked(&self) -> Result<Option<Asked>, log::Error> {
        Ok(self.part().next().cloned())
    }

    fn held(&self) -> Assignment {
        self.part().held().clone()
    }

    fn has_joined(&self) -> bool {
        self.part().has_joined()
    }

    fn take(&self, partitions: &Assignment) -> Result<bool, log::Error> {
        if !partitions.is_empty() && self.changes_mind.swap(false, Ordering::SeqCst) {
            self.ask(Asked::Lost);
        }
        Ok(self.part().answer(&Asked::Take(partitions.clone())))
    }

    fn release(&self, partitions: &Assignment) -> Result<(), log::Error> {
        self.part().answer(&Asked::Release(partitions.clone()));
        Ok(())
    }

    fn forget(&self) {
        self.part().answer(&Asked::Lost);
    }

    async fn reader(
        &self,
        partitions: &Assignment,
        after: &Positions,
    ) -> Result<Box<dyn Reader>, log::Error> {
        let mut from = Positions::default();
        for (partition, extent) in (0..).zip(self.log.extents("events").await?) {
            // Those of others are read from their end, and left out.
            let held = partitions.holds("events", partition);
            let at = if held { after.get("events", partition) } else { Some(extent.end - 1) };
            at.filter(|at| *at >= 0)
                .into_iter()
                .for_each(|at| from.advance("events", partition, at));
        }
        let inner = Arc::clone(&self.log).reader(&["events".to_owned()], &from).await?;
        Ok(Box::new(Only { inner, partitions: partitions.clone() }))
    }

    fn report(&self, _positions: &Positions) {}

    async fn leave(&self) {}
}

/// Leaves out the partitions of others.
struct Only {
    inner: Box<dyn Reader>,
    partitions: Assignment,
}

#[async_trait::async_trait]
impl Reader for Only {
    async fn poll(&mut self, bytes: usize, wait: Duration) -> Result<Vec<Chunk>, log::Error> {
        let mut chunks = self.inner.poll(bytes, wait).await?;
        for chunk in &mut chunks {
            chunk.records.retain(|r| self.partitions.holds(&chunk.stream, r.partition));
        }
        Ok(chunks)
    }
}

fn partitions(all: &[u32]) -> Assignment {
    all.iter().map(|partition| ("events", *partition)).collect()
}

/// A project whose log keeps everything, so that several readers may lag behind each other.
async fn rig(contract: &str) -> Rig {
    let mut rig = Rig::new().await;
    rig.write("streams/events.yml", contract);
    rig.log.take();
    let settings = embedded::Settings { durability: Durability::Os, ..Default::default() };
    let log = EmbeddedLog::open(&rig.path("long"), settings, Clock::system()).expect("log");
    log.ensure(&[StreamSpec::new("events", 2)]).await.expect("ensure");
    rig.log = Some(log);
    rig
}

fn join(rig: &Rig, member: &Arc<Member>) -> Running {
    let mut deps = rig.deps(rig.plain_lake());
    deps.membership = Some(Arc::<Member>::clone(member));
    start(settings(), deps)
}

/// What every event once, numbered from 0 to `n`, comes to: rows, identities, sum.
fn all(n: usize) -> Vec<i64> {
    let n = i64::try_from(n).expect("a small number");
    vec![n, n, (0..n).map(|id| id % 100).sum()]
}

fn batch(ids: std::ops::Range<usize>) -> Vec<(usize, &'static str, i64)> {
    ids.map(|id| (id, ["a", "b", "c"][id % 3], i64::try_from(id % 100).expect("small"))).collect()
}

const TOTALS: &str = "SELECT sum(n), sum(s) FROM gold.totals";

async fn expect(view: &Arc<LakeHandle>, n: usize) {
    let view = view.load();
    assert_eq!(numbers(&view, COUNTS).await, all(n));
    let totals = numbers(&view, TOTALS).await;
    assert_eq!(totals, [all(n)[0], all(n)[2]], "gold");
}

/// Events by themselves, or as arrays of up to seven.
async fn send(rig: &Rig, ids: std::ops::Range<usize>, in_arrays: bool) {
    let events = batch(ids.clone());
    if !in_arrays {
        return rig.append(events).await;
    }
    let array = |(number, some): (usize, &[(usize, &'static str, i64)])| {
        let payloads = some.iter().map(|(id, k, v)| event(*id, k, *v).payload);
        let payloads: Vec<_> =
            payloads.map(|payload| String::from_utf8_lossy(&payload).into_owned()).collect();
        let payload = format!("[{}]", payloads.join(",")).into();
        Record { payload, ..event(ids.start + number, "", 0) }
    };
    let records = events.chunks(7).enumerate().map(array).collect();
    rig.log().append("events", records).await.expect("append");
}

async fn partitions_move(contract: &str) {
    let in_arrays = contract.contains("records: arrays");
    let rig = rig(contract).await;
    let (first, second) = (Member::new(&rig), Member::new(&rig));
    let (a, b) = (join(&rig, &first), join(&rig, &second));
    second.answers(Asked::Take(Assignment::default())).await;
    first.answers(Asked::Take(partitions(&[0, 1]))).await;
    send(&rig, 0..100, in_arrays).await;
    for running in [&a, &b] {
        running.settled().await;
        expect(&running.view, 100).await;
    }
    // One partition to the second; the first sends again what it has sent.
    send(&rig, 50..150, in_arrays).await;
    first.answers(Asked::Release(partitions(&[1]))).await;
    send(&rig, 100..200, in_arrays).await;
    second.answers(Asked::Take(partitions(&[1]))).await;
    for running in [&a, &b] {
        running.settled().await;
        expect(&running.view, 200).await;
    }
    // The other too, and with it the tables that have one owner.
    first.answers(Asked::Release(partitions(&[0]))).await;
    second.answers(Asked::Take(partitions(&[0]))).await;
    send(&rig, 150..300, in_arrays).await;
    for running in [&b, &a] {
        running.settled().await;
        expect(&running.view, 300).await;
    }
    b.kill().await;
    first.answers(Asked::Take(partitions(&[0, 1]))).await;
    send(&rig, 0..400, in_arrays).await;
    a.settled().await;
    expect(&a.view, 400).await;
    a.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_move_between_processors_and_every_event_counts_once() {
    partitions_move(CONTRACT).await;
}

/// Events that came before change no table, but every one of them has seen them then: also what is
/// computed whole from tables that are kept by changes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_table_says_that_it_has_seen_events_that_change_nothing() {
    let rig = rig(CONTRACT).await;
    rig.write(
        "models/gold/ranks.sql",
        "SELECT label, row_number() OVER (ORDER BY n, label) AS rank FROM {{ ref('named') }}",
    );
    rig.write("models/gold/last.sql", "SELECT max(rank) AS rank FROM {{ ref('ranks') }} LIMIT 1");
    let (first, second) = (Member::new(&rig), Member::new(&rig));
    let (a, b) = (join(&rig, &first), join(&rig, &second));
    first.answers(Asked::Take(partitions(&[0]))).await;
    second.answers(Asked::Take(partitions(&[1]))).await;
    for again in 0..3 {
        rig.append(batch(0..100)).await;
        for running in [&b, &a] {
            running.settled().await;
            expect(&running.view, 100).await;
            let last = numbers(&running.view.load(), "SELECT rank FROM gold.last").await;
            assert_eq!(last, [2], "time {again}");
        }
    }
    b.stop().await;
    a.stop().await;
}

/// What one commits just before the other's own commit is taken over with that, and followed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_taken_over_with_a_commit_is_followed_too() {
    for contract in [CONTRACT.to_owned(), format!("{CONTRACT}topic: {{mode: external}}\n")] {
        let rig = rig(&contract).await;
        let (first, second) = (Member::new(&rig), Member::new(&rig));
        let (a, b) = (join(&rig, &first), join(&rig, &second));
        first.answers(Asked::Take(partitions(&[0]))).await;
        second.answers(Asked::Take(partitions(&[1]))).await;
        for round in 1..=40 {
            rig.append(batch(round * 10 - 10..round * 10)).await;
            for running in [&b, &a] {
                running.settled().await;
                expect(&running.view, round * 10).await;
            }
        }
        b.stop().await;
        a.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_an_external_topic_one_processor_decides_what_counts() {
    partitions_move(&format!("{CONTRACT}topic: {{mode: external}}\n")).await;
}

/// Equal events may stand in arrays of two partitions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_arrays_one_processor_decides_what_counts() {
    partitions_move(&format!("{CONTRACT}records: arrays\n")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_processor_that_does_not_know_that_it_was_replaced_doubles_nothing() {
    let rig = rig(CONTRACT).await;
    let (first, second) = (Member::new(&rig), Member::new(&rig));
    let (a, b) = (join(&rig, &first), join(&rig, &second));
    first.answers(Asked::Take(partitions(&[0, 1]))).await;
    rig.append(batch(0..100)).await;
    a.settled().await;
    // Both hold everything now, and both write.
    second.answers(Asked::Take(partitions(&[0, 1]))).await;
    for round in 1..10 {
        rig.append(batch(round * 100..round * 100 + 100)).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    first.ask(Asked::Lost);
    first.answers(Asked::Take(Assignment::default())).await;
    for running in [&b, &a] {
        running.settled().await;
        expect(&running.view, 1_000).await;
    }
    b.stop().await;
    a.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_that_are_lost_while_they_are_taken_are_not_held() {
    let rig = rig(CONTRACT).await;
    let (first, second) = (Member::new(&rig), Member::new(&rig));
    let (a, b) = (join(&rig, &first), join(&rig, &second));
    first.answers(Asked::Take(partitions(&[0]))).await;
    rig.append(batch(0..100)).await;
    first.changes_mind.store(true, Ordering::SeqCst);
    first.answers(Asked::Take(partitions(&[1]))).await;
    assert_eq!(first.held(), Assignment::default());
    second.answers(Asked::Take(partitions(&[0, 1]))).await;
    rig.append(batch(50..200)).await;
    for running in [&b, &a] {
        running.settled().await;
        expect(&running.view, 200).await;
    }
    const HELD: &str = "SELECT count(*) FROM system.streams WHERE held";
    assert_eq!(numbers(&a.view.load(), HELD).await, [0]);
    assert_eq!(numbers(&b.view.load(), HELD).await, [2]);
    b.stop().await;
    a.stop().await;
}

/// Three processors, any of which may be killed or replaced unawares at any time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_to_a_group_every_event_counts_once() {
    for seed in [1, 2, 3] {
        let mut random = StdRng::seed_from_u64(seed);
        let rig = rig(CONTRACT).await;
        let mut members: Vec<_> = (0..3).map(|_| Member::new(&rig)).collect();
        let mut all: Vec<Running> = members.iter().map(|member| join(&rig, member)).collect();
        members.iter().for_each(|member| member.ask(Asked::Take(Assignment::default())));
        // Who holds which partition, as the group believes.
        let mut holders: [Option<usize>; 2] = [None, None];
        let mut sent = 0;
        for _ in 0..25 {
            let again = random.random_range(0..=sent);
            let next = sent + random.random_range(1..30);
            rig.append(batch(again..next)).await;
            sent = next;
            let partition = random.random_range(0..2_u32);
            let to = random.random_range(0..3);
            let moved = partitions(&[partition]);
            let holder = holders[partition as usize].replace(to);
            match (holder, random.random_range(0..4)) {
                (Some(holder), 0) => {
                    // It dies, and comes back without anything.
                    members[holder] = Member::new(&rig);
                    let next = join(&rig, &members[holder]);
                    std::mem::replace(&mut all[holder], next).kill().await;
                    members[holder].ask(Asked::Take(Assignment::default()));
                    holders.iter_mut().filter(|h| **h == Some(holder)).for_each(|h| *h = None);
                    holders[partition as usize] = Some(to);
                }
                (Some(holder), 1) => {
                    // It hears of it later.
                    members[to].answers(Asked::Take(moved)).await;
                    if to != holder {
                        members[holder].ask(Asked::Lost);
                        let other = 1 - partition;
                        if holders[other as usize] == Some(holder) {
                            members[holder].ask(Asked::Take(partitions(&[other])));
                        }
                    }
                    continue;
                }
                (Some(holder), _) => members[holder].answers(Asked::Release(moved.clone())).await,
                (None, _) => {}
            }
            members[to].answers(Asked::Take(moved)).await;
        }
        for partition in 0..2 {
            if holders[partition as usize].is_none() {
                members[0].answers(Asked::Take(partitions(&[partition]))).await;
            }
        }
        for running in &all {
            running.settled().await;
            expect(&running.view, sent).await;
        }
        for running in all {
            running.stop().await;
        }
    }
}
