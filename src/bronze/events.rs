//! The events of Bronze rows: where the contract takes arrays, a record that holds one becomes a row
//! per event.
//!
//! What follows Bronze, and what SQL sees of it, has these rows: each with the payload of its event,
//! the number of it in the record, and its own identity.

use std::sync::Arc;

use arrow::{
    array::{
        Array as _, ArrayRef, AsArray as _, BinaryArray, BinaryBuilder, Int32Builder, RecordBatch,
        StringArray, StringBuilder, UInt32Array,
    },
    compute::take,
    error::ArrowError,
};
use datafusion::error::DataFusionError;

use crate::{
    bronze::{DecodedBatch, Judge, rows::append_shown},
    domain::{array, identity::Identity},
};

/// What all events of a record repeat of it, its key and headers, is no more than this; else the
/// record is taken for one event, which it is not.
const REPEATED_BYTES_MAX: usize = 4 << 20;
const NAMELESS: &str = "an event has no identity";

impl Judge {
    /// The events of Bronze rows, in their order. Those of a record that holds several are named by
    /// its identity until [`Judge::named`] knows better.
    pub fn events(&self, rows: &RecordBatch) -> Result<RecordBatch, ArrowError> {
        if !self.contract().takes_arrays {
            return Ok(rows.clone());
        }
        let payloads: &BinaryArray = column(rows, "_payload")?.as_binary();
        let repeated = Repeated::of(rows)?;
        let taken_apart = |row: usize| {
            let payload = payloads.is_valid(row).then(|| payloads.value(row))?;
            let events = array::events(payload).ok().flatten()?;
            let fits = events.len().saturating_mul(repeated.bytes(row)) <= REPEATED_BYTES_MAX;
            fits.then_some(events)
        };
        let found: Vec<Option<Vec<&[u8]>>> = (0..rows.num_rows()).map(taken_apart).collect();
        if found.iter().all(Option::is_none) {
            return Ok(rows.clone());
        }
        let headers: &BinaryArray = column(rows, "__identity")?.as_binary();
        let (mut taken, mut index) = (Vec::new(), Int32Builder::new());
        let mut payload = BinaryBuilder::with_capacity(0, payloads.value_data().len());
        let mut identity = BinaryBuilder::new();
        for (row, events) in (0_u32..).zip(&found) {
            let at = row as usize;
            let header = headers.value(at);
            let Some(events) = events else {
                taken.push(row);
                index.append_value(0);
                payload.append_option(payloads.is_valid(at).then(|| payloads.value(at)));
                identity.append_value(header);
                continue;
            };
            let record = Identity::decode(header);
            for (number, event) in (0_u32..).zip(events) {
                taken.push(row);
                index.append_value(i32::try_from(number).unwrap_or(i32::MAX));
                payload.append_value(event);
                match &record {
                    Ok(record) => identity.append_value(record.at(number).encode()),
                    Err(_) => identity.append_value(header),
                }
            }
        }
        let made: [(&str, ArrayRef); 3] = [
            ("_index", Arc::new(index.finish())),
            ("_payload", Arc::new(payload.finish())),
            ("__identity", Arc::new(identity.finish())),
        ];
        let taken = UInt32Array::from(taken);
        // Never the payload of the whole record for each of its events.
        with(rows, &made, |column| take(column, &taken, None))
    }

    /// Events under the identities that the contract gives them.
    pub fn named(
        &self,
        events: RecordBatch,
        decoded: &DecodedBatch,
    ) -> Result<RecordBatch, ArrowError> {
        if !self.contract().takes_arrays {
            return Ok(events);
        }
        let headers: &BinaryArray = column(&events, "__identity")?.as_binary();
        let mut event_id = StringBuilder::new();
        let mut identity = BinaryBuilder::new();
        for row in 0..events.num_rows() {
            let known = self.identity(decoded, row, headers.value(row));
            let known = known.ok_or_else(|| ArrowError::InvalidArgumentError(NAMELESS.into()))?;
            append_shown(&mut event_id, &known);
            identity.append_value(known.encode());
        }
        let made: [(&str, ArrayRef); 2] = [
            ("_event_id", Arc::new(event_id.finish())),
            ("__identity", Arc::new(identity.finish())),
        ];
        with(&events, &made, |column| Ok(Arc::clone(column)))
    }

    /// The events of Bronze rows, under their own identities.
    pub fn told(&self, rows: &RecordBatch) -> Result<RecordBatch, DataFusionError> {
        let events = self.events(rows)?;
        let payloads: &BinaryArray = column(&events, "_payload")?.as_binary();
        let keys: &BinaryArray = column(&events, "_key")?.as_binary();
        let decoded = self.decode_for(payloads, keys, column(&events, "_ts")?, false)?;
        Ok(self.named(events, &decoded)?)
    }
}

/// What the events of a record repeat of it.
struct Repeated<'a> {
    key: &'a BinaryArray,
    headers: &'a StringArray,
}

impl<'a> Repeated<'a> {
    fn of(rows: &'a RecordBatch) -> Result<Self, ArrowError> {
        let (key, headers) = (column(rows, "_key")?, column(rows, "_headers")?);
        Ok(Self { key: key.as_binary(), headers: headers.as_string() })
    }

    fn bytes(&self, row: usize) -> usize {
        self.key.value(row).len() + self.headers.value(row).len()
    }
}

/// Rows with the columns `made`, and the `others` made of those that there are.
fn with(
    rows: &RecordBatch,
    made: &[(&str, ArrayRef)],
    others: impl Fn(&ArrayRef) -> Result<ArrayRef, ArrowError>,
) -> Result<RecordBatch, ArrowError> {
    let schema = rows.schema();
    let columns = schema.fields().iter().zip(rows.columns()).map(|(field, column)| {
        let known = made.iter().find(|(name, _)| name == field.name());
        known.map_or_else(|| others(column), |(_, values)| Ok(Arc::clone(values)))
    });
    let columns = columns.collect::<Result<_, ArrowError>>()?;
    RecordBatch::try_new(Arc::clone(&schema), columns)
}

fn column<'a>(rows: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef, ArrowError> {
    rows.column_by_name(name).ok_or_else(|| ArrowError::SchemaError(format!("no column {name}")))
}
