//! A log record becomes a row.

use std::{
    fmt::{Display, Write as _},
    sync::Arc,
};

use base64::{Engine as _, prelude::BASE64_STANDARD as BASE64};
use bytes::Bytes;

use arrow::{
    array::{
        Array as _, ArrayRef, AsArray as _, BinaryBuilder, Int32Builder, Int64Builder, RecordBatch,
        StringBuilder, TimestampMicrosecondBuilder,
    },
    compute::{SortColumn, concat_batches, lexsort_to_indices, take_record_batch},
    datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit},
    error::ArrowError,
};

use crate::domain::{
    Place,
    contract::{Contract, EventId},
    decode::Decoder,
    identity::Identity,
    record::{Header, LogRecord, ORIGIN_HEADER},
};

/// Which log records come from, and under which name it holds their stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    pub log_id: String,
    pub topic: String,
}

/// The columns of every Bronze table as stored. Persisted: must stay stable.
pub fn bronze_schema() -> SchemaRef {
    let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    Arc::new(Schema::new(vec![
        Field::new("_log", DataType::Utf8, true),
        Field::new("_topic", DataType::Utf8, true),
        Field::new("_partition", DataType::Int32, true),
        Field::new("_offset", DataType::Int64, true),
        Field::new("_ts", utc.clone(), true),
        Field::new("_key", DataType::Binary, true),
        Field::new("_headers", DataType::Utf8, true),
        Field::new("_ingested_at", utc, true),
        Field::new("_event_id", DataType::Utf8, true),
        Field::new("_producer", DataType::Utf8, true),
        Field::new("_epoch", DataType::Int64, true),
        Field::new("_sequence", DataType::Int64, true),
        Field::new("_index", DataType::Int32, true),
        Field::new("_schema_id", DataType::Int32, true),
        Field::new("_payload", DataType::Binary, true),
        // The identity header as it came; what `_event_id` shows, without loss.
        Field::new("__identity", DataType::Binary, true),
    ]))
}

/// The rows of `records`, one each, in their order. Times are microseconds since 1970.
pub fn bronze_rows(
    origin: &Origin,
    contract: &Contract,
    records: &[LogRecord],
    ingested_at_us: i64,
) -> Result<RecordBatch, ArrowError> {
    let n = records.len();
    let decoder = Decoder::new(contract);
    let mut log = StringBuilder::with_capacity(n, n * origin.log_id.len());
    let mut topic = StringBuilder::with_capacity(n, n * origin.topic.len());
    let mut partition = Int32Builder::with_capacity(n);
    let mut offset = Int64Builder::with_capacity(n);
    let mut ts = TimestampMicrosecondBuilder::with_capacity(n);
    let (mut key, mut headers) = (BinaryBuilder::new(), StringBuilder::new());
    let mut sequences = Sequences::default();
    let mut ingested = TimestampMicrosecondBuilder::with_capacity(n);
    let mut event_id = StringBuilder::with_capacity(n, n * 36);
    let mut index = Int32Builder::with_capacity(n);
    let payload_bytes = records.iter().map(LogRecord::payload_len).sum();
    let mut payload = BinaryBuilder::with_capacity(n, payload_bytes);
    let mut header = BinaryBuilder::with_capacity(n, n * 48);
    for record in records {
        let known = record.identity.as_deref().and_then(|header| Identity::decode(header).ok());
        let is_known = known.is_some();
        let identity =
            known.unwrap_or_else(|| identity_of(contract, &decoder, &origin.topic, record));
        log.append_value(&origin.log_id);
        topic.append_value(&origin.topic);
        partition.append_value(i32::try_from(record.partition).unwrap_or(i32::MAX));
        offset.append_value(record.offset);
        ts.append_value(record.timestamp_us);
        key.append_option(record.key.as_deref());
        ingested.append_value(ingested_at_us);
        append_shown(&mut event_id, &identity);
        // A row per record: what takes arrays apart counts the events in it.
        index.append_value(0);
        sequences.push(&identity);
        payload.append_option(record.payload.as_deref());
        headers.append_option(headers_json(&record.headers));
        match record.identity.as_deref().filter(|_| is_known) {
            Some(encoded) => header.append_value(encoded),
            None => header.append_value(identity.encode()),
        }
    }
    let columns: Vec<ArrayRef> = vec![
        Arc::new(log.finish()),
        Arc::new(topic.finish()),
        Arc::new(partition.finish()),
        Arc::new(offset.finish()),
        Arc::new(ts.finish().with_timezone("UTC")),
        Arc::new(key.finish()),
        Arc::new(headers.finish()),
        Arc::new(ingested.finish().with_timezone("UTC")),
        Arc::new(event_id.finish()),
        Arc::new(sequences.producer.finish()),
        Arc::new(sequences.epoch.finish()),
        Arc::new(sequences.sequence.finish()),
        Arc::new(index.finish()),
        arrow::array::new_null_array(&DataType::Int32, n),
        Arc::new(payload.finish()),
        Arc::new(header.finish()),
    ];
    RecordBatch::try_new(bronze_schema(), columns)
}

/// The places in the sequences of producers.
#[derive(Default)]
struct Sequences {
    producer: StringBuilder,
    epoch: Int64Builder,
    sequence: Int64Builder,
}

impl Sequences {
    fn push(&mut self, identity: &Identity) {
        if let Identity::Producer { producer, epoch, sequence, .. } = identity {
            self.producer.append_value(producer);
            self.epoch.append_value(i64::from(*epoch));
            self.sequence.append_value(*sequence);
        } else {
            self.producer.append_null();
            self.epoch.append_null();
            self.sequence.append_null();
        }
    }
}

/// Appends the text form of a value.
pub(super) fn append_shown(column: &mut StringBuilder, value: &impl Display) {
    // Writing into memory cannot fail; the empty value ends what was written.
    write!(column, "{value}").ok();
    column.append_value("");
}

/// Of a record that something else wrote: what its contract says, or its place in the log.
fn identity_of(
    contract: &Contract,
    decoder: &Decoder<'_>,
    topic: &str,
    record: &LogRecord,
) -> Identity {
    match (&contract.event_id, &record.payload) {
        (EventId::Content, Some(payload)) => Identity::Content(decoder.content(payload)),
        (EventId::Columns(_), Some(payload)) => {
            let id = decoder.given_id(&decoder.decode(payload));
            id.map_or_else(|| Identity::Content(decoder.content(payload)), Identity::Given)
        }
        (EventId::Client, _) | (_, None) => Identity::Record {
            topic: topic.to_owned(),
            partition: record.partition,
            offset: record.offset,
        },
    }
}

/// Stands before what is not UTF-8.
const NOT_TEXT: &str = "base64:";

/// Headers as a JSON list of objects, in their order; what is not UTF-8 as `base64:…`.
fn headers_json(headers: &[Header]) -> Option<String> {
    if headers.is_empty() {
        return None;
    }
    let shown = headers.iter().map(|(name, value)| {
        let value = value.as_deref().map(|bytes| match std::str::from_utf8(bytes) {
            Ok(text) => text.to_owned(),
            Err(_) => format!("{NOT_TEXT}{}", BASE64.encode(bytes)),
        });
        serde_json::json!({ "name": name, "value": value })
    });
    Some(serde_json::Value::Array(shown.collect()).to_string())
}

/// The headers that `_headers` shows; `None` where the text is none of ours.
pub fn headers_of(json: &str) -> Option<Vec<Header>> {
    let shown: Vec<Shown> = serde_json::from_str(json).ok()?;
    let value = |text: String| {
        let encoded = text.strip_prefix(NOT_TEXT).and_then(|rest| BASE64.decode(rest).ok());
        // What is UTF-8 was never encoded, so it only looks like it.
        let bytes = encoded.filter(|bytes| std::str::from_utf8(bytes).is_err());
        Bytes::from(bytes.unwrap_or_else(|| text.into_bytes()))
    };
    Some(shown.into_iter().map(|header| (header.name, header.value.map(value))).collect())
}

#[derive(serde::Deserialize)]
struct Shown {
    name: String,
    value: Option<String>,
}

/// For each of the Bronze rows, the quarantined record that it was appended for again; empty where
/// none was.
pub fn origins(rows: &RecordBatch) -> Vec<Option<Place>> {
    let headers = rows.column_by_name("_headers").and_then(|column| column.as_string_opt::<i32>());
    let Some(headers) = headers.filter(|headers| headers.null_count() < headers.len()) else {
        return Vec::new();
    };
    headers.iter().map(|json| json.and_then(origin)).collect()
}

fn origin(json: &str) -> Option<Place> {
    // Records of others may have many headers; few have this one.
    if !json.contains(ORIGIN_HEADER) {
        return None;
    }
    let headers = headers_of(json)?;
    let (_, value) = headers.into_iter().find(|(name, _)| name == ORIGIN_HEADER)?;
    std::str::from_utf8(&value?).ok()?.parse().ok()
}

/// One batch of Bronze rows in arrival order: (`_ts`, `_partition`, `_offset`, `_index`).
pub fn in_arrival_order(batches: &[RecordBatch]) -> Result<RecordBatch, ArrowError> {
    let schema = batches.first().map_or_else(bronze_schema, RecordBatch::schema);
    let all = concat_batches(&schema, batches)?;
    let keys = ["_ts", "_partition", "_offset", "_index"].map(|name| {
        let values = all.column_by_name(name).cloned();
        let missing = || ArrowError::SchemaError(format!("no column {name}"));
        Ok(SortColumn { values: values.ok_or_else(missing)?, options: None })
    });
    let keys = keys.into_iter().collect::<Result<Vec<_>, ArrowError>>()?;
    take_record_batch(&all, &lexsort_to_indices(&keys, None)?)
}

#[cfg(test)]
mod tests {
    use arrow::array::StringArray;

    use super::*;

    fn header(name: &str, value: Option<&'static [u8]>) -> Header {
        (name.to_owned(), value.map(Bytes::from_static))
    }

    #[test]
    fn headers_survive_their_text_form() {
        let headers = vec![
            header("trace", Some(b"a \"b\"")),
            header("none", None),
            header("bytes", Some(b"\xff\0")),
            // Looks like the form of bytes, but is text.
            header("text", Some(b"base64:QUJD")),
            header("text", Some(b"base64:not")),
        ];
        let json = headers_json(&headers).expect("headers");
        assert_eq!(headers_of(&json), Some(headers));
        assert_eq!(headers_of("{}"), None);
        assert_eq!(headers_json(&[]), None);
    }

    #[test]
    fn the_origin_is_told_from_other_headers() {
        let json = |headers: &[Header]| headers_json(headers);
        let column = StringArray::from(vec![
            json(&[header("trace", Some(b"1")), header(ORIGIN_HEADER, Some(b"1/41"))]),
            json(&[header("trace", Some(b"sluice-origin"))]),
            json(&[header(ORIGIN_HEADER, Some(b"orders"))]),
            json(&[header(ORIGIN_HEADER, None)]),
            None,
            json(&[header(ORIGIN_HEADER, Some(b"0/7/2"))]),
        ]);
        let rows = |column| {
            let column: ArrayRef = Arc::new(column);
            RecordBatch::try_from_iter_with_nullable([("_headers", column, true)]).expect("rows")
        };
        let (one, two) = ("1/41".parse().expect("place"), "0/7/2".parse().expect("place"));
        assert_eq!(origins(&rows(column)), [Some(one), None, None, None, None, Some(two)]);
        assert_eq!(origins(&rows(StringArray::new_null(3))), []);
    }
}
