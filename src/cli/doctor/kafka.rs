//! Kafka as the log: who answers, and whether the topics keep what is acked.

use std::fmt::Display;

use super::finding::{Finding, Level, bytes};
use crate::{
    cli::chain,
    config::Config,
    domain::ErrorKind,
    log::{
        StreamSpec,
        kafka::{Copies, Seen, SeenTopic, TopicState, probe},
    },
    ops::Clock,
};

/// A broker whose clock is further ahead makes times that are not true.
const AHEAD_MAX_US: i64 = 2_000_000;

pub(super) async fn check(
    brokers: &str,
    config: &Config,
    specs: &[StreamSpec],
    clock: &Clock,
) -> Vec<Finding> {
    match probe(brokers, &config.kafka, specs).await {
        Ok(seen) => judge(brokers, &seen, clock.now_us()),
        Err(error) => {
            let mend = match error.kind() {
                ErrorKind::Invalid => "mend what [kafka] says: `sluice config` shows it",
                _ => "start the broker, or give its address: --log kafka://HOST:PORT",
            };
            vec![Finding::fail("log", chain(&error), mend)]
        }
    }
}

fn judge(brokers: &str, seen: &Seen, now_us: i64) -> Vec<Finding> {
    let count = counted(seen.brokers as u64, "broker");
    let cluster = &seen.cluster_id;
    let found = format!("kafka://{brokers}: cluster {cluster} with {count}");
    let topics = seen.topics.iter().map(|topic| judge_topic(topic, seen, now_us));
    std::iter::once(Finding::ok("log", found)).chain(topics).collect()
}

/// What is said about one topic; the worst of it is its level.
struct Judged {
    level: Level,
    found: Vec<String>,
    mend: Vec<String>,
}

impl Judged {
    fn add(&mut self, level: Level, found: impl Into<String>, mend: impl Into<String>) {
        self.level = self.level.max(level);
        self.found.push(found.into());
        self.mend.push(mend.into());
    }
}

fn judge_topic(topic: &SeenTopic, seen: &Seen, now_us: i64) -> Finding {
    let mut judged = Judged { level: Level::Ok, found: Vec::new(), mend: Vec::new() };
    match &topic.state {
        TopicState::Unseen(reason) => {
            let mend = "let this user DESCRIBE the topic";
            judged.add(Level::Fail, format!("cannot be seen: {reason}"), mend);
        }
        TopicState::Missing { creation, copies } => {
            missing(topic, creation, &mut judged, || format!("would have {}", shown(copies)))
        }
        TopicState::Present { .. } => present(topic, seen.message_bytes, now_us, &mut judged),
    }
    if let TopicState::Missing { copies, .. } | TopicState::Present { copies, .. } = &topic.state {
        judge_copies(copies, seen.brokers, &mut judged);
    }
    let mend = (!judged.mend.is_empty()).then(|| judged.mend.join("; "));
    let name = format!("topic {}", topic.topic);
    Finding { level: judged.level, name, found: judged.found.join("; "), mend }
}

fn missing(
    topic: &SeenTopic,
    creation: &Result<(), String>,
    judged: &mut Judged,
    copies: impl FnOnce() -> String,
) {
    let partitions = counted(topic.partitions, "partition");
    if topic.is_external {
        let found = "does not exist, and the contract leaves it to others to create";
        let mend = format!(
            "create it with {partitions}, or let the contract say `topic: {{mode: create}}`"
        );
        return judged.add(Level::Fail, found, mend);
    }
    match creation {
        Ok(()) => judged.found.push(format!(
            "does not exist yet, the first start creates it with {partitions}; it {}",
            copies()
        )),
        Err(reason) => judged.add(
            Level::Fail,
            format!("does not exist, and cannot be created: {reason}"),
            format!("let this user CREATE it, or create it with {partitions}"),
        ),
    }
}

fn present(topic: &SeenTopic, message_bytes: u64, now_us: i64, judged: &mut Judged) {
    let TopicState::Present { partitions, copies, message_bytes_max, cleanup_policy, newest_us } =
        &topic.state
    else {
        return;
    };
    judged.found.push(format!("{}, {}", counted(*partitions, "partition"), shown(copies)));
    if *partitions != topic.partitions {
        let wanted = counted(topic.partitions, "partition");
        let mend = format!("let the contract say `partitions: {partitions}`");
        judged.add(Level::Fail, format!("the contract of {} says {wanted}", topic.stream), mend);
    }
    match message_bytes_max {
        Ok(max) if *max < message_bytes && !topic.is_external => judged.add(
            Level::Warn,
            format!("takes {} at once, a batch may have {}", bytes(*max), bytes(message_bytes)),
            format!("set its max.message.bytes to {message_bytes}, or lower kafka.batch_bytes"),
        ),
        _ => {}
    }
    if cleanup_policy.as_ref().is_ok_and(|policy| policy.contains("compact")) {
        let mend = "set its cleanup.policy to delete";
        judged.add(Level::Warn, "is compacted: of events with one key only the last is kept", mend);
    }
    match newest_us {
        Err(reason) => {
            let mend = "let this user READ the topic";
            judged.add(Level::Fail, format!("cannot be read: {reason}"), mend);
        }
        Ok(Some(newest)) if newest - now_us > AHEAD_MAX_US => {
            let ahead = (newest - now_us) / 1_000_000;
            let found = format!("its newest record is {ahead} s ahead of this machine's clock");
            judged.add(Level::Warn, found, "let all machines follow the same time server");
        }
        Ok(_) => {}
    }
}

/// Copies matter where there are several brokers to hold them.
fn judge_copies(copies: &Copies, brokers: usize, judged: &mut Judged) {
    if let (Ok(replication), Ok(min_insync)) = (&copies.replication, &copies.min_insync)
        && replication < min_insync
    {
        let found = format!("an ack wants {min_insync} copies, it has {replication}");
        return judged.add(
            Level::Fail,
            found,
            "raise its replication or lower min.insync.replicas",
        );
    }
    if brokers < 2 {
        return;
    }
    match &copies.replication {
        Ok(0 | 1) => judged.add(
            Level::Warn,
            "the loss of one broker loses acked events",
            "give it 3 copies: `topic: {replication: 3}` where Sluice creates it, else \
             kafka-reassign-partitions",
        ),
        Ok(_) => {}
        Err(reason) => unseen("replication", reason, judged),
    }
    match &copies.min_insync {
        Ok(0 | 1) => judged.add(
            Level::Warn,
            "an event is acked when one broker has it",
            "set its min.insync.replicas to 2",
        ),
        Ok(_) => {}
        Err(reason) => unseen("min.insync.replicas", reason, judged),
    }
}

fn unseen(what: &str, reason: &str, judged: &mut Judged) {
    let mend = "let this user DESCRIBE_CONFIGS";
    judged.add(Level::Warn, format!("{what} cannot be seen: {reason}"), mend);
}

fn shown(copies: &Copies) -> String {
    let number = |value: &Result<u64, String>| {
        value.as_ref().map_or_else(|_| "?".to_owned(), u64::to_string)
    };
    let (all, needed) = (number(&copies.replication), number(&copies.min_insync));
    format!("replication {all}, min.insync.replicas {needed}")
}

fn counted(count: impl Into<u64> + Display + Copy, noun: &str) -> String {
    let plural = if count.into() == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_000_000_000;

    fn copies(replication: u64, min_insync: u64) -> Copies {
        Copies { replication: Ok(replication), min_insync: Ok(min_insync) }
    }

    fn there(copies: Copies) -> TopicState {
        TopicState::Present {
            partitions: 3,
            copies,
            message_bytes_max: Ok(1_200_000),
            cleanup_policy: Ok("delete".into()),
            newest_us: Ok(Some(NOW)),
        }
    }

    /// Level, what was found and how to mend it.
    fn judged(brokers: usize, is_external: bool, state: TopicState) -> (Level, String, String) {
        let (stream, topic) = ("s".to_owned(), "t".to_owned());
        let topic = SeenTopic { stream, topic, is_external, partitions: 3, state };
        let seen =
            Seen { cluster_id: "c".into(), brokers, topics: vec![topic], message_bytes: 1_118_208 };
        let mut findings = judge("h:1", &seen, NOW);
        assert_eq!(findings.len(), 2);
        assert_eq!(findings[0].level, Level::Ok);
        let found = findings.remove(1);
        assert_eq!(found.name, "topic t");
        (found.level, found.found, found.mend.unwrap_or_default())
    }

    #[test]
    fn weak_copies_are_a_warning_where_there_are_brokers_to_hold_more() {
        let (level, found, mend) = judged(3, false, there(copies(3, 2)));
        assert_eq!((level, mend.as_str()), (Level::Ok, ""));
        assert_eq!(found, "3 partitions, replication 3, min.insync.replicas 2");
        assert_eq!(judged(1, false, there(copies(1, 1))).0, Level::Ok);
        let (level, found, mend) = judged(3, false, there(copies(1, 1)));
        assert_eq!(level, Level::Warn);
        assert!(found.contains("loses acked events") && found.contains("one broker has it"));
        assert!(mend.contains("3 copies") && mend.contains("min.insync.replicas to 2"), "{mend}");
        let (level, found, _) = judged(3, false, there(copies(1, 2)));
        assert_eq!(level, Level::Fail);
        assert!(found.ends_with("an ack wants 2 copies, it has 1"), "{found}");
        let unseen = Copies { replication: Ok(3), min_insync: Err("no".into()) };
        let (level, found, mend) = judged(3, false, there(unseen));
        assert_eq!((level, mend.as_str()), (Level::Warn, "let this user DESCRIBE_CONFIGS"));
        assert!(found.ends_with("min.insync.replicas cannot be seen: no"), "{found}");
    }

    #[test]
    fn a_topic_that_is_missing_is_fine_only_where_it_may_be_created() {
        let missing =
            |creation: Result<(), String>| TopicState::Missing { creation, copies: copies(3, 2) };
        let (level, found, _) = judged(3, false, missing(Ok(())));
        assert_eq!(level, Level::Ok);
        assert!(found.contains("the first start creates it with 3 partitions"), "{found}");
        let (level, found, mend) = judged(3, false, missing(Err("not allowed".into())));
        assert_eq!(level, Level::Fail);
        assert!(found.ends_with("cannot be created: not allowed"), "{found}");
        assert_eq!(mend, "let this user CREATE it, or create it with 3 partitions");
        assert_eq!(judged(3, true, missing(Ok(()))).0, Level::Fail);
        let (level, found, _) = judged(3, false, TopicState::Unseen("why".into()));
        assert_eq!((level, found.as_str()), (Level::Fail, "cannot be seen: why"));
    }

    #[test]
    fn what_would_lose_or_refuse_events_is_said() {
        let state = |change: &dyn Fn(&mut TopicState)| {
            let mut state = there(copies(3, 2));
            change(&mut state);
            state
        };
        let set = |what: &str| {
            state(&|state| {
                let TopicState::Present {
                    partitions,
                    message_bytes_max,
                    cleanup_policy,
                    newest_us,
                    ..
                } = state
                else {
                    unreachable!("it is present");
                };
                match what {
                    "partitions" => *partitions = 4,
                    "bytes" => *message_bytes_max = Ok(1_000_000),
                    "policy" => *cleanup_policy = Ok("compact,delete".into()),
                    "clock" => *newest_us = Ok(Some(NOW + 5_000_000)),
                    _ => *newest_us = Err("not allowed".into()),
                }
            })
        };
        for (what, level, expected) in [
            ("partitions", Level::Fail, "the contract of s says 3 partitions"),
            ("bytes", Level::Warn, "takes 976.6 KiB at once, a batch may have 1.1 MiB"),
            ("policy", Level::Warn, "is compacted"),
            ("clock", Level::Warn, "5 s ahead of this machine's clock"),
            ("read", Level::Fail, "cannot be read: not allowed"),
        ] {
            let (found_level, found, mend) = judged(3, false, set(what));
            assert_eq!(found_level, level, "{what}");
            assert!(found.contains(expected) && !mend.is_empty(), "{what}: {found} / {mend}");
        }
        assert_eq!(judged(3, true, set("bytes")).0, Level::Ok, "others fill it");
    }
}
