//! Quarantine: the records that broke their contract, and what is decided about them.
//!
//! A replay appends a record to the log again, under its identity and with its place in a header.
//! It is accepted like any other record, so once, however often it is replayed; acceptance records
//! the place with it, and from then on quarantine hides the record. What is discarded is hidden,
//! too. `system.quarantine` shows both.

mod discards;
mod records;
mod views;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use arrow::array::{ArrayRef, BinaryArray, TimestampMicrosecondArray};
use datafusion::error::DataFusionError;

use self::records::{Records, State, Stored};
use crate::{
    bronze::Judge,
    domain::{
        ErrorKind, Place, Positions,
        contract::Severity,
        quarantine::{
            Broken, Discard, Discarded, Filter, Listed, PLACES_MAX, REASON_MAX, Replay, Replayed,
            Shown,
        },
        record::{ORIGIN_HEADER, Record},
    },
    lake::LakeHandle,
    log::{self, Log, OffsetRange},
    ops::{Clock, crash},
    process::{Deps, Planned},
};

pub(super) use discards::DiscardTable;
pub use discards::{Discards, discarded};
pub(super) use views::{decisions_view, open_schema, quarantine_view, reads};

/// Stands for a rule where the log does not take a record.
const TOO_LARGE: &str = "record_too_large";
/// What was replayed is waited for so long.
const VISIBLE: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("there is no stream {stream:?}; the project has {known}")]
    UnknownStream { stream: String, known: String },
    #[error(
        "{place} of {stream} is not in quarantine; `sluice quarantine list {stream}` shows what is"
    )]
    NotThere { stream: String, place: Place },
    #[error("{place} of {stream} was replayed already: its event counts{}", at_place(*at))]
    Replayed { stream: String, place: Place, at: Option<Place> },
    #[error(
        "{place} of {stream} was discarded ({reason}); send the event again if it is to count \
         after all"
    )]
    Discarded { stream: String, place: Place, reason: String },
    #[error("{given} positions are too many for one request: give at most {PLACES_MAX}")]
    TooMany { given: usize },
    #[error("give a reason of 1 to {REASON_MAX} characters")]
    Reason,
    #[error(
        "the records were not appended, or it is not known whether; replay again: what counts \
             already is not counted again"
    )]
    Log(#[source] log::Error),
    #[error(
        "processing did not answer, so it is not known whether the records were discarded; ask \
         again: what was discarded is not discarded twice"
    )]
    Unanswered,
    #[error("read quarantine")]
    Read(#[from] DataFusionError),
    #[error("{0}")]
    Internal(String),
}

fn at_place(at: Option<Place>) -> String {
    at.map_or_else(String::new, |at| format!(" at {at}"))
}

impl Error {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::UnknownStream { .. } | Self::NotThere { .. } => ErrorKind::NotFound,
            Self::Replayed { .. } | Self::Discarded { .. } => ErrorKind::Conflict,
            Self::TooMany { .. } | Self::Reason => ErrorKind::Invalid,
            Self::Log(error) => error.kind(),
            Self::Unanswered => ErrorKind::Unavailable,
            Self::Read(_) | Self::Internal(_) => ErrorKind::Internal,
        }
    }
}

/// Decides about the records in quarantine of a running loop.
pub struct Quarantine {
    planned: Arc<Planned>,
    log: Arc<dyn Log>,
    view: Arc<LakeHandle>,
    discards: Arc<Discards>,
    clock: Clock,
}

impl Quarantine {
    /// Beside the loop that runs on `deps`.
    pub fn new(deps: &Deps) -> Self {
        Self {
            planned: Arc::clone(&deps.planned),
            log: Arc::clone(&deps.log),
            view: Arc::clone(&deps.view),
            discards: Arc::clone(&deps.discards),
            clock: deps.clock.clone(),
        }
    }

    /// What is in quarantine now, up to `limit` records.
    pub async fn list(&self, filter: &Filter, limit: usize) -> Result<Listed, Error> {
        self.check_stream(filter)?;
        self.records().list(filter, limit).await
    }

    /// The places of what is in quarantine now.
    pub async fn places(&self, filter: &Filter) -> Result<Vec<Place>, Error> {
        self.check_stream(filter)?;
        self.records().places(filter).await
    }

    /// All about one record that is or was in quarantine.
    pub async fn show(&self, stream: &str, place: Place) -> Result<Shown, Error> {
        self.judge(stream)?;
        let records = self.records();
        let found = records.show(stream, place).await?;
        found.ok_or_else(|| Error::NotThere { stream: stream.to_owned(), place })
    }

    /// Appends records to the log again, but for those that the contract of today still refuses.
    pub async fn replay(&self, stream: &str, asked: &Replay) -> Result<Replayed, Error> {
        let judge = Arc::clone(self.judge(stream)?);
        let records = self.records();
        let states = known(&records, stream, &asked.positions).await?;
        let wanted: BTreeSet<Place> = asked.positions.iter().copied().collect();
        let (open, passed_over) = still_open(stream, wanted, &states, asked.pass_over)?;
        let mut done = Replayed { passed_over, is_visible: true, ..Replayed::default() };
        let stored = records.stored(stream, &open).await?;
        let good = judged(&judge, stored, self.clock.now_us(), &mut done)?;
        done.replayed = good.len() as u64;
        if asked.dry_run || good.is_empty() {
            return Ok(done);
        }
        crash::point("replay.judged");
        let ranges = self.append(stream, good, &mut done).await?;
        crash::point("replay.appended");
        self.see(stream, &ranges, &mut done).await?;
        Ok(done)
    }

    /// Appends records, but for those that are over the log's limit: others may write larger ones.
    async fn append(
        &self,
        stream: &str,
        mut good: Vec<Stored>,
        done: &mut Replayed,
    ) -> Result<Vec<OffsetRange>, Error> {
        loop {
            let records = good.iter().map(again).collect::<Result<Vec<Record>, Error>>()?;
            let (size, limit) = match self.log.append(stream, records).await {
                Err(log::Error::RecordTooLarge { size, limit }) => (size, limit),
                appended => return appended.map_err(Error::Log),
            };
            let (fit, large): (Vec<_>, Vec<_>) =
                good.into_iter().partition(|record| record.size() <= limit);
            if large.is_empty() {
                return Err(Error::Log(log::Error::RecordTooLarge { size, limit }));
            }
            good = fit;
            done.replayed = good.len() as u64;
            let rules = vec![TOO_LARGE.to_owned()];
            let broken = large.iter().map(|r| Broken { position: r.place, rules: rules.clone() });
            done.broken.extend(broken);
        }
    }

    /// Takes records out of quarantine for good.
    pub async fn discard(&self, stream: &str, asked: &Discard) -> Result<Discarded, Error> {
        self.judge(stream)?;
        let reason = asked.reason.trim();
        if reason.is_empty() || reason.chars().count() > REASON_MAX {
            return Err(Error::Reason);
        }
        let states = known(&self.records(), stream, &asked.positions).await?;
        let (before, wanted): (BTreeSet<Place>, BTreeSet<Place>) = asked
            .positions
            .iter()
            .partition(|place| matches!(states.get(place), Some(State::Discarded { .. })));
        let (open, passed_over) = still_open(stream, wanted, &states, asked.pass_over)?;
        let mut done = Discarded { before: before.len() as u64, passed_over, discarded: 0 };
        let count = open.len() as u64;
        if count > 0 {
            let asked = self.discards.ask(stream, open, reason).await;
            done.discarded = asked.ok_or(Error::Unanswered)?;
            done.before += count - done.discarded;
        }
        Ok(done)
    }

    /// Waits until queries see what was appended, and counts what had counted before.
    async fn see(
        &self,
        stream: &str,
        ranges: &[OffsetRange],
        done: &mut Replayed,
    ) -> Result<(), Error> {
        let mut wanted = Positions::default();
        for range in ranges {
            wanted.advance(stream, range.partition, range.last);
        }
        let seen = self.view.wait_until(|view| view.positions.covers(&wanted));
        done.is_visible = tokio::time::timeout(VISIBLE, seen).await.is_ok();
        if done.is_visible {
            done.repeats = self.records().repeats(stream, ranges).await?;
        }
        Ok(())
    }

    fn records(&self) -> Records {
        Records::of(self.view.load())
    }

    fn judge(&self, stream: &str) -> Result<&Arc<Judge>, Error> {
        let found = self.planned.judges.iter().find(|judge| judge.contract().name == stream);
        found.ok_or_else(|| {
            let names = self.planned.judges.iter().map(|judge| judge.contract().name.as_str());
            let known = names.collect::<Vec<_>>().join(", ");
            Error::UnknownStream { stream: stream.to_owned(), known }
        })
    }

    fn check_stream(&self, filter: &Filter) -> Result<(), Error> {
        filter.stream.as_deref().map_or(Ok(()), |stream| self.judge(stream).map(|_| ()))
    }
}

/// What became of the records at `places`, of those that are or were in quarantine.
async fn known(
    records: &Records,
    stream: &str,
    places: &[Place],
) -> Result<BTreeMap<Place, State>, Error> {
    if places.len() > PLACES_MAX {
        return Err(Error::TooMany { given: places.len() });
    }
    records.states(stream, places).await
}

/// Of the records at `wanted`, those that nobody has decided on yet. The others are counted where
/// they may be passed over.
fn still_open(
    stream: &str,
    wanted: BTreeSet<Place>,
    states: &BTreeMap<Place, State>,
    pass_over: bool,
) -> Result<(Vec<Place>, u64), Error> {
    let (mut open, mut passed_over) = (Vec::new(), 0);
    for place in wanted {
        let stream = stream.to_owned();
        let error = match states.get(&place) {
            Some(State::Open) => {
                open.push(place);
                continue;
            }
            Some(State::Replayed { at }) => Error::Replayed { stream, place, at: *at },
            Some(State::Discarded { reason }) => {
                Error::Discarded { stream, place, reason: reason.clone() }
            }
            None => Error::NotThere { stream, place },
        };
        if !pass_over {
            return Err(error);
        }
        passed_over += 1;
    }
    Ok((open, passed_over))
}

/// The records that keep the contract when they are appended again `now`, in microseconds; `done` is
/// told of the others.
fn judged(
    judge: &Judge,
    stored: Vec<Stored>,
    now: i64,
    done: &mut Replayed,
) -> Result<Vec<Stored>, Error> {
    let payloads = stored.iter().map(|record| record.payload.as_deref()).collect();
    // What has no payload cannot be appended again.
    let keys = BinaryArray::new_null(stored.len());
    let times = TimestampMicrosecondArray::from_value(now, stored.len()).with_timezone("UTC");
    let decoded = judge.decode(&payloads, &keys, &(Arc::new(times) as ArrayRef))?;
    let mut good = Vec::with_capacity(stored.len());
    for (row, record) in stored.into_iter().enumerate() {
        // What only warns is no reason to stay.
        let rules = decoded.rules(row, Some(Severity::Error));
        if rules.is_empty() {
            good.push(record);
        } else {
            let rules = rules.into_iter().map(str::to_owned).collect();
            done.broken.push(Broken { position: record.place, rules });
        }
    }
    Ok(good)
}

/// The record that is appended for one that was set aside.
fn again(stored: &Stored) -> Result<Record, Error> {
    let Stored { place, identity, key, mut headers, payload } = stored.clone();
    let payload = payload.ok_or_else(|| Error::Internal(format!("{place} has no payload")))?;
    let identity = identity.ok_or_else(|| Error::Internal(format!("{place} has no identity")))?;
    // One that was replayed before and set aside again has the header of then.
    headers.retain(|(name, _)| name != ORIGIN_HEADER);
    headers.push((ORIGIN_HEADER.to_owned(), Some(place.to_string().into())));
    Ok(Record { key, identity, headers, payload })
}
