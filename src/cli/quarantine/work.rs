//! Replay and discard: bounded batches, one request each, with what was done after each.

use std::borrow::Cow;

use tokio_util::sync::CancellationToken;

use super::{Selection, output};
use crate::{
    cli::{Failure, admin::Client, print},
    domain::{
        Place,
        quarantine::{Discard, Discarded, PLACES_MAX, Places, Replay, Replayed},
    },
};

/// Records that still break their contract are named one by one up to so many.
const NAMED_MAX: usize = 20;

/// The records that a command is about.
pub(super) struct Which {
    stream: String,
    selection: Selection,
}

impl Which {
    pub(super) fn of(stream: String, selection: Selection) -> Self {
        Self { stream, selection }
    }

    /// Their places, as of now.
    async fn places(&self, client: &Client) -> Result<Cow<'_, [Place]>, Failure> {
        if self.is_named() {
            return Ok(Cow::Borrowed(&self.selection.positions));
        }
        let rule = self.selection.rule.as_deref();
        let query: Vec<(&str, &str)> = rule.map(|rule| ("rule", rule)).into_iter().collect();
        let found: Places = client.get(&[&self.stream, "places"], &query).await?;
        Ok(Cow::Owned(found.positions))
    }

    /// Whether each record was named: then it is an error if one is not in quarantine. What was
    /// found by a rule may have been decided on by somebody else meanwhile.
    fn is_named(&self) -> bool {
        !self.selection.positions.is_empty()
    }
}

pub(super) async fn replay(
    client: &Client,
    which: &Which,
    batch: usize,
    dry_run: bool,
    stop: &CancellationToken,
) -> Result<(), Failure> {
    let places = which.places(client).await?;
    let mut done = Replayed { is_visible: true, ..Replayed::default() };
    let mut looked_at = 0;
    for positions in places.chunks(batch) {
        if stop.is_cancelled() {
            return Err(stopped(&replayed(&done, dry_run)));
        }
        let asked = Replay { positions: positions.to_vec(), pass_over: !which.is_named(), dry_run };
        let answer: Result<Replayed, Failure> =
            client.post(&[&which.stream, "replay"], &asked).await;
        let more = answer.map_err(|error| after(&error, looked_at, &replayed(&done, dry_run)))?;
        done.replayed += more.replayed;
        done.repeats += more.repeats;
        done.passed_over += more.passed_over;
        done.is_visible &= more.is_visible;
        done.broken.extend(more.broken);
        looked_at += positions.len();
        progress(looked_at, places.len());
    }
    for record in done.broken.iter().take(NAMED_MAX) {
        print::note(format!("{}: {}", record.position, record.rules.join(", ")));
    }
    if done.broken.len() > NAMED_MAX {
        print::note(format!("and {} more", done.broken.len() - NAMED_MAX));
    }
    print::result(replayed(&done, dry_run))?;
    if done.broken.is_empty() {
        return Ok(());
    }
    Err(Failure::work(format!(
        "{} stay in quarantine: mend the contract of {}, start the server again, and replay again",
        records(done.broken.len() as u64),
        which.stream
    )))
}

pub(super) async fn discard(
    client: &Client,
    which: &Which,
    reason: &str,
    stop: &CancellationToken,
) -> Result<(), Failure> {
    let places = which.places(client).await?;
    let mut done = Discarded::default();
    let mut looked_at = 0;
    for positions in places.chunks(PLACES_MAX) {
        if stop.is_cancelled() {
            return Err(stopped(&discarded(&done)));
        }
        let (positions, reason) = (positions.to_vec(), reason.to_owned());
        let count = positions.len();
        let asked = Discard { positions, reason, pass_over: !which.is_named() };
        let answer: Result<Discarded, Failure> =
            client.post(&[&which.stream, "discard"], &asked).await;
        let more = answer.map_err(|error| after(&error, looked_at, &discarded(&done)))?;
        done.discarded += more.discarded;
        done.before += more.before;
        done.passed_over += more.passed_over;
        looked_at += count;
        progress(looked_at, places.len());
    }
    print::result(discarded(&done))
}

/// One batch needs no progress.
fn progress(looked_at: usize, all: usize) {
    if looked_at < all {
        print::note(format!("{looked_at} of {all} records"));
    }
}

fn stopped(done: &str) -> Failure {
    print::note(format!("until then: {done}"));
    Failure::stopped()
}

/// The error of a batch; where there were batches before it, with what they did.
fn after(error: &Failure, looked_at: usize, done: &str) -> Failure {
    if looked_at == 0 {
        return Failure::new(error.kind(), error.to_string());
    }
    Failure::new(error.kind(), format!("{error}; before that: {done}"))
}

fn replayed(done: &Replayed, dry_run: bool) -> String {
    let verb = if dry_run { "would be replayed" } else { "replayed" };
    let mut text = format!("{} {verb}", done.replayed);
    if done.repeats > 0 {
        text.push_str(&format!(" ({} of them counted already)", done.repeats));
    }
    if !done.is_visible {
        text.push_str(" (queries do not show all of them yet; `sluice wait` waits for it)");
    }
    if !done.broken.is_empty() {
        let verb = if done.broken.len() == 1 { "breaks its" } else { "break their" };
        let rules = output::rules(&done.broken);
        text.push_str(&format!(", {} still {verb} contract: {rules}", done.broken.len()));
    }
    passed_over(&mut text, done.passed_over);
    text
}

fn discarded(done: &Discarded) -> String {
    let mut text = format!("{} discarded", done.discarded);
    if done.before > 0 {
        text.push_str(&format!(", {} had been discarded before", done.before));
    }
    passed_over(&mut text, done.passed_over);
    text
}

fn passed_over(text: &mut String, count: u64) {
    if count > 0 {
        text.push_str(&format!(", {count} not in quarantine any more"));
    }
}

fn records(count: u64) -> String {
    if count == 1 { "1 record".to_owned() } else { format!("{count} records") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::quarantine::Broken;

    #[test]
    fn what_was_done_stands_on_one_line() {
        let broken = |place: &str, rules: &[&str]| Broken {
            position: place.parse().expect("place"),
            rules: rules.iter().map(ToString::to_string).collect(),
        };
        let all = Replayed { replayed: 12, is_visible: true, ..Replayed::default() };
        assert_eq!(replayed(&all, false), "12 replayed");
        assert_eq!(replayed(&all, true), "12 would be replayed");
        let rules = [broken("0/1", &["b", "a"]), broken("0/2", &["b"]), broken("1/7", &["b"])];
        let some = Replayed { repeats: 2, passed_over: 1, broken: rules.to_vec(), ..all };
        assert_eq!(
            replayed(&some, false),
            "12 replayed (2 of them counted already), 3 still break their contract: a(1), b(3), \
             1 not in quarantine any more"
        );
        let unseen = Replayed { is_visible: false, broken: rules[..1].to_vec(), ..all };
        assert_eq!(
            replayed(&unseen, false),
            "12 replayed (queries do not show all of them yet; `sluice wait` waits for it), 1 \
             still breaks its contract: a(1), b(1)"
        );
        let done = Discarded { discarded: 3, before: 1, passed_over: 0 };
        assert_eq!(discarded(&done), "3 discarded, 1 had been discarded before");
    }

    #[test]
    fn an_error_tells_what_was_done_before_it() {
        let error = Failure::unavailable("the log cannot be reached");
        assert_eq!(after(&error, 0, "0 replayed").to_string(), "the log cannot be reached");
        let later = after(&error, 500, "500 replayed");
        assert_eq!(later.to_string(), "the log cannot be reached; before that: 500 replayed");
        assert_eq!(later.exit_code(), 69);
    }
}
