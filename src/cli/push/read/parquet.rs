//! Parquet: every row becomes a JSON object. Decimals keep all their digits, times are written as
//! `2026-03-02 18:00:19.456`, in UTC.

use std::{
    collections::VecDeque,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use arrow::{
    array::RecordBatch,
    compute::cast,
    datatypes::{DataType, Field, Schema},
    error::ArrowError,
    json::{LineDelimitedWriter, WriterBuilder, writer::LineDelimited},
};
use bytes::Bytes;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};

use super::{ReadError, Row, Rows, open_file};

const BATCH_ROWS: usize = 1024;
const TIMESTAMP_FORMAT: &str = "%Y-%m-%d %H:%M:%S%.f";

pub(super) struct ParquetRows {
    name: String,
    batches: ParquetRecordBatchReader,
    ready: VecDeque<Bytes>,
    row: u64,
    row_count: u64,
    bytes: u64,
    /// Told how much of the file is behind us, by rows.
    read: Arc<AtomicU64>,
}

impl ParquetRows {
    pub(super) fn open(name: String, path: &Path, read: Arc<AtomicU64>) -> Result<Self, ReadError> {
        let file = open_file(&name, path)?;
        let bytes = file.metadata().map_err(|error| ReadError::Io(name.clone(), error))?.len();
        let failed = |error| ReadError::Parquet(name.clone(), Box::new(error));
        let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(failed)?;
        let row_count = u64::try_from(builder.metadata().file_metadata().num_rows()).unwrap_or(0);
        let batches = builder.with_batch_size(BATCH_ROWS).build().map_err(failed)?;
        let ready = VecDeque::new();
        Ok(Self { name, batches, ready, row: 0, row_count, bytes, read })
    }
}

impl Rows for ParquetRows {
    fn next_row(&mut self) -> Result<Option<Row>, ReadError> {
        while self.ready.is_empty() {
            let Some(batch) = self.batches.next() else { return Ok(None) };
            let lines = batch.and_then(|batch| to_json(&batch)).map_err(|error| {
                let place = format!("{} after row {}", self.name, self.row);
                ReadError::Parquet(place, Box::new(error))
            })?;
            self.ready.extend(lines);
        }
        self.row += 1;
        if self.row.is_multiple_of(BATCH_ROWS as u64) || self.row == self.row_count {
            let share = u128::from(self.bytes) * u128::from(self.row);
            let behind = share / u128::from(self.row_count.max(1));
            self.read.store(u64::try_from(behind).unwrap_or(self.bytes), Ordering::Relaxed);
        }
        Ok(self.ready.pop_front().map(|json| Row { line: self.row, content: Ok(json) }))
    }
}

fn to_json(batch: &RecordBatch) -> Result<Vec<Bytes>, ArrowError> {
    let mut writer: LineDelimitedWriter<Vec<u8>> = WriterBuilder::new()
        .with_timestamp_format(TIMESTAMP_FORMAT.into())
        .with_timestamp_tz_format(TIMESTAMP_FORMAT.into())
        .with_datetime_format(TIMESTAMP_FORMAT.into())
        .build::<_, LineDelimited>(Vec::new());
    writer.write(&in_utc(batch)?)?;
    writer.finish()?;
    let all = Bytes::from(writer.into_inner());
    let mut lines = Vec::with_capacity(batch.num_rows());
    let mut start = 0;
    // JSON written on one line each holds no line ends of its own.
    for (end, _) in all.iter().enumerate().filter(|(_, byte)| **byte == b'\n') {
        lines.push(all.slice(start..end));
        start = end + 1;
    }
    Ok(lines)
}

/// The instants of zoned timestamps are kept, their zone becomes UTC: zones by name would need a
/// database of zones to be written out.
fn in_utc(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let mut fields: Vec<Arc<Field>> = Vec::with_capacity(batch.num_columns());
    let mut columns = Vec::with_capacity(batch.num_columns());
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        if let DataType::Timestamp(unit, Some(_)) = field.data_type() {
            let utc = DataType::Timestamp(*unit, Some("+00:00".into()));
            columns.push(cast(column, &utc)?);
            fields.push(Arc::new(field.as_ref().clone().with_data_type(utc)));
        } else {
            columns.push(Arc::clone(column));
            fields.push(Arc::clone(field));
        }
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
}
