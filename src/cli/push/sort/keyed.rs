//! Rows as they stand in their files, with what they are sorted by, as Arrow batches.

use std::sync::{Arc, LazyLock, Mutex, PoisonError, atomic::AtomicU64};

use arrow::{
    array::{
        ArrayRef, BinaryBuilder, BooleanBuilder, Decimal128Builder, Int64Builder, RecordBatch,
        UInt32Builder, UInt64Builder,
    },
    datatypes::{DataType, Field, Schema, SchemaRef},
};
use datafusion::error::DataFusionError;

use super::{
    Finding, Found,
    key::{self, Key, NUMBER},
};
use crate::cli::push::{
    feed::Cut,
    read::{Input, ReadError, Row, Rows},
};

/// Rows per batch, here and behind the sort: few, since a row may be a megabyte large.
pub(super) const BATCH_ROWS: usize = 128;

/// The columns, those first that the rows are sorted by. A refused row has neither time nor number,
/// so it stands before all others; its `payload` is the reason.
pub(super) static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    Arc::new(Schema::new(vec![
        Field::new("time", DataType::Int64, true),
        Field::new("number", DataType::Decimal128(NUMBER.0, NUMBER.1), true),
        Field::new("file", DataType::UInt32, false),
        Field::new("row", DataType::UInt64, false),
        Field::new("line", DataType::UInt64, false),
        Field::new("refused", DataType::Boolean, false),
        Field::new("payload", DataType::Binary, false),
    ]))
});
/// How many of them decide the order.
pub(super) const SORTED_BY: usize = 4;

/// What reading leaves for the other side of the sort.
#[derive(Debug)]
pub(super) struct Left {
    /// Set at the end of the last file.
    pub(super) found: Finding,
    /// Why reading ended before.
    error: Mutex<Option<ReadError>>,
}

impl Left {
    pub(super) fn new(found: Finding) -> Self {
        Self { found, error: Mutex::new(None) }
    }

    pub(super) fn take_error(&self) -> Option<ReadError> {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Reads the files one after the other.
pub(super) struct Keyed {
    inputs: Vec<Input>,
    member: String,
    cut: Cut,
    /// A batch is closed once it holds so much payload.
    batch_bytes: usize,
    /// Counts the bytes taken from the disk.
    read: Arc<AtomicU64>,
    left: Arc<Left>,
    file: usize,
    rows: Option<Box<dyn Rows>>,
    next_row: u64,
    times: Backwards,
    numbers: Backwards,
}

impl Keyed {
    pub(super) fn new(
        inputs: Vec<Input>,
        member: String,
        cut: Cut,
        batch_bytes: usize,
        read: Arc<AtomicU64>,
        left: Arc<Left>,
    ) -> Self {
        let (times, numbers) = (Backwards::default(), Backwards::default());
        let (file, rows, next_row) = (0, None, 0);
        Self { inputs, member, cut, batch_bytes, read, left, file, rows, next_row, times, numbers }
    }

    /// The next row of the current file, or of those after it.
    fn next_row(&mut self) -> Result<Option<Row>, ReadError> {
        while let Some(input) = self.inputs.get(self.file) {
            let rows = match &mut self.rows {
                Some(rows) => rows,
                none => none.insert(input.open(Arc::clone(&self.read))?),
            };
            if let Some(row) = rows.next_row()? {
                return Ok(Some(row));
            }
            (self.file, self.rows, self.next_row) = (self.file + 1, None, 0);
            self.times.last = None;
            self.numbers.last = None;
        }
        Ok(None)
    }

    fn next_batch(&mut self) -> Result<Option<RecordBatch>, ReadError> {
        let mut columns = Columns::default();
        while columns.rows < BATCH_ROWS && columns.bytes < self.batch_bytes {
            let Some(row) = self.next_row()? else { break };
            let content = row.content.and_then(|payload| self.cut.checked(payload));
            let keyed = content
                .and_then(|payload| key::read(&payload, &self.member).map(|key| (key, payload)));
            if let Ok((key, _)) = keyed {
                match key {
                    Key::Time(time) => self.times.see(time.into()),
                    Key::Number(number) => self.numbers.see(number),
                }
            }
            columns.push(self.file, self.next_row, row.line, keyed);
            self.next_row += 1;
        }
        if columns.rows > 0 {
            return columns.finish().map(Some);
        }
        let has_times = self.times.seen;
        let decisive = if has_times { &self.times } else { &self.numbers };
        let found =
            Found { out_of_order: decisive.steps, has_times, has_numbers: self.numbers.seen };
        self.left.found.get_or_init(|| found);
        Ok(None)
    }
}

impl Iterator for Keyed {
    type Item = Result<RecordBatch, DataFusionError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_batch().transpose().map(|batch| {
            batch.map_err(|error| {
                let text = error.to_string();
                *self.left.error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                DataFusionError::Execution(text)
            })
        })
    }
}

/// Counts the steps back in a file.
#[derive(Debug, Default)]
struct Backwards {
    seen: bool,
    last: Option<i128>,
    steps: u64,
}

impl Backwards {
    fn see(&mut self, key: i128) {
        self.seen = true;
        let last = self.last.replace(key);
        self.steps += u64::from(last.is_some_and(|last| key < last));
    }
}

#[derive(Default)]
struct Columns {
    rows: usize,
    bytes: usize,
    time: Int64Builder,
    number: Decimal128Builder,
    file: UInt32Builder,
    row: UInt64Builder,
    line: UInt64Builder,
    refused: BooleanBuilder,
    payload: BinaryBuilder,
}

impl Columns {
    fn push<P: AsRef<[u8]>>(
        &mut self,
        file: usize,
        row: u64,
        line: u64,
        keyed: Result<(Key, P), String>,
    ) {
        let (time, number) = match &keyed {
            Ok((Key::Time(time), _)) => (Some(*time), None),
            Ok((Key::Number(number), _)) => (None, Some(*number)),
            Err(_) => (None, None),
        };
        self.time.append_option(time);
        self.number.append_option(number);
        // Nobody names four thousand million files.
        self.file.append_value(u32::try_from(file).unwrap_or(u32::MAX));
        self.row.append_value(row);
        self.line.append_value(line);
        self.refused.append_value(keyed.is_err());
        let payload = match &keyed {
            Ok((_, payload)) => payload.as_ref(),
            Err(reason) => reason.as_bytes(),
        };
        self.payload.append_value(payload);
        self.rows += 1;
        self.bytes += payload.len();
    }

    fn finish(mut self) -> Result<RecordBatch, ReadError> {
        let number = self.number.finish().with_data_type(SCHEMA.field(1).data_type().clone());
        let columns: Vec<ArrayRef> = vec![
            Arc::new(self.time.finish()),
            Arc::new(number),
            Arc::new(self.file.finish()),
            Arc::new(self.row.finish()),
            Arc::new(self.line.finish()),
            Arc::new(self.refused.finish()),
            Arc::new(self.payload.finish()),
        ];
        RecordBatch::try_new(Arc::clone(&SCHEMA), columns)
            .map_err(|error| ReadError::Content("the rows to sort".into(), error.to_string()))
    }
}
