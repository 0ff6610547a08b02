//! What this process knows of producers: which of their sequences are durable.

use std::collections::HashMap;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct ProducerKey {
    pub(super) stream: String,
    pub(super) producer: String,
    pub(super) epoch: u32,
}

/// Durable sequences without a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    first: i64,
    last: i64,
}

/// A bounded map: those that were not seen for longest are forgotten, which costs no more than a
/// resend that the log takes again and the identity undoes.
#[derive(Debug)]
pub(super) struct Producers {
    recent: HashMap<ProducerKey, Run>,
    older: HashMap<ProducerKey, Run>,
    generation_max: usize,
}

impl Producers {
    pub(super) fn new(max: usize) -> Self {
        let generation_max = (max / 2).max(1);
        Self { recent: HashMap::new(), older: HashMap::new(), generation_max }
    }

    /// The last sequence known to be durable, or -1.
    pub(super) fn last(&self, key: &ProducerKey) -> i64 {
        self.get(key).map_or(-1, |run| run.last)
    }

    pub(super) fn is_durable(&self, key: &ProducerKey, sequence: i64) -> bool {
        self.get(key).is_some_and(|run| (run.first..=run.last).contains(&sequence))
    }

    pub(super) fn record(&mut self, key: &ProducerKey, sequence: i64) {
        let run = match self.get(key) {
            None => Run { first: sequence, last: sequence },
            Some(run) if sequence == run.last.saturating_add(1) => Run { last: sequence, ..run },
            Some(run) if sequence > run.last => Run { first: sequence, last: sequence },
            Some(run) if sequence == run.first - 1 => Run { first: sequence, ..run },
            Some(run) => run,
        };
        if let Some(known) = self.recent.get_mut(key) {
            *known = run;
            return;
        }
        if self.recent.len() >= self.generation_max {
            self.older = std::mem::take(&mut self.recent);
        }
        self.recent.insert(key.clone(), run);
    }

    fn get(&self, key: &ProducerKey) -> Option<Run> {
        self.recent.get(key).or_else(|| self.older.get(key)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(producer: &str) -> ProducerKey {
        ProducerKey { stream: "s".into(), producer: producer.into(), epoch: 0 }
    }

    fn durable(producers: &Producers) -> Vec<i64> {
        (0..12).filter(|sequence| producers.is_durable(&key("p"), *sequence)).collect()
    }

    #[test]
    fn only_a_run_without_holes_is_durable() {
        let mut producers = Producers::new(10);
        assert_eq!(producers.last(&key("p")), -1);
        for sequence in [4, 5, 6, 5, 3] {
            producers.record(&key("p"), sequence);
        }
        assert_eq!(durable(&producers), [3, 4, 5, 6]);
        producers.record(&key("p"), 9);
        assert_eq!(durable(&producers), [9]);
        assert_eq!(producers.last(&key("p")), 9);
        assert_eq!(producers.last(&key("other")), -1);
    }

    #[test]
    fn it_forgets_those_not_seen_for_longest() {
        let mut producers = Producers::new(4);
        for i in 0..100 {
            producers.record(&key(&i.to_string()), 7);
            producers.record(&key("busy"), i);
        }
        assert_eq!(producers.last(&key("busy")), 99);
        assert_eq!(producers.last(&key("99")), 7);
        assert_eq!(producers.last(&key("1")), -1);
        assert!(producers.recent.len() + producers.older.len() <= 4);
    }
}
