//! A log record becomes a row.

use std::sync::Arc;

use base64::{Engine as _, prelude::BASE64_STANDARD as BASE64};

use arrow::{
    array::{
        ArrayRef, BinaryBuilder, Int32Builder, Int64Builder, RecordBatch, StringBuilder,
        TimestampMicrosecondBuilder,
    },
    compute::{SortColumn, concat_batches, lexsort_to_indices, take_record_batch},
    datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit},
    error::ArrowError,
};

use crate::domain::{
    contract::{Contract, EventId},
    decode::Decoder,
    identity::Identity,
    record::LogRecord,
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
    let mut ingested = TimestampMicrosecondBuilder::with_capacity(n);
    let mut event_id = StringBuilder::with_capacity(n, n * 36);
    let mut producer = StringBuilder::new();
    let (mut epoch, mut sequence) = (Int64Builder::new(), Int64Builder::new());
    let mut index = Int32Builder::with_capacity(n);
    let payload_bytes = records.iter().map(LogRecord::payload_len).sum();
    let mut payload = BinaryBuilder::with_capacity(n, payload_bytes);
    let mut header = BinaryBuilder::with_capacity(n, n * 48);
    for record in records {
        let identity = identity_of(contract, &decoder, &origin.topic, record);
        log.append_value(&origin.log_id);
        topic.append_value(&origin.topic);
        partition.append_value(i32::try_from(record.partition).unwrap_or(i32::MAX));
        offset.append_value(record.offset);
        ts.append_value(record.timestamp_us);
        key.append_option(record.key.as_deref());
        ingested.append_value(ingested_at_us);
        event_id.append_value(identity.to_string());
        // One event per record: the place inside the record is always the first.
        index.append_value(0);
        match &identity {
            Identity::Producer { producer: name, epoch: e, sequence: s, .. } => {
                producer.append_value(name);
                epoch.append_value(i64::from(*e));
                sequence.append_value(*s);
            }
            _ => {
                producer.append_null();
                epoch.append_null();
                sequence.append_null();
            }
        }
        payload.append_option(record.payload.as_deref());
        headers.append_option(headers_json(record));
        header.append_value(identity.encode());
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
        Arc::new(producer.finish()),
        Arc::new(epoch.finish()),
        Arc::new(sequence.finish()),
        Arc::new(index.finish()),
        arrow::array::new_null_array(&DataType::Int32, n),
        Arc::new(payload.finish()),
        Arc::new(header.finish()),
    ];
    RecordBatch::try_new(bronze_schema(), columns)
}

/// What came with the record; for a record that something else wrote, what its contract says, or
/// its place in the log.
fn identity_of(
    contract: &Contract,
    decoder: &Decoder<'_>,
    topic: &str,
    record: &LogRecord,
) -> Identity {
    let header = record.identity.as_deref().and_then(|bytes| Identity::decode(bytes).ok());
    header.unwrap_or_else(|| match (&contract.event_id, &record.payload) {
        (EventId::Content, Some(payload)) => Identity::Content(decoder.content(payload)),
        (EventId::Column(column), Some(payload)) => {
            let id = decoder.column_text(column, &decoder.decode(payload));
            id.map_or_else(|| Identity::Content(decoder.content(payload)), Identity::Given)
        }
        (EventId::Client, _) | (_, None) => Identity::Record {
            topic: topic.to_owned(),
            partition: record.partition,
            offset: record.offset,
        },
    })
}

/// Headers as a JSON list of objects, in their order; what is not UTF-8 as `base64:…`.
fn headers_json(record: &LogRecord) -> Option<String> {
    if record.headers.is_empty() {
        return None;
    }
    let shown = record.headers.iter().map(|(name, value)| {
        let value = value.as_deref().map(|bytes| match std::str::from_utf8(bytes) {
            Ok(text) => text.to_owned(),
            Err(_) => format!("base64:{}", BASE64.encode(bytes)),
        });
        serde_json::json!({ "name": name, "value": value })
    });
    Some(serde_json::Value::Array(shown.collect()).to_string())
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
