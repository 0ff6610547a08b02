//! Which film is clicked next: few films get most of the clicks, and which ones drifts slowly.

use std::f64::consts::TAU;

use rand::{Rng, seq::SliceRandom as _};

/// Weight of the film of rank n is n to the power of minus this.
const SKEW: f64 = 0.9;
/// A film's weight swings by e to the power of ± this.
const SWING: f64 = 1.2;
/// Bounds of the time that a film takes from one peak to the next.
const PERIOD_S: std::ops::Range<f64> = 2_400.0..7_200.0;
/// The weights are worked out anew after so much event time.
const REFRESH_S: f64 = 30.0;

/// Draws films by a skewed, drifting popularity.
#[derive(Debug)]
pub(super) struct Popularity {
    films: Vec<Film>,
    /// Sums of the weights up to each film, as of `refreshed_s`.
    cumulative: Vec<f64>,
    refreshed_s: Option<f64>,
}

#[derive(Debug)]
struct Film {
    id: i64,
    weight: f64,
    period_s: f64,
    phase: f64,
}

impl Popularity {
    pub(super) fn new(mut ids: Vec<i64>, rng: &mut impl Rng) -> Self {
        ids.shuffle(rng);
        let film = |(rank, id): (u32, i64)| Film {
            id,
            weight: f64::from(rank).powf(-SKEW),
            period_s: rng.random_range(PERIOD_S),
            phase: rng.random(),
        };
        let films = (1..).zip(ids).map(film).collect();
        Self { films, cumulative: Vec::new(), refreshed_s: None }
    }

    /// A film at `at_s` seconds after the start.
    pub(super) fn draw(&mut self, at_s: f64, rng: &mut impl Rng) -> i64 {
        if self.refreshed_s.is_none_or(|refreshed| at_s - refreshed >= REFRESH_S) {
            self.refresh(at_s);
        }
        let total = self.cumulative.last().copied().unwrap_or_default();
        let point = rng.random::<f64>() * total;
        let index = self.cumulative.partition_point(|sum| *sum <= point);
        self.films.get(index).or_else(|| self.films.last()).map_or(0, |film| film.id)
    }

    fn refresh(&mut self, at_s: f64) {
        let mut sum = 0.0;
        self.cumulative.clear();
        for film in &self.films {
            let swing = (TAU * (at_s / film.period_s + film.phase)).sin();
            sum += film.weight * (SWING * swing).exp();
            self.cumulative.push(sum);
        }
        self.refreshed_s = Some(at_s);
    }
}
