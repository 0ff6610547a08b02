//! A running query: executed and encoded in a task of its own, behind a bounded channel.
//!
//! A slow client holds the task back, a client that leaves ends it, and the deadline is kept
//! outside of it, so that it strikes even while the query does not yield.

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use arrow::{array::RecordBatch, compute::concat_batches, datatypes::SchemaRef};
use arrow_flight::{FlightData, encode::FlightDataEncoderBuilder, error::FlightError};
use datafusion::execution::SendableRecordBatchStream;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, mpsc},
    task::{JoinError, JoinHandle},
    time::{Instant, Sleep, sleep_until},
};
use tonic::Status;

use crate::serve::{
    QueryError,
    metrics::{self, Outcome},
    query::Planned,
    wire,
};

/// Encoded messages that wait for the client.
const QUEUED_MESSAGES: usize = 4;
/// Rows that are put together before they are sent.
const ROWS_TOGETHER: usize = 32_768;
/// Largest message; clients accept 4 MB.
const MESSAGE_BYTES: usize = 2 << 20;

/// Largest row: one row is never cut, and clients take messages of up to 16 MiB.
const ROW_BYTES_MAX: usize = 15 << 20;

/// What it takes to run a query.
pub(crate) struct Run {
    pub(crate) planned: Planned,
    /// Held until the query has really ended.
    pub(crate) turn: OwnedSemaphorePermit,
    pub(crate) until: Instant,
    pub(crate) allowed: Duration,
}

/// The answer of a query: its schema at once, then its rows.
pub(crate) struct FlightStream {
    messages: mpsc::Receiver<Result<FlightData, QueryError>>,
    task: AbortOnDrop<()>,
    deadline: Pin<Box<Sleep>>,
    allowed: Duration,
    ended: bool,
    record: Record,
}

impl FlightStream {
    pub(crate) fn start(threads: &Handle, run: Run) -> Self {
        let Run { planned, turn, until, allowed } = run;
        let (sender, messages) = mpsc::channel(QUEUED_MESSAGES);
        let rows = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&rows);
        let task = threads.spawn(async move {
            produce(planned, &sender, counted).await;
            drop(turn);
        });
        Self {
            messages,
            task: AbortOnDrop(task),
            deadline: Box::pin(sleep_until(until)),
            allowed,
            ended: false,
            record: Record { started: Instant::now(), outcome: Outcome::Cancelled, rows },
        }
    }

    fn end(
        &mut self,
        outcome: Outcome,
        error: Option<QueryError>,
    ) -> Option<Result<FlightData, Status>> {
        self.ended = true;
        self.record.outcome = outcome;
        self.task.0.abort();
        error.map(|error| Err(error.into()))
    }
}

impl Stream for FlightStream {
    type Item = Result<FlightData, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.ended {
            return Poll::Ready(None);
        }
        if this.deadline.as_mut().poll(context).is_ready() {
            let limit_ms = u64::try_from(this.allowed.as_millis()).unwrap_or(u64::MAX);
            return Poll::Ready(this.end(Outcome::Timeout, Some(QueryError::Timeout { limit_ms })));
        }
        match this.messages.poll_recv(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(Ok(data))) => Poll::Ready(Some(Ok(data))),
            Poll::Ready(Some(Err(error))) => Poll::Ready(this.end(Outcome::Failed, Some(error))),
            // The channel is closed: either all is sent, or the task panicked.
            Poll::Ready(None) => match Pin::new(&mut this.task).poll(context) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Ok(())) => Poll::Ready(this.end(Outcome::Ok, None)),
                Poll::Ready(Err(join)) => {
                    let error = QueryError::Internal(format!("the query ended early: {join}"));
                    Poll::Ready(this.end(Outcome::Failed, Some(error)))
                }
            },
        }
    }
}

/// Counts a query when it is over, however it ended.
struct Record {
    started: Instant,
    outcome: Outcome,
    rows: Arc<AtomicU64>,
}

impl Drop for Record {
    fn drop(&mut self) {
        let rows = self.rows.load(Ordering::Relaxed);
        metrics::query_ended(self.outcome, self.started.elapsed(), rows);
    }
}

/// A task that ends with its owner.
pub(crate) struct AbortOnDrop<T>(pub(crate) JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl<T> Future for AbortOnDrop<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context)
    }
}

async fn produce(
    planned: Planned,
    sender: &mpsc::Sender<Result<FlightData, QueryError>>,
    rows: Arc<AtomicU64>,
) {
    let Planned { schema, frame, view, .. } = planned;
    let wire = Arc::clone(&schema);
    let batches = stream::once(Box::pin(frame.execute_stream()))
        .map_err(QueryError::from)
        .map_ok(move |rows| pieces(rows, Arc::clone(&wire)))
        .try_flatten()
        .inspect_ok(move |batch| {
            let counted = u64::try_from(batch.num_rows()).unwrap_or(u64::MAX);
            rows.fetch_add(counted, Ordering::Relaxed);
        })
        .map_err(|error| FlightError::ExternalError(Box::new(error)));
    let mut encoded = FlightDataEncoderBuilder::new()
        .with_schema(schema)
        .with_max_flight_data_size(usize::MAX)
        .build(batches);
    while let Some(message) = encoded.next().await {
        let message = message.map_err(query_error);
        let failed = message.is_err();
        if sender.send(message).await.is_err() || failed {
            break;
        }
    }
    drop(view);
}

fn query_error(error: FlightError) -> QueryError {
    match error {
        FlightError::ExternalError(inner) => match inner.downcast::<QueryError>() {
            Ok(error) => *error,
            Err(other) => QueryError::Internal(other.to_string()),
        },
        other => QueryError::Internal(format!("encoding the answer: {other}")),
    }
}

/// The rows in wire types, small batches put together, large ones cut.
fn pieces(
    rows: SendableRecordBatchStream,
    wire: SchemaRef,
) -> impl Stream<Item = Result<RecordBatch, QueryError>> {
    let shaper = Shaper {
        rows,
        wire,
        held: Vec::new(),
        held_rows: 0,
        held_bytes: 0,
        ready: VecDeque::new(),
    };
    stream::unfold(Some(shaper), |shaper| async move {
        let mut shaper = shaper?;
        match shaper.next().await {
            Ok(Some(batch)) => Some((Ok(batch), Some(shaper))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    })
}

struct Shaper {
    rows: SendableRecordBatchStream,
    wire: SchemaRef,
    held: Vec<RecordBatch>,
    held_rows: usize,
    held_bytes: usize,
    ready: VecDeque<RecordBatch>,
}

impl Shaper {
    async fn next(&mut self) -> Result<Option<RecordBatch>, QueryError> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                return Ok(Some(batch));
            }
            match self.rows.next().await {
                Some(batch) => self.take(&batch?)?,
                None if self.held.is_empty() => return Ok(None),
                None => self.release()?,
            }
        }
    }

    fn take(&mut self, batch: &RecordBatch) -> Result<(), QueryError> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let batch = wire::batch(batch, &self.wire).map_err(data_error)?;
        self.held_rows += batch.num_rows();
        self.held_bytes += wire::bytes(&batch);
        self.held.push(batch);
        if self.held_rows >= ROWS_TOGETHER || self.held_bytes >= MESSAGE_BYTES {
            self.release()?;
        }
        Ok(())
    }

    fn release(&mut self) -> Result<(), QueryError> {
        let together = match self.held.as_slice() {
            [only] => only.clone(),
            several => concat_batches(&self.wire, several).map_err(data_error)?,
        };
        self.held.clear();
        (self.held_rows, self.held_bytes) = (0, 0);
        let mut cut = Vec::new();
        wire::split(together, MESSAGE_BYTES, &mut cut);
        let largest = cut.iter().map(wire::bytes).max().unwrap_or(0);
        if largest > ROW_BYTES_MAX {
            return Err(QueryError::RowTooLarge { bytes: largest, max: ROW_BYTES_MAX });
        }
        self.ready.extend(cut);
        Ok(())
    }
}

fn data_error(error: arrow::error::ArrowError) -> QueryError {
    QueryError::Data(error.to_string())
}
