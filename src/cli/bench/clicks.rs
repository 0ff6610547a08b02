//! Clicks of dvd-clicks as a load, and how many there are of what.

use std::{
    collections::{BTreeMap, VecDeque},
    path::Path,
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    cli::{
        Failure, example,
        generate::{Clicks, Config},
    },
    domain::timestamp::parse_timestamp,
};

/// Films that are clicked on: those of the example.
const FILMS: i64 = 1_000;
const MINUTE_US: i64 = 60_000_000;
/// How many clicks later one that comes twice comes again.
const REPEAT_AFTER: u64 = 999;

/// Writes those files of the example that are `wanted` into `folder`. On Kafka the names of the
/// topics begin with `topics`.
pub(super) fn unpack(
    folder: &Path,
    topics: Option<&str>,
    wanted: impl Fn(&str) -> bool,
) -> Result<(), Failure> {
    for (name, content) in example::files().filter(|(name, _)| wanted(name)) {
        let mut content = content.into_owned();
        let stream = name.strip_prefix("streams/").and_then(|name| name.strip_suffix(".yml"));
        if let Some((stream, topics)) = stream.zip(topics) {
            content.extend(format!("\ntopic: {{name: {topics}-{stream}}}\n").bytes());
        }
        example::write(folder, &name, &content)?;
    }
    Ok(())
}

/// Clicks, each once: how many per minute (since 1970) and film.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Totals {
    pub(super) clicks: u64,
    pub(super) per_minute: BTreeMap<i64, BTreeMap<i64, u64>>,
}

impl Totals {
    fn add(&mut self, json: &str) -> Result<(), String> {
        #[derive(Deserialize)]
        struct Click<'a> {
            event_ts: &'a str,
            film_id: i64,
        }
        let click: Click<'_> = serde_json::from_str(json).map_err(|e| e.to_string())?;
        let at = parse_timestamp(click.event_ts).ok_or("an event_ts is no time")?;
        let minute = self.per_minute.entry(at.div_euclid(MINUTE_US)).or_default();
        *minute.entry(click.film_id).or_default() += 1;
        self.clicks += 1;
        Ok(())
    }

    /// How many per film.
    pub(super) fn per_film(&self) -> BTreeMap<i64, u64> {
        let mut films = BTreeMap::new();
        for (film, clicks) in self.per_minute.values().flatten() {
            *films.entry(*film).or_default() += clicks;
        }
        films
    }
}

/// The clicks of one run.
pub(super) struct ClickLoad {
    clicks: Clicks,
    /// Of so many clicks one comes twice.
    one_in: Option<u64>,
    /// What comes again, and when: as the how manieth.
    again: VecDeque<(u64, Bytes)>,
    made: u64,
    totals: Totals,
    /// The first thing that went wrong.
    failure: Option<String>,
}

impl ClickLoad {
    /// Clicks of `users` from `start_us` on, `rate` per second of event time. Of each `one_in` one
    /// comes a second time.
    pub(super) fn new(
        start_us: i64,
        rate: f64,
        users: u32,
        one_in: Option<u64>,
    ) -> Result<Self, Failure> {
        let config = Config {
            seed: uuid::Uuid::new_v4().as_u64_pair().0,
            users,
            rate,
            start_micros: start_us,
            films: (1..=FILMS).collect(),
        };
        let clicks = Clicks::new(config).map_err(|e| Failure::new(e.kind(), e.to_string()))?;
        let (again, totals) = (VecDeque::new(), Totals::default());
        Ok(Self { clicks, one_in, again, made: 0, totals, failure: None })
    }

    /// The next event.
    pub(super) fn event(&mut self) -> Bytes {
        self.made += 1;
        if let Some((_, event)) = self.again.pop_front_if(|(at, _)| *at <= self.made) {
            return event;
        }
        let Some(click) = self.clicks.next() else {
            self.failure = self.failure.take().or_else(|| Some("the clicks came to an end".into()));
            return Bytes::new();
        };
        if let Err(reason) = self.totals.add(&click.json) {
            self.failure = self.failure.take().or(Some(reason));
        }
        let event = Bytes::from(click.json);
        if self.one_in.is_some_and(|one_in| self.made.is_multiple_of(one_in)) {
            self.again.push_back((self.made + REPEAT_AFTER, event.clone()));
        }
        event
    }

    /// How many there were, each once.
    pub(super) fn totals(self) -> Result<Totals, Failure> {
        match self.failure {
            Some(reason) => Err(Failure::work(format!("made-up clicks: {reason}"))),
            None => Ok(self.totals),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_click_counts_once_although_some_come_twice() {
        let mut load = ClickLoad::new(0, 100.0, 10, Some(10)).expect("clicks");
        let events: Vec<Bytes> = (0..20_000).map(|_| load.event()).collect();
        let totals = load.totals().expect("totals");
        let distinct: BTreeSet<&Bytes> = events.iter().collect();
        assert_eq!(totals.clicks, distinct.len() as u64);
        let repeats = events.len() - distinct.len();
        assert!((1_500..2_000).contains(&repeats), "{repeats} repeats");
        assert_eq!(totals.per_film().values().sum::<u64>(), totals.clicks);
        // 200 s less the repeats.
        assert!((3..=4).contains(&totals.per_minute.len()), "{:?}", totals.per_minute.keys());
    }

    #[test]
    fn totals_survive_the_way_to_another_process() {
        let mut load = ClickLoad::new(-90_000_000, 10.0, 3, None).expect("clicks");
        (0..1_500).for_each(|_| drop(load.event()));
        let totals = load.totals().expect("totals");
        let text = serde_json::json!(totals).to_string();
        assert_eq!(serde_json::from_str::<Totals>(&text).expect("totals"), totals);
        assert_eq!(totals.clicks, 1_500);
    }
}
