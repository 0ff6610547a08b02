//! Reads quarantine, as queries see it at one instant.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use arrow::{
    array::{Array as _, ArrayRef, AsArray as _, RecordBatch},
    compute::cast,
    datatypes::{
        ArrowPrimitiveType, DataType, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType,
    },
};
use base64::{Engine as _, prelude::BASE64_STANDARD as BASE64};
use bytes::Bytes;
use chrono::{DateTime, SecondsFormat};
use datafusion::prelude::SessionConfig;

use super::Error;
use crate::{
    bronze::headers_of,
    domain::{
        Partition, Place, TableName,
        identity::Identity,
        quarantine::{Entry, Filter, Listed, Shown},
        record::Header,
    },
    lake::{
        LakeView,
        session::{Columns, session},
    },
    log::OffsetRange,
    process::relations::{ACCEPTANCE, events_in, quoted},
};

/// What became of a record that was set aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    Open,
    /// Its event counts, by the record at this place.
    Replayed {
        at: Option<Place>,
    },
    Discarded {
        reason: String,
    },
}

/// A record as Bronze has it.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub place: Place,
    pub identity: Option<Identity>,
    pub key: Option<Bytes>,
    pub headers: Vec<Header>,
    pub payload: Option<Bytes>,
}

impl Stored {
    /// Bytes of key and payload, which logs limit.
    pub(super) fn size(&self) -> usize {
        [&self.key, &self.payload].into_iter().flatten().map(Bytes::len).sum()
    }
}

/// The records of quarantine in one view.
pub(super) struct Records(Arc<LakeView>);

impl Records {
    pub(super) fn of(view: Arc<LakeView>) -> Self {
        Self(view)
    }

    async fn ask(&self, sql: &str) -> Result<Vec<RecordBatch>, Error> {
        let config = SessionConfig::new().with_target_partitions(1);
        let context = session(&self.0, Columns::All, config, Arc::default());
        Ok(context.sql(sql).await?.collect().await?)
    }

    pub(super) async fn list(&self, filter: &Filter, limit: usize) -> Result<Listed, Error> {
        let open = open(filter);
        let sql = format!(
            "SELECT \"partition\", \"offset\", \"index\", stream, ts, rules, message {open} \
             ORDER BY stream, \"partition\", \"offset\", \"index\" LIMIT {limit}"
        );
        let mut records = Vec::new();
        for rows in self.ask(&sql).await? {
            let (streams, messages) = (text(&rows, 3)?, text(&rows, 6)?);
            for (row, position) in places(&rows)?.into_iter().enumerate() {
                records.push(Entry {
                    stream: streams[row].clone().unwrap_or_default(),
                    position,
                    arrived_at: time(&rows, 4, row)?,
                    rules: list(rows.column(5), row)?,
                    message: messages[row].clone().unwrap_or_default(),
                });
            }
        }
        let counted = self.ask(&format!("SELECT count(*) {open}")).await?;
        let total = counted.iter().find(|rows| rows.num_rows() > 0).map_or(Ok(0), |rows| {
            numbers::<Int64Type>(rows, 0, &DataType::Int64).map(|n| n[0].unwrap_or_default())
        })?;
        Ok(Listed { records, total: u64::try_from(total).unwrap_or_default() })
    }

    pub(super) async fn places(&self, filter: &Filter) -> Result<Vec<Place>, Error> {
        let sql = format!("SELECT \"partition\", \"offset\", \"index\" {}", open(filter));
        let mut found = BTreeSet::new();
        for rows in self.ask(&sql).await? {
            found.extend(places(&rows)?);
        }
        Ok(found.into_iter().collect())
    }

    /// What became of the records at `wanted`, of those that are or were in quarantine.
    pub(super) async fn states(
        &self,
        stream: &str,
        wanted: &[Place],
    ) -> Result<BTreeMap<Place, State>, Error> {
        let mut states = BTreeMap::new();
        if wanted.is_empty() {
            return Ok(states);
        }
        let sql = format!(
            "SELECT \"partition\", \"offset\", \"index\", state, reason, accepted_partition, \
             accepted_offset, accepted_index FROM system.quarantine WHERE stream = {} AND ({})",
            literal(stream),
            at(wanted, ["partition", "offset"])
        );
        for rows in self.ask(&sql).await? {
            let (names, reasons) = (text(&rows, 3)?, text(&rows, 4)?);
            for (row, place) in places(&rows)?.into_iter().enumerate() {
                let state = match names[row].as_deref() {
                    Some("open") => State::Open,
                    Some("replayed") => State::Replayed { at: accepted_at(&rows, 5, row)? },
                    _ => State::Discarded { reason: reasons[row].clone().unwrap_or_default() },
                };
                states.insert(place, state);
            }
        }
        Ok(states)
    }

    /// The records at `wanted`, in the order of their places.
    pub(super) async fn stored(
        &self,
        stream: &str,
        wanted: &[Place],
    ) -> Result<Vec<Stored>, Error> {
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let sql = format!(
            "SELECT \"_partition\", \"_offset\", \"_index\", \"__identity\", \"_key\", _headers, \
             \"_payload\" FROM {} WHERE {} ORDER BY 1, 2, 3",
            quoted(&events_in(&self.0, stream)),
            at(wanted, ["_partition", "_offset"])
        );
        let asked: BTreeSet<Place> = wanted.iter().copied().collect();
        let mut stored = Vec::with_capacity(wanted.len());
        for rows in self.ask(&sql).await? {
            let headers = text(&rows, 5)?;
            let (identities, keys) = (bytes(&rows, 3)?, bytes(&rows, 4)?);
            let payloads = bytes(&rows, 6)?;
            for (row, place) in places(&rows)?.into_iter().enumerate() {
                stored.push(Stored {
                    place,
                    identity: identities[row].as_ref().and_then(|id| Identity::decode(id).ok()),
                    key: keys[row].clone(),
                    headers: headers[row].as_deref().and_then(headers_of).unwrap_or_default(),
                    payload: payloads[row].clone(),
                });
            }
        }
        stored.retain(|record| asked.contains(&record.place));
        if stored.len() < asked.len() {
            let missing = asked.len() - stored.len();
            return Err(Error::Internal(format!("Bronze lacks {missing} records of {stream}")));
        }
        Ok(stored)
    }

    /// Of the records in `ranges`, those whose event had counted before.
    pub(super) async fn repeats(&self, stream: &str, ranges: &[OffsetRange]) -> Result<u64, Error> {
        if ranges.is_empty() {
            return Ok(0);
        }
        let within: Vec<String> = ranges
            .iter()
            .map(|range| {
                format!(
                    "\"_partition\" = {} AND \"_offset\" BETWEEN {} AND {}",
                    range.partition, range.first, range.last
                )
            })
            .collect();
        let sql = format!(
            "SELECT \"_partition\" FROM {} WHERE verdict = 'repeat' AND ({})",
            quoted(&TableName::new(ACCEPTANCE, stream)),
            within.join(" OR ")
        );
        let rows = self.ask(&sql).await?;
        Ok(rows.iter().map(|rows| rows.num_rows() as u64).sum())
    }

    pub(super) async fn show(&self, stream: &str, place: Place) -> Result<Option<Shown>, Error> {
        let sql = format!(
            "SELECT s.state, s.reason, s.message, s.contract_version, b.\"_topic\", \
             b.\"_event_id\", b.\"_ts\", s.rules, s.accepted_partition, s.accepted_offset, \
             s.accepted_index FROM system.quarantine AS s JOIN {} AS b ON s.\"partition\" = b.\"_partition\" AND \
             s.\"offset\" = b.\"_offset\" AND s.\"index\" = b.\"_index\" WHERE s.stream = {} AND \
             s.\"partition\" = {} AND s.\"offset\" = {} AND s.\"index\" = {}",
            quoted(&events_in(&self.0, stream)),
            literal(stream),
            place.partition,
            place.offset,
            place.index
        );
        let answer = self.ask(&sql).await?;
        let Some(rows) = answer.iter().find(|rows| rows.num_rows() > 0) else { return Ok(None) };
        let Some(stored) = self.stored(stream, &[place]).await?.pop() else { return Ok(None) };
        let cell = |column: usize| text(rows, column).map(|cells| cells[0].clone());
        let filled = |column: usize| cell(column).map(Option::unwrap_or_default);
        let headers = stored.headers.iter();
        Ok(Some(Shown {
            stream: stream.to_owned(),
            position: place,
            state: filled(0)?,
            reason: cell(1)?,
            message: filled(2)?,
            contract_version: filled(3)?,
            topic: filled(4)?,
            identity: filled(5)?,
            arrived_at: time(rows, 6, 0)?,
            rules: list(rows.column(7), 0)?,
            accepted_at: accepted_at(rows, 8, 0)?,
            key: stored.key.as_deref().map(shown),
            headers: headers.map(|(name, v)| (name.clone(), v.as_deref().map(shown))).collect(),
            decoded: stored.payload.as_deref().and_then(|p| serde_json::from_slice(p).ok()),
            payload: stored.payload.as_deref().map(shown),
        }))
    }
}

/// The part of a query that names what is open and passes `filter`.
fn open(filter: &Filter) -> String {
    let mut sql = "FROM system.quarantine WHERE state = 'open'".to_owned();
    if let Some(stream) = &filter.stream {
        sql.push_str(&format!(" AND stream = {}", literal(stream)));
    }
    if let Some(rule) = &filter.rule {
        sql.push_str(&format!(" AND array_has(rules, {})", literal(rule)));
    }
    sql
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A condition on the columns of partition and offset that holds at `places`.
fn at(places: &[Place], [partition, offset]: [&str; 2]) -> String {
    let mut offsets: BTreeMap<Partition, Vec<String>> = BTreeMap::new();
    for place in places {
        offsets.entry(place.partition).or_default().push(place.offset.to_string());
    }
    let each = offsets.iter().map(|(number, offsets)| {
        let offsets = offsets.join(", ");
        format!("(\"{partition}\" = {number} AND \"{offset}\" IN ({offsets}))")
    });
    each.collect::<Vec<_>>().join(" OR ")
}

fn shown(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => format!("base64:{}", BASE64.encode(bytes)),
    }
}

/// The first three columns.
fn places(rows: &RecordBatch) -> Result<Vec<Place>, Error> {
    let partitions = numbers::<Int32Type>(rows, 0, &DataType::Int32)?;
    let offsets = numbers::<Int64Type>(rows, 1, &DataType::Int64)?;
    let indexes = numbers::<Int32Type>(rows, 2, &DataType::Int32)?;
    let place = |row: usize| place_of(partitions[row], offsets[row], indexes[row]);
    Ok((0..rows.num_rows()).filter_map(place).collect())
}

fn place_of(partition: Option<i32>, offset: Option<i64>, index: Option<i32>) -> Option<Place> {
    let partition = Partition::try_from(partition?).ok()?;
    Some(Place { partition, offset: offset?, index: index? })
}

/// Where the event of a row counts, by three columns from `first` on.
fn accepted_at(rows: &RecordBatch, first: usize, row: usize) -> Result<Option<Place>, Error> {
    let partitions = numbers::<Int32Type>(rows, first, &DataType::Int32)?;
    let offsets = numbers::<Int64Type>(rows, first + 1, &DataType::Int64)?;
    let indexes = numbers::<Int32Type>(rows, first + 2, &DataType::Int32)?;
    Ok(place_of(partitions[row], offsets[row], indexes[row]))
}

fn column(rows: &RecordBatch, column: usize, as_type: &DataType) -> Result<ArrayRef, Error> {
    let cast = cast(rows.column(column), as_type);
    cast.map_err(|error| Error::Read(error.into()))
}

fn numbers<T: ArrowPrimitiveType>(
    rows: &RecordBatch,
    at: usize,
    as_type: &DataType,
) -> Result<Vec<Option<T::Native>>, Error> {
    Ok(column(rows, at, as_type)?.as_primitive::<T>().iter().collect())
}

fn text(rows: &RecordBatch, at: usize) -> Result<Vec<Option<String>>, Error> {
    let column = column(rows, at, &DataType::Utf8)?;
    Ok(column.as_string::<i32>().iter().map(|value| value.map(str::to_owned)).collect())
}

fn bytes(rows: &RecordBatch, at: usize) -> Result<Vec<Option<Bytes>>, Error> {
    let column = column(rows, at, &DataType::Binary)?;
    let values = column.as_binary::<i32>().iter();
    Ok(values.map(|value| value.map(Bytes::copy_from_slice)).collect())
}

/// A time in RFC 3339.
fn time(rows: &RecordBatch, at: usize, row: usize) -> Result<String, Error> {
    let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let times = column(rows, at, &utc)?;
    let times = times.as_primitive::<TimestampMicrosecondType>();
    let time =
        times.is_valid(row).then(|| times.value(row)).and_then(DateTime::from_timestamp_micros);
    Ok(time.map(|time| time.to_rfc3339_opts(SecondsFormat::Micros, true)).unwrap_or_default())
}

/// The texts of a list.
fn list(lists: &ArrayRef, row: usize) -> Result<Vec<String>, Error> {
    let Some(values) = lists.as_list_opt::<i32>().filter(|lists| lists.is_valid(row)) else {
        return Ok(Vec::new());
    };
    let values = cast(&values.value(row), &DataType::Utf8);
    let values = values.map_err(|error| Error::Read(error.into()))?;
    Ok(values.as_string::<i32>().iter().flatten().map(str::to_owned).collect())
}
