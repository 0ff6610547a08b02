//! Discards: a small table of the records that somebody took out of quarantine for good, and why.
//!
//! One table for the project, written by the running loop at a request. A discard that is asked for
//! again changes nothing.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arrow::{
    array::{
        AsArray as _, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
    },
    datatypes::{DataType, Field, Int32Type, Int64Type, Schema, SchemaRef, TimeUnit},
    error::ArrowError,
};
use tokio::sync::oneshot;

use crate::{
    domain::{Partition, Place, Positions, TableName},
    lake::{
        Committed, Lake, LakeError, Move, Overlay, RelationInfo, RelationKind, Table, TableSpec,
        TableState,
    },
    process::{Error, offset_table::SealError, pipeline::Pipeline},
};

/// Fingerprint of the table. Persisted: raised with its schema.
const FORM: &str = "discarded-1";
/// Counts the commits of the table. Persisted: must stay stable.
const COUNTER: &str = "sluice/discards";
/// A discard waits so long for the loop.
const PATIENCE: Duration = Duration::from_secs(30);

/// The table of what was discarded.
pub fn discarded() -> TableName {
    TableName::new("_discarded", "records")
}

/// Where discards are asked for, and the loop finds them.
#[derive(Debug, Default)]
pub struct Discards(Mutex<Vec<Request>>);

#[derive(Debug)]
struct Request {
    stream: String,
    places: Vec<Place>,
    reason: String,
    answer: oneshot::Sender<u64>,
}

impl Discards {
    /// Has records discarded. Returns how many were not before; `None`: the loop did not say.
    pub(super) async fn ask(&self, stream: &str, places: Vec<Place>, reason: &str) -> Option<u64> {
        let (answer, answered) = oneshot::channel();
        let (stream, reason) = (stream.to_owned(), reason.to_owned());
        self.requests().push(Request { stream, places, reason, answer });
        tokio::time::timeout(PATIENCE, answered).await.ok()?.ok()
    }

    fn requests(&self) -> std::sync::MutexGuard<'_, Vec<Request>> {
        // A poisoned lock only means that somebody panicked beside a push.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was asked for since, by those who still wait.
    fn take(&self) -> Vec<Request> {
        let mut requests = std::mem::take(&mut *self.requests());
        requests.retain(|request| !request.answer.is_closed());
        requests
    }
}

/// The columns of the table. Persisted: must stay stable.
fn schema() -> SchemaRef {
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let columns = [
        ("stream", DataType::Utf8),
        ("_partition", DataType::Int32),
        ("_offset", DataType::Int64),
        ("_index", DataType::Int32),
        ("reason", DataType::Utf8),
        ("discarded_at", time),
    ];
    let fields = columns.map(|(name, data_type)| Field::new(name, data_type, true));
    Arc::new(Schema::new(fields.to_vec()))
}

fn rows(
    stream: &str,
    places: &[Place],
    reason: &str,
    now_us: i64,
) -> Result<RecordBatch, ArrowError> {
    let n = places.len();
    let partitions = places.iter().map(|p| i32::try_from(p.partition).unwrap_or(i32::MAX));
    let times = TimestampMicrosecondArray::from_value(now_us, n).with_timezone("UTC");
    let text = |value| StringArray::from_iter_values(std::iter::repeat_n(value, n));
    RecordBatch::try_new(
        schema(),
        vec![
            Arc::new(text(stream)),
            Arc::new(Int32Array::from_iter_values(partitions)),
            Arc::new(Int64Array::from_iter_values(places.iter().map(|p| p.offset))),
            Arc::new(Int32Array::from_iter_values(places.iter().map(|p| p.index))),
            Arc::new(text(reason)),
            Arc::new(times),
        ],
    )
}

/// The table, and what it holds.
pub(in crate::process) struct DiscardTable {
    pub table: Table,
    committed: Committed,
    known: BTreeSet<(String, Place)>,
}

impl DiscardTable {
    pub(in crate::process) async fn open(lake: &Lake) -> Result<Self, LakeError> {
        let spec = TableSpec {
            name: discarded(),
            schema: schema(),
            fingerprint: FORM.to_owned(),
            description: "Records that were discarded from quarantine, and why".to_owned(),
        };
        let table = lake.open(&spec, [COUNTER.to_owned()]).await?;
        table.check_fingerprint()?;
        let committed = table.committed().await?;
        let known = known(&table).await?;
        Ok(Self { table, committed, known })
    }

    /// Takes over what other processors discarded.
    pub(in crate::process) async fn follow(&mut self) -> Result<bool, SealError> {
        let moved = self.table.follow().await?;
        if moved {
            self.committed = self.table.committed().await?;
            self.known = known(&self.table).await?;
        }
        Ok(moved)
    }

    /// Commits what was not discarded before. Returns how many records that are.
    async fn add(
        &mut self,
        stream: &str,
        places: Vec<Place>,
        reason: &str,
        now_us: i64,
    ) -> Result<u64, Error> {
        let is_new = |place: &Place| !self.known.contains(&(stream.to_owned(), *place));
        let fresh: BTreeSet<Place> = places.into_iter().filter(is_new).collect();
        let fresh: Vec<Place> = fresh.into_iter().collect();
        if fresh.is_empty() {
            return Ok(0);
        }
        let from = self.table.position(COUNTER);
        let counted = Move { app_id: COUNTER.to_owned(), from, to: from.unwrap_or(0) + 1 };
        let rows = rows(stream, &fresh, reason, now_us)?;
        self.table.append(&[rows], vec![counted]).await.map_err(SealError::from)?;
        self.committed = self.table.committed().await?;
        let count = fresh.len() as u64;
        self.known.extend(fresh.into_iter().map(|place| (stream.to_owned(), place)));
        Ok(count)
    }

    pub(in crate::process) fn committed(&self) -> &Committed {
        &self.committed
    }

    /// The table as queries see it.
    pub(in crate::process) fn state(&self) -> TableState {
        TableState {
            info: Arc::new(RelationInfo {
                name: discarded(),
                kind: RelationKind::Internal,
                description: String::new(),
                columns: Default::default(),
            }),
            schema: schema(),
            committed: Some(self.committed.clone()),
            overlay: Overlay::None,
            streams: Vec::new(),
            positions: Positions::default(),
        }
    }
}

/// The records that the table names.
async fn known(table: &Table) -> Result<BTreeSet<(String, Place)>, LakeError> {
    let mut known = BTreeSet::new();
    for rows in table.all_rows().await? {
        let streams = rows.column(0).as_string::<i32>();
        let partitions = rows.column(1).as_primitive::<Int32Type>();
        let offsets = rows.column(2).as_primitive::<Int64Type>();
        let indexes = rows.column(3).as_primitive::<Int32Type>();
        known.extend((0..rows.num_rows()).map(|row| {
            let partition = Partition::try_from(partitions.value(row)).unwrap_or_default();
            let (offset, index) = (offsets.value(row), indexes.value(row));
            (streams.value(row).to_owned(), Place { partition, offset, index })
        }));
    }
    Ok(known)
}

impl Pipeline {
    /// Discards what was asked for since, for all queries at once.
    pub(in crate::process) async fn take_discards(&mut self) -> Result<(), Error> {
        let asked = self.deps.discards.take();
        if asked.is_empty() {
            return Ok(());
        }
        if self.deps.membership.is_some() {
            self.discarded.follow().await?;
        }
        let mut done = Vec::new();
        for Request { stream, places, reason, answer } in asked {
            let now = self.deps.clock.now_us();
            done.push((answer, self.discarded.add(&stream, places, &reason, now).await?));
        }
        self.swap();
        for (answer, count) in done {
            // Who gave up asks again, which changes nothing.
            answer.send(count).ok();
        }
        if let Err(error) = self.discarded.table.checkpoint_if_due().await {
            tracing::warn!(%error, "checkpoint not written");
        }
        Ok(())
    }
}
