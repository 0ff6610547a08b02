//! What broke its contract is replayed once it does not, and counts once; or it is discarded.

use std::time::Duration;

use super::support::{CONTRACT, COUNTS, Rig, Running, event, verified};
use crate::{
    domain::{
        ErrorKind, Place,
        identity::Identity,
        quarantine::{Discard, Discarded, Filter, Replay, Replayed},
        record::Record,
    },
    log::{
        Log as _, StreamSpec,
        embedded::{self, EmbeddedLog},
    },
    ops::Clock,
    process::quarantine::{Error, Quarantine},
};

/// Two good events, two that are too large, one of an unknown kind.
const EVENTS: [(usize, &str, i64); 5] =
    [(1, "a", 10), (2, "b", 60), (3, "a", 5_000), (4, "b", 6_000), (5, "z", 7)];

/// What queries see of each: identity, value and state.
const STATES: &str = "SELECT s.message, s.state, s.accepted_offset IS NOT NULL AS counts, s.reason \
                      FROM system.quarantine AS s ORDER BY s.message, s.\"offset\"";
const OPEN: &str = "SELECT payload_text FROM quarantine.events ORDER BY 1";

fn mended() -> String {
    CONTRACT.replace("v < 1000", "v < 10000")
}

async fn places(quarantine: &Quarantine, rule: Option<&str>) -> Vec<Place> {
    let filter = Filter { stream: Some("events".into()), rule: rule.map(Into::into) };
    quarantine.places(&filter).await.expect("places")
}

async fn replay(running: &Running, positions: &[Place]) -> Result<Replayed, Error> {
    let asked = Replay { positions: positions.to_vec(), ..Replay::default() };
    running.quarantine.replay("events", &asked).await
}

async fn discard(running: &Running, positions: &[Place], reason: &str) -> Result<Discarded, Error> {
    let (positions, reason) = (positions.to_vec(), reason.to_owned());
    running.quarantine.discard("events", &Discard { positions, reason, pass_over: false }).await
}

fn rules(done: &Replayed) -> Vec<String> {
    let mut rules: Vec<String> = done.broken.iter().map(|b| b.rules.join("+")).collect();
    rules.sort();
    rules
}

/// Starts again, with another contract.
async fn restart(rig: &mut Rig, running: Running, contract: &str) -> Running {
    running.stop().await;
    rig.write("streams/events.yml", contract);
    rig.reopen_log().await;
    let running = rig.start();
    running.settled().await;
    running
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_replayed_counts_once_the_contract_is_mended() {
    let mut rig = Rig::new().await;
    let running = rig.start();
    rig.append(EVENTS).await;
    running.settled().await;
    let all = places(&running.quarantine, None).await;
    assert_eq!(all.len(), 3);

    let done = replay(&running, &all).await.expect("replay");
    assert_eq!(rules(&done), ["accepted_values:k", "small", "small"]);
    assert_eq!((done.replayed, done.repeats, done.passed_over), (0, 0, 0));
    assert_eq!(running.numbers("SELECT count(*) FROM bronze.events").await, [5]);

    let running = restart(&mut rig, running, &mended()).await;
    let dry = Replay { positions: all.clone(), dry_run: true, ..Replay::default() };
    let dry = running.quarantine.replay("events", &dry).await.expect("dry run");
    assert_eq!((dry.replayed, rules(&dry)), (2, vec!["accepted_values:k".to_owned()]));
    assert_eq!(running.numbers("SELECT count(*) FROM bronze.events").await, [5]);

    let done = replay(&running, &all).await.expect("replay");
    assert_eq!(rules(&done), ["accepted_values:k"]);
    assert_eq!((done.replayed, done.repeats, done.is_visible), (2, 0, true));
    // Without a wait: what was replayed is seen when the answer is there.
    assert_eq!(running.numbers(COUNTS).await, [4, 4, 11_070]);
    assert_eq!(running.text(OPEN).await, "{\"id\":\"e5\",\"k\":\"z\",\"v\":7}");
    let large = "small: does not hold: v < 1000 replayed true ";
    let kind = "accepted_values:k: \"z\" is not one of a, b, c open false ";
    assert_eq!(running.text(STATES).await, format!("{kind}\n{large}\n{large}"));
    running.settled().await;
    assert_eq!(running.text("SELECT k, n, s FROM totals ORDER BY k").await, "a 2 5010\nb 2 6060");

    // Decided, so there is nothing to replay, neither now nor after a restart.
    for place in &all {
        let again = replay(&running, &[*place]).await;
        match &again {
            Err(error @ Error::Replayed { at: Some(at), .. }) => {
                assert_eq!(error.kind(), ErrorKind::Conflict);
                assert!(at.offset > place.offset && at.partition == place.partition, "{error}");
            }
            other => assert_eq!(other.as_ref().expect("still broken").broken.len(), 1),
        }
    }
    let passing = Replay { positions: all.clone(), pass_over: true, dry_run: false };
    let done = running.quarantine.replay("events", &passing).await.expect("replay");
    assert_eq!((done.replayed, done.passed_over, done.broken.len()), (0, 2, 1));
    let running = restart(&mut rig, running, &mended()).await;
    assert_eq!(running.numbers(COUNTS).await, [4, 4, 11_070]);
    assert_eq!(running.numbers("SELECT count(*) FROM quarantine.events").await, [1]);
    assert_eq!(running.numbers("SELECT count(*) FROM bronze.events").await, [7]);
    running.stop().await;
}

/// Ends a replay when its records are in the log, before anybody has seen them there.
async fn replay_and_die(rig: &Rig, quarantine: &Quarantine, positions: &[Place]) {
    let end = |extents: Vec<crate::log::Extent>| extents.iter().map(|e| e.end).sum::<i64>();
    let before = end(rig.log().extents("events").await.expect("extents"));
    let asked = Replay { positions: positions.to_vec(), ..Replay::default() };
    let appended = async {
        while end(rig.log().extents("events").await.expect("extents")) == before {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        done = quarantine.replay("events", &asked) => panic!("nobody reads the log: {done:?}"),
        () = appended => {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_that_dies_and_is_done_again_counts_once() {
    let mut rig = Rig::new().await;
    let running = rig.start();
    rig.append(EVENTS).await;
    running.settled().await;
    let running = restart(&mut rig, running, &mended()).await;
    let large = places(&running.quarantine, Some("small")).await;
    assert_eq!(large.len(), 2);
    let Running { quarantine, stop, task, .. } = running;
    stop.cancel();
    task.await.expect("task").expect("stopped");
    // Twice, and each time nobody learns of it.
    replay_and_die(&rig, &quarantine, &large).await;
    replay_and_die(&rig, &quarantine, &large[..1]).await;
    drop(quarantine);

    rig.reopen_log().await;
    let running = rig.start();
    running.settled().await;
    assert_eq!(running.numbers(COUNTS).await, [4, 4, 11_070]);
    assert_eq!(running.numbers("SELECT count(*) FROM bronze.events").await, [8]);
    assert_eq!(running.text(OPEN).await, "{\"id\":\"e5\",\"k\":\"z\",\"v\":7}");
    let verdicts = "SELECT verdict, count(*) FROM system.acceptance GROUP BY verdict ORDER BY 1";
    assert_eq!(running.text(verdicts).await, "accepted 4\nquarantined 3\nrepeat 1");
    let counts = "SELECT count(*), count(accepted_offset) FROM system.quarantine";
    assert_eq!(running.numbers(counts).await, [3, 2], "a record has one line");
    let headers = "SELECT count(*), count(DISTINCT _headers) FROM bronze.events WHERE _headers \
                   LIKE '[{\"name\":\"sluice-origin\",\"value\":\"%'";
    assert_eq!(running.numbers(headers).await, [3, 2]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_that_is_set_aside_again_resolves_nothing() {
    let mut rig = Rig::new().await;
    let running = rig.start();
    rig.append(EVENTS).await;
    running.settled().await;
    let running = restart(&mut rig, running, &mended()).await;
    let large = places(&running.quarantine, Some("small")).await;
    let Running { quarantine, stop, task, .. } = running;
    stop.cancel();
    task.await.expect("task").expect("stopped");
    replay_and_die(&rig, &quarantine, &large).await;
    drop(quarantine);
    // Read by the contract that they break.
    rig.write("streams/events.yml", CONTRACT);
    rig.reopen_log().await;
    let running = rig.start();
    running.settled().await;
    assert_eq!(running.numbers(COUNTS).await, [2, 2, 70]);
    assert_eq!(places(&running.quarantine, Some("small")).await, large);
    let running = restart(&mut rig, running, &mended()).await;
    assert_eq!(replay(&running, &large).await.expect("replay").replayed, 2);
    assert_eq!(running.numbers(COUNTS).await, [4, 4, 11_070]);
    assert_eq!(places(&running.quarantine, None).await.len(), 1);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_of_an_event_that_was_sent_again_changes_nothing() {
    let mut rig = Rig::new().await;
    let running = rig.start();
    rig.append(EVENTS).await;
    rig.append([(3, "a", 500)]).await;
    running.settled().await;
    let running = restart(&mut rig, running, &mended()).await;
    let large = places(&running.quarantine, Some("small")).await;
    let done = replay(&running, &large).await.expect("replay");
    assert_eq!((done.replayed, done.repeats), (2, 1));
    assert_eq!(running.numbers(COUNTS).await, [4, 4, 6_570]);
    assert_eq!(places(&running.quarantine, Some("small")).await, []);
    running.stop().await;
}

/// Whatever tells events apart: each record keeps the identity that came with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_keeps_its_identity_in_every_kind_of_contract() {
    for kind in ["event_id: content", "event_id: none", "event_id: k"] {
        let mut rig = Rig::new().await;
        let contract = CONTRACT.replace("event_id: id", kind);
        rig.write("streams/events.yml", &contract);
        let running = rig.start();
        // A bad record that comes twice is set aside once.
        rig.append([(1, "a", 10), (3, "b", 5_000), (3, "b", 5_000), (4, "c", 6_000)]).await;
        running.settled().await;
        let all = places(&running.quarantine, None).await;
        assert_eq!(all.len(), 2, "{kind}");
        let contract = contract.replace("v < 1000", "v < 10000");
        let running = restart(&mut rig, running, &contract).await;
        let done = replay(&running, &all).await.expect("replay");
        assert_eq!((done.replayed, done.repeats), (2, 0), "{kind}");
        // And it is a repeat when it is sent once more.
        rig.append([(3, "b", 5_000)]).await;
        running.settled().await;
        assert_eq!(running.numbers(COUNTS).await, [3, 3, 11_010], "{kind}");
        let ids = "SELECT count(*), count(DISTINCT _event_id) FROM bronze.events";
        assert_eq!(running.numbers(ids).await, [7, 3], "{kind}");
        assert_eq!(places(&running.quarantine, None).await, [], "{kind}");
        running.stop().await;
    }
}

/// Where no id says that they are one event: each is set aside, once however often it is sent, and
/// each counts when it comes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn equal_bad_events_with_identities_of_their_own_are_several() {
    for records in ["", "records: arrays\n"] {
        let mut rig = Rig::new().await;
        let contract = CONTRACT.replace("event_id: id", "event_id: none") + records;
        rig.write("streams/events.yml", &contract);
        let running = rig.start();
        let named = |name: &str, v: i64| Record {
            key: Some("one".into()),
            identity: Identity::Given(name.into()),
            ..event(1, "a", v)
        };
        // The same record again, and another that claims to be one of these, which is kept too.
        let sent = [("x", 5_000), ("y", 5_000), ("x", 5_000), ("y", 6_000), ("z", 7)];
        let sent = sent.map(|(name, v)| named(name, v)).to_vec();
        rig.log().append("events", sent).await.expect("append");
        running.settled().await;
        let verdicts = "SELECT verdict, count(*) FROM system.acceptance GROUP BY 1 ORDER BY 1";
        assert_eq!(running.text(verdicts).await, "accepted 1\nquarantined 3\nrepeat 1");
        let all = places(&running.quarantine, None).await;
        assert_eq!(all.len(), 3, "{records}");
        running.stop().await;
        verified(&rig, "set aside").await;
        rig.reopen_log().await;
        let running = rig.start();
        let running = restart(&mut rig, running, &contract.replace("v < 1000", "v < 6000")).await;
        let done = replay(&running, &all).await.expect("replay");
        assert_eq!((done.replayed, rules(&done)), (2, vec!["small".to_owned()]), "{records}");
        running.settled().await;
        assert_eq!(running.numbers(COUNTS).await, [3, 1, 10_007], "{records}");
        assert_eq!(places(&running.quarantine, None).await, all[2..], "{records}");
        running.stop().await;
        verified(&rig, "replayed").await;
    }
}

/// Others may write records that are larger than ours may be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_the_log_does_not_take_does_not_stop_the_others() {
    let mut rig = Rig::new().await;
    let running = rig.start();
    rig.append([(3, "a", 5_000), (1_000_000_000_000_000, "a", 6_000)]).await;
    running.settled().await;
    running.stop().await;
    rig.write("streams/events.yml", &mended());
    rig.log.take();
    let settings = embedded::Settings { max_record_bytes: 40, ..embedded::Settings::default() };
    let log = EmbeddedLog::open(&rig.path("log"), settings, Clock::system()).expect("log");
    log.ensure(&[StreamSpec::new("events", 2)]).await.expect("ensure");
    rig.log = Some(log);
    let running = rig.start();
    running.settled().await;
    let all = places(&running.quarantine, None).await;
    let done = replay(&running, &all).await.expect("replay");
    assert_eq!((done.replayed, rules(&done)), (1, vec!["record_too_large".to_owned()]));
    let large = [done.broken[0].position];
    let done = replay(&running, &large).await.expect("replay");
    assert_eq!((done.replayed, rules(&done)), (0, vec!["record_too_large".to_owned()]));
    assert_eq!(running.numbers(COUNTS).await, [1, 1, 5_000]);
    assert_eq!(places(&running.quarantine, None).await.len(), 1);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_discarded_is_hidden_for_good_and_shown_with_its_reason() {
    let mut rig = Rig::new().await;
    let running = rig.start();
    rig.append(EVENTS).await;
    running.settled().await;
    let large = places(&running.quarantine, Some("small")).await;
    for reason in ["", "  ", "x".repeat(1_001).as_str()] {
        assert!(matches!(discard(&running, &large, reason).await, Err(Error::Reason)));
    }
    let done = discard(&running, &large[..1], " a test's data ").await.expect("discard");
    assert_eq!(done, Discarded { discarded: 1, before: 0, passed_over: 0 });
    // Without a wait: it is seen when the answer is there.
    assert_eq!(places(&running.quarantine, Some("small")).await, large[1..]);
    let again = discard(&running, &large, "again").await.expect("discard");
    assert_eq!(again, Discarded { discarded: 1, before: 1, passed_over: 0 });
    assert_eq!(running.numbers("SELECT count(*) FROM quarantine.events").await, [1]);

    let running = restart(&mut rig, running, &mended()).await;
    assert_eq!(running.text(OPEN).await, "{\"id\":\"e5\",\"k\":\"z\",\"v\":7}");
    let reasons = "SELECT reason, state FROM system.quarantine WHERE discarded_at IS NOT NULL \
                   ORDER BY 1";
    assert_eq!(running.text(reasons).await, "a test's data discarded\nagain discarded");
    let refused = replay(&running, &large[..1]).await.expect_err("discarded");
    assert_eq!(refused.kind(), ErrorKind::Conflict);
    assert!(refused.to_string().contains("was discarded (a test's data)"), "{refused}");
    assert_eq!(running.numbers(COUNTS).await, [2, 2, 70]);
    let shown = running.quarantine.show("events", large[0]).await.expect("show");
    assert_eq!(
        (shown.state.as_str(), shown.reason.as_deref()),
        ("discarded", Some("a test's data"))
    );
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_is_shown_with_all_that_is_known_of_it() {
    let rig = Rig::new().await;
    let running = rig.start();
    rig.append([(3, "z", 5_000)]).await;
    running.settled().await;
    let filter = Filter::default();
    let listed = running.quarantine.list(&filter, 10).await.expect("list");
    assert_eq!((listed.records.len(), listed.total), (1, 1));
    let entry = &listed.records[0];
    assert_eq!(entry.rules, ["accepted_values:k", "small"]);
    let shown = running.quarantine.show("events", entry.position).await.expect("show");
    assert_eq!((shown.identity.as_str(), shown.state.as_str()), ("e3", "open"));
    assert_eq!(shown.rules, entry.rules);
    assert_eq!(shown.payload.as_deref(), Some("{\"id\":\"e3\",\"k\":\"z\",\"v\":5000}"));
    assert_eq!(shown.decoded, Some(serde_json::json!({"id": "e3", "k": "z", "v": 5_000})));
    assert_eq!(shown.contract_version, rig.planned().judges[0].contract().version);
    assert_eq!((shown.key, shown.headers, shown.accepted_at), (None, Vec::new(), None));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_decided_on_is_refused_with_what_would_be_right() {
    let rig = Rig::new().await;
    let running = rig.start();
    rig.append(EVENTS).await;
    running.settled().await;
    let unknown = running.quarantine.replay("event", &Replay::default()).await;
    let unknown = unknown.expect_err("stream");
    assert_eq!(unknown.kind(), ErrorKind::NotFound);
    assert_eq!(unknown.to_string(), "there is no stream \"event\"; the project has events");
    let open = places(&running.quarantine, None).await;
    let missing: Place = "0/999".parse().expect("place");
    for refused in [
        replay(&running, &[open[0], missing]).await.map(|_| ()),
        discard(&running, &[open[0], missing], "gone").await.map(|_| ()),
        running.quarantine.show("events", missing).await.map(|_| ()),
    ] {
        let error = refused.expect_err("not there");
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("`sluice quarantine list events`"), "{error}");
    }
    let many: Vec<Place> = (0..1_001).map(|offset| Place { offset, ..missing }).collect();
    assert!(matches!(replay(&running, &many).await, Err(Error::TooMany { given: 1_001 })));
    assert_eq!(places(&running.quarantine, None).await, open);
    running.stop().await;
}
