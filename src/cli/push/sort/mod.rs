//! Rows of files in the order of one member of their events, in bounded memory: DataFusion sorts
//! them, and spills what does not fit to the folder for temporary files.
//!
//! The order is (time or number, file, row number), so it is the same on every reading, whatever
//! the memory, and a sorted push is resumed like any other. Refused rows stand before all others.

mod key;
mod keyed;

use std::{
    fmt,
    path::Path,
    sync::{Arc, Mutex, OnceLock, PoisonError, atomic::AtomicU64},
};

use arrow::{
    array::{Array as _, AsArray as _, RecordBatch},
    compute::SortOptions,
    datatypes::{Decimal128Type, Int64Type, SchemaRef, UInt32Type, UInt64Type},
};
use bytes::Bytes;
use datafusion::{
    error::DataFusionError,
    execution::{
        SendableRecordBatchStream, TaskContext, memory_pool::FairSpillPool,
        runtime_env::RuntimeEnvBuilder,
    },
    physical_expr::{LexOrdering, PhysicalSortExpr, expressions::Column},
    physical_plan::{
        ExecutionPlan as _,
        sorts::sort::SortExec,
        stream::RecordBatchStreamAdapter,
        streaming::{PartitionStream, StreamingTableExec},
    },
    prelude::SessionConfig,
};
use futures::{StreamExt as _, stream::Fuse};
use tokio::runtime::Runtime;

use super::{
    feed::{Cut, FileBatch, Numbered, Supply},
    read::{Input, ReadError, Row},
};
use keyed::{BATCH_ROWS, Keyed, Left, SCHEMA, SORTED_BY};

/// Sorting takes at most so much memory; beyond that it spills to disk.
const MEMORY_BYTES: usize = 256 * 1024 * 1024;
/// The share of it that is kept free for merging, and the share of one batch.
const MERGE_SHARE: usize = 8;
const BATCH_SHARE: usize = 64;

/// What to sort by.
#[derive(Debug, Clone)]
pub(super) struct Sort {
    /// The member of the events.
    pub(super) member: String,
    /// The order is needed as time.
    pub(super) needs_times: bool,
    memory_bytes: usize,
}

impl Sort {
    pub(super) fn new(member: &str, needs_times: bool) -> Self {
        Self { member: member.to_owned(), needs_times, memory_bytes: MEMORY_BYTES }
    }
}

/// What is known once all is read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Rows with a smaller key than the row before them in their file, refused rows left out.
    pub(super) out_of_order: u64,
    has_times: bool,
    has_numbers: bool,
}

/// Where the reader of files leaves it.
pub(super) type Finding = Arc<OnceLock<Found>>;

/// The rows of all files, sorted.
pub(super) struct Sorted {
    sort: Sort,
    /// The files, for messages.
    name: String,
    plan: SortExec,
    rows: Fuse<SendableRecordBatchStream>,
    batch: Option<RecordBatch>,
    /// The next row of the batch.
    at: usize,
    left: Arc<Left>,
    /// Last, since what it runs is dropped before.
    runtime: Runtime,
}

impl Sorted {
    /// Nothing is read before the first row is asked for. `spill` is the folder for what does not
    /// fit into memory. Not to be used inside a runtime: it blocks.
    pub(super) fn open(
        sort: Sort,
        name: String,
        inputs: Vec<Input>,
        cut: Cut,
        spill: &Path,
        (read, found): (Arc<AtomicU64>, Finding),
    ) -> Result<Self, ReadError> {
        let failed = |error| failed(&name, error);
        let left = Arc::new(Left::new(found));
        let batch_bytes = sort.memory_bytes / BATCH_SHARE;
        let member = sort.member.clone();
        let keyed = Keyed::new(inputs, member, cut, batch_bytes, read, Arc::clone(&left));
        let plan = plan(keyed).map_err(failed)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .map_err(|error| ReadError::Io(name.clone(), error))?;
        let rows = {
            let _inside = runtime.enter();
            plan.execute(0, context(&sort, spill).map_err(failed)?).map_err(failed)?.fuse()
        };
        Ok(Self { sort, name, plan, rows, batch: None, at: 0, left, runtime })
    }

    /// How often memory did not suffice.
    fn spills(&self) -> usize {
        self.plan.metrics().and_then(|metrics| metrics.spill_count()).unwrap_or(0)
    }

    /// Fetches the next batch; false at the end.
    fn fetch(&mut self) -> Result<bool, ReadError> {
        let next = self.runtime.block_on(self.rows.next());
        let next = next
            .transpose()
            .map_err(|error| self.left.take_error().unwrap_or_else(|| failed(&self.name, error)))?;
        let Some(batch) = next else { return Ok(false) };
        if self.batch.is_none() {
            tracing::debug!(files = self.name, spills = self.spills(), "sorted");
            self.check_times()?;
        }
        (self.batch, self.at) = (Some(batch), 0);
        Ok(true)
    }

    fn check_times(&self) -> Result<(), ReadError> {
        let only_numbers = |found: &Found| found.has_numbers && !found.has_times;
        if !self.sort.needs_times || !self.left.found.get().is_some_and(only_numbers) {
            return Ok(());
        }
        let member = &self.sort.member;
        let reason =
            format!("--speed needs times, but {member} holds numbers; give --rate instead");
        Err(ReadError::Content(self.name.clone(), reason))
    }

    fn row(&self, batch: &RecordBatch, at: usize) -> Numbered {
        let value = |column: usize| batch.column(column).as_primitive::<UInt64Type>().value(at);
        let (times, numbers) = (
            batch.column(0).as_primitive::<Int64Type>(),
            batch.column(1).as_primitive::<Decimal128Type>(),
        );
        let payload = batch.column(6).as_binary::<i32>().value(at);
        let (time, number) = (
            times.is_valid(at).then(|| i128::from(times.value(at))),
            numbers.is_valid(at).then(|| numbers.value(at)),
        );
        let has_times = self.left.found.get().is_some_and(|found| found.has_times);
        let content = if batch.column(5).as_boolean().value(at) {
            Err(String::from_utf8_lossy(payload).into_owned())
        } else if has_times && time.is_none() {
            Err(key::not_a_time(payload, &self.sort.member))
        } else {
            Ok(Bytes::copy_from_slice(payload))
        };
        Numbered {
            file: batch.column(2).as_primitive::<UInt32Type>().value(at) as usize,
            number: value(3),
            key: if has_times { time } else { number },
            row: Row { line: value(4), content },
        }
    }
}

impl Supply for Sorted {
    fn next_row(&mut self) -> Result<Option<Numbered>, ReadError> {
        loop {
            if let Some(batch) = self.batch.as_ref().filter(|batch| self.at < batch.num_rows()) {
                let row = self.row(batch, self.at);
                self.at += 1;
                return Ok(Some(row));
            }
            if !self.fetch()? {
                return Ok(None);
            }
        }
    }
}

fn failed(name: &str, error: DataFusionError) -> ReadError {
    ReadError::Sort(name.to_owned(), Box::new(error))
}

fn plan(keyed: Keyed) -> Result<SortExec, DataFusionError> {
    let schema = Arc::clone(&SCHEMA);
    let source: Arc<dyn PartitionStream> = Arc::new(Source(Mutex::new(Some(keyed))));
    let source = StreamingTableExec::try_new(schema, vec![source], None, [], false, None)?;
    let options = SortOptions { descending: false, nulls_first: true };
    let columns = SCHEMA.fields().iter().take(SORTED_BY).enumerate();
    let order = LexOrdering::new(columns.map(|(at, field)| {
        PhysicalSortExpr::new(Arc::new(Column::new(field.name(), at)), options)
    }));
    let order = order.ok_or_else(|| DataFusionError::Internal("nothing to sort by".into()))?;
    Ok(SortExec::new(order, Arc::new(source)))
}

fn context(sort: &Sort, spill: &Path) -> Result<Arc<TaskContext>, DataFusionError> {
    let memory = sort.memory_bytes;
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(FairSpillPool::new(memory)))
        .with_temp_file_path(spill)
        // The disk is the limit.
        .with_max_temp_directory_size(u64::MAX)
        .build_arc()?;
    let config = SessionConfig::new()
        .with_batch_size(BATCH_ROWS)
        .with_sort_spill_reservation_bytes(memory / MERGE_SHARE)
        .with_sort_in_place_threshold_bytes(memory / BATCH_SHARE);
    Ok(Arc::new(TaskContext::default().with_session_config(config).with_runtime(runtime)))
}

/// The rows as a plan reads them: once.
struct Source(Mutex<Option<Keyed>>);

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Source")
    }
}

impl PartitionStream for Source {
    fn schema(&self) -> &SchemaRef {
        &SCHEMA
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let keyed = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let batches = futures::stream::iter(keyed.into_iter().flatten());
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&SCHEMA), batches))
    }
}

/// Checks that rows are sent in ascending order, rows with the same key as they stand.
#[derive(Debug, Default)]
pub(super) struct Ascending {
    /// Key, file and row of the last one.
    last: Option<(i128, usize, u64)>,
}

impl Ascending {
    /// `Err` names what is out of order.
    pub(super) fn check(&mut self, batch: &FileBatch) -> Result<(), String> {
        for event in &batch.events {
            let (file, row) = (event.place.file, event.row);
            let this = event.key.map(|key| (key, file, row));
            if this.is_none() || this <= self.last {
                let last = self.last;
                return Err(format!("{this:?} comes after {last:?} (key, file, row) in the sort"));
            }
            self.last = this;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
