//! Clicks of a film platform, without end: users with sessions, and films that trend.
//!
//! Everything is drawn from one seeded generator and one simulated clock, so the same settings give
//! the same bytes.

use std::time::Duration;

use chrono::DateTime;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::popularity::Popularity;
use crate::domain::ErrorKind;

/// A session goes on while its user is idle for at most this long.
const SESSION_IDLE_MS: i64 = 10 * 60 * 1000;
/// How long a user stays away who leaves.
const AWAY_MS: std::ops::Range<i64> = 11 * 60 * 1000..30 * 60 * 1000;
/// How long a user stays, on average.
const STAY_S: f64 = 3_000.0;
/// How often another user is drawn where one is away.
const DRAWS_MAX: usize = 8;

const EVENT_TYPES: [(&str, f64); 4] =
    [("view", 0.35), ("detail_view", 0.30), ("watch_trailer", 0.20), ("add_to_watchlist", 0.15)];
const DEVICES: [(&str, f64); 3] = [("mobile", 0.46), ("web", 0.35), ("tablet", 0.19)];
const REFERRERS: [(&str, f64); 3] =
    [("homepage", 0.45), ("search", 0.30), ("recommendation", 0.25)];

/// What the clicks depend on.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub seed: u64,
    pub users: u32,
    /// Events per second, all users together.
    pub rate: f64,
    /// Event time of the start, in microseconds since 1970.
    pub start_micros: i64,
    pub films: Vec<i64>,
}

/// Why no clicks can be generated.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ClicksError {
    #[error("the list of films is empty; clicks need at least one film")]
    NoFilms,
    #[error("there are no users; clicks need at least one")]
    NoUsers,
    #[error("the rate is not a number above 0")]
    NoRate,
}

impl ClicksError {
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Click {
    /// Event time since the event before, or since the start.
    pub delay: Duration,
    /// The event as a JSON object.
    pub json: String,
}

/// An endless iterator of clicks.
#[derive(Debug)]
pub struct Clicks {
    rng: StdRng,
    rate: f64,
    start_ms: i64,
    /// Simulated time since the start.
    elapsed: Duration,
    users: Vec<User>,
    popularity: Popularity,
}

#[derive(Debug, Clone, Default)]
struct User {
    session: Option<Session>,
    /// Event time of the last click.
    seen_ms: i64,
    away_until_ms: i64,
}

#[derive(Debug, Clone)]
struct Session {
    id: u32,
    device: &'static str,
}

impl Clicks {
    pub fn new(config: Config) -> Result<Self, ClicksError> {
        if config.films.is_empty() {
            return Err(ClicksError::NoFilms);
        }
        if config.users == 0 {
            return Err(ClicksError::NoUsers);
        }
        if !(config.rate.is_finite() && config.rate > 0.0) {
            return Err(ClicksError::NoRate);
        }
        let mut rng = StdRng::seed_from_u64(config.seed);
        let popularity = Popularity::new(config.films, &mut rng);
        Ok(Self {
            rng,
            rate: config.rate,
            start_ms: config.start_micros.div_euclid(1000),
            elapsed: Duration::ZERO,
            users: (0..config.users).map(|_| User::default()).collect(),
            popularity,
        })
    }

    fn pick<T: Copy>(&mut self, choices: &[(T, f64)]) -> T {
        let mut point = self.rng.random::<f64>();
        for (value, weight) in choices {
            if point < *weight {
                return *value;
            }
            point -= weight;
        }
        // Rounding may leave a crumb behind the last weight.
        choices[choices.len() - 1].0
    }

    /// A user who is not away, if one is found soon.
    fn pick_user(&mut self, now_ms: i64) -> usize {
        let mut index = 0;
        for _ in 0..DRAWS_MAX {
            index = self.rng.random_range(0..self.users.len());
            if self.users[index].away_until_ms <= now_ms {
                break;
            }
        }
        index
    }

    fn session(&mut self, index: usize, now_ms: i64) -> Session {
        let user = &self.users[index];
        let going_on = user.session.clone();
        let session = match going_on.filter(|_| now_ms - user.seen_ms <= SESSION_IDLE_MS) {
            Some(session) => session,
            None => Session { id: self.rng.random(), device: self.pick(&DEVICES) },
        };
        #[allow(clippy::cast_precision_loss)] // a number of users
        let leaves = (self.users.len() as f64 / (STAY_S * self.rate)).min(0.02);
        let away_ms =
            if self.rng.random::<f64>() < leaves { self.rng.random_range(AWAY_MS) } else { 0 };
        let user = &mut self.users[index];
        user.session = Some(session.clone());
        user.seen_ms = now_ms;
        user.away_until_ms = now_ms.saturating_add(away_ms);
        session
    }
}

impl Iterator for Clicks {
    type Item = Click;

    fn next(&mut self) -> Option<Click> {
        let pause = (0.5 + self.rng.random::<f64>()) / self.rate;
        let delay = Duration::try_from_secs_f64(pause).ok()?;
        self.elapsed = self.elapsed.checked_add(delay)?;
        let elapsed_ms = i64::try_from(self.elapsed.as_millis()).ok()?;
        let now_ms = self.start_ms.checked_add(elapsed_ms)?;
        let time = DateTime::from_timestamp_millis(now_ms)?.format("%Y-%m-%d %H:%M:%S%.3f");

        let user = self.pick_user(now_ms);
        let Session { id: session, device } = self.session(user, now_ms);
        let event_type = self.pick(&EVENT_TYPES);
        let page = if event_type == "view" { "browse" } else { "film_detail" };
        let referrer = self.pick(&REFERRERS);
        let position = self.rng.random_range(1..=20);
        let film = self.popularity.draw(self.elapsed.as_secs_f64(), &mut self.rng);
        let event_id = uuid::Builder::from_random_bytes(self.rng.random()).into_uuid();
        let user = user + 1;
        let who = format!(r#""event_id":"{event_id}","event_ts":"{time}","user_id":"u_{user}""#);
        let session = format!(r#""session_id":"s_{session:08x}""#);
        let what = format!(r#""film_id":{film},"event_type":"{event_type}","page":"{page}""#);
        let place = format!(r#""position":{position},"device":"{device}""#);
        let json = format!(r#"{{{who},{session},{what},{place},"referrer":"{referrer}"}}"#);
        Some(Click { delay, json })
    }
}
