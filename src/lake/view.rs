//! What can be queried, at one instant: for every table its Delta snapshot and the rows on top.
//!
//! One [`LakeView`] for the whole lake, swapped as a whole: a query that holds one sees each row
//! exactly once, never a gap, and never two tables at different positions of the log (but for the
//! tables that are rebuilt less often, which carry their own). `process` makes new views, `serve`
//! reads them.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;
use arrow::{array::RecordBatch, datatypes::SchemaRef};
use datafusion::{catalog::TableProvider, logical_expr::ScalarUDF};
use tokio::sync::{Notify, watch};

use crate::{
    domain::{Partition, Positions, TableName},
    lake::{History, Patches},
};

/// Everything that can be queried, at one instant.
#[derive(Clone, Default)]
pub struct LakeView {
    pub tables: BTreeMap<TableName, Arc<TableState>>,
    pub views: BTreeMap<TableName, Arc<ViewState>>,
    /// Relations that views read in the place of tables; clients do not see them.
    pub derived: BTreeMap<TableName, Arc<dyn Derive>>,
    /// Functions that the views' SQL calls.
    pub functions: Vec<Arc<ScalarUDF>>,
    /// How far the tables that follow the log record by record reach.
    pub positions: Positions,
    /// The streams and how many partitions each has; empty until the lake is open.
    pub partitions: BTreeMap<String, Partition>,
    /// Tables that do not follow their inputs any more, and why.
    pub lagging: BTreeMap<TableName, String>,
}

/// A stored table: what is committed, and what came since.
#[derive(Clone)]
pub struct TableState {
    pub info: Arc<RelationInfo>,
    /// All columns as stored, hidden ones (`__…`) included.
    pub schema: SchemaRef,
    pub committed: Option<Committed>,
    pub overlay: Overlay,
    /// The streams that feed it, directly or through other tables.
    pub streams: Vec<String>,
    /// How far into these streams it reaches, overlay included.
    pub positions: Positions,
}

/// A table's snapshot in the lake.
#[derive(Clone)]
pub struct Committed {
    /// Delta version.
    pub version: u64,
    pub provider: Arc<dyn TableProvider>,
    /// The versions before it, of a table that keeps any.
    pub history: Option<History>,
    /// Rows and bytes of the snapshot's files, as their statistics say.
    pub rows: u64,
    pub files: u64,
    pub bytes: u64,
}

/// What a table holds beyond its snapshot.
#[derive(Clone, Default)]
pub enum Overlay {
    #[default]
    None,
    /// Rows that came since.
    Append(Vec<RecordBatch>),
    /// The whole content, newer than the snapshot.
    Replace(Vec<RecordBatch>),
    /// What became of some of its rows since.
    Patches(Patches),
}

/// A relation made of one stored table as it is read, by other means than SQL.
pub trait Derive: Send + Sync {
    /// The table that it is made of.
    fn table(&self) -> &TableName;

    /// The relation over all columns of that table.
    fn over(&self, table: Arc<dyn TableProvider>) -> Arc<dyn TableProvider>;
}

/// A query kept under a name; computed when read.
#[derive(Clone)]
pub struct ViewState {
    pub info: Arc<RelationInfo>,
    pub schema: SchemaRef,
    /// DataFusion SQL over the relations of the same [`LakeView`].
    pub sql: String,
    /// The stored tables that it reads, directly or through other views.
    pub reads: Vec<TableName>,
}

/// What a reader wants to know about a table or view.
#[derive(Debug, Clone)]
pub struct RelationInfo {
    pub name: TableName,
    pub kind: RelationKind,
    pub description: String,
    /// Column name → description.
    pub columns: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelationKind {
    Bronze,
    /// Internal to Sluice; not listed to clients.
    Internal,
    Quarantine,
    Seed,
    Model,
    System,
}

impl TableState {
    /// Bytes that the rows beyond the snapshot take in memory.
    pub fn overlay_bytes(&self) -> usize {
        match &self.overlay {
            Overlay::None => 0,
            Overlay::Patches(patches) => patches.bytes(),
            Overlay::Append(batches) | Overlay::Replace(batches) => {
                batches.iter().map(RecordBatch::get_array_memory_size).sum()
            }
        }
    }

    /// The columns that clients see.
    pub fn visible_schema(&self) -> SchemaRef {
        visible(&self.schema)
    }
}

/// Whether a column is internal to Sluice.
pub fn is_hidden(column: &str) -> bool {
    column.starts_with("__")
}

/// `schema` without the hidden columns.
pub fn visible(schema: &SchemaRef) -> SchemaRef {
    let kept: Vec<usize> =
        (0..schema.fields().len()).filter(|&i| !is_hidden(schema.field(i).name())).collect();
    schema.project(&kept).map_or_else(|_| Arc::clone(schema), Arc::new)
}

impl LakeView {
    /// Name, kind, description and visible columns of everything that clients may see.
    pub fn relations(&self) -> Vec<(Arc<RelationInfo>, SchemaRef)> {
        let tables = self.tables.values().map(|t| (Arc::clone(&t.info), t.visible_schema()));
        let views = self.views.values().map(|v| (Arc::clone(&v.info), Arc::clone(&v.schema)));
        let mut all: Vec<_> =
            tables.chain(views).filter(|(info, _)| info.kind != RelationKind::Internal).collect();
        all.sort_by(|a, b| a.0.name.cmp(&b.0.name));
        all
    }

    /// Whether clients may not see a relation.
    pub fn is_internal(&self, name: &TableName) -> bool {
        if self.derived.contains_key(name) {
            return true;
        }
        let table = self.tables.get(name).map(|table| table.info.kind);
        let kind = table.or_else(|| self.views.get(name).map(|view| view.info.kind));
        kind == Some(RelationKind::Internal)
    }

    /// The positions that a query over `names` sees: of every stream what all of the tables behind
    /// them that it feeds reach at least.
    pub fn positions_of(&self, names: &[TableName]) -> Positions {
        let stored = self.stored(names);
        let mut seen = Positions::default();
        for stream in self.streams_of(names) {
            let fed = stored.iter().filter(|table| table.streams.contains(&stream));
            let reached = fed.map(|table| table.positions.only(std::slice::from_ref(&stream)));
            seen.merge(&reached.reduce(|a, b| a.meet(&b)).unwrap_or_default());
        }
        seen
    }

    /// Which of the tables behind `names` do not follow their inputs, and why; of all tables where
    /// none are named.
    pub fn lagging_behind(&self, names: &[TableName]) -> Vec<(&TableName, &str)> {
        let stored: Vec<&TableName> =
            self.stored(names).iter().map(|table| &table.info.name).collect();
        let wanted = |name: &TableName| names.is_empty() || stored.contains(&name);
        let lagging = self.lagging.iter().filter(|(name, _)| wanted(name));
        lagging.map(|(name, reason)| (name, reason.as_str())).collect()
    }

    /// The streams that feed the relations `names`.
    pub fn streams_of(&self, names: &[TableName]) -> Vec<String> {
        let stored = self.stored(names);
        let mut streams: Vec<String> =
            stored.iter().flat_map(|table| table.streams.iter().cloned()).collect();
        streams.sort();
        streams.dedup();
        streams
    }

    /// The stored tables behind relations.
    fn stored(&self, names: &[TableName]) -> Vec<&TableState> {
        let mut stored: Vec<&TableName> = Vec::new();
        for name in names {
            match self.views.get(name) {
                Some(view) => stored.extend(&view.reads),
                None => stored.push(name),
            }
        }
        stored.into_iter().filter_map(|name| self.tables.get(name).map(Arc::as_ref)).collect()
    }
}

/// The current [`LakeView`], shared between the one that makes views and those that read them.
pub struct LakeHandle {
    view: ArcSwap<LakeView>,
    swapped: watch::Sender<u64>,
    settle_wanted: AtomicU64,
    settle_asked: Notify,
    settled: watch::Sender<u64>,
}

impl LakeHandle {
    pub fn new(view: LakeView) -> Arc<Self> {
        Arc::new(Self {
            view: ArcSwap::from_pointee(view),
            swapped: watch::Sender::new(0),
            settle_wanted: AtomicU64::new(0),
            settle_asked: Notify::new(),
            settled: watch::Sender::new(0),
        })
    }

    /// The view of this instant.
    pub fn load(&self) -> Arc<LakeView> {
        self.view.load_full()
    }

    /// Makes `view` the current one.
    pub fn swap(&self, view: LakeView) {
        self.view.store(Arc::new(view));
        self.swapped.send_modify(|generation| *generation += 1);
    }

    /// Waits for a view that satisfies `condition`. Cancel-safe; callers bound the time.
    pub async fn wait_until(&self, condition: impl Fn(&LakeView) -> bool) -> Arc<LakeView> {
        let mut swapped = self.swapped.subscribe();
        loop {
            swapped.borrow_and_update();
            let view = self.load();
            if condition(&view) || swapped.changed().await.is_err() {
                return view;
            }
        }
    }

    /// Waits until everything that is in the log now is in every table, also in those that are
    /// rebuilt less often (it triggers their run). Callers bound the time.
    pub async fn settle(&self) {
        let wanted = self.settle_wanted.fetch_add(1, Ordering::SeqCst) + 1;
        let mut settled = self.settled.subscribe();
        self.settle_asked.notify_one();
        // The sender lives in self, so waiting cannot fail.
        settled.wait_for(|reached| *reached >= wanted).await.ok();
    }

    /// For `process`: the highest settle request so far.
    pub fn settle_wanted(&self) -> u64 {
        self.settle_wanted.load(Ordering::SeqCst)
    }

    /// For `process`: returns when a settle request came.
    pub async fn settle_asked(&self) {
        self.settle_asked.notified().await;
    }

    /// For `process`: answers all settle requests up to `request`.
    pub fn mark_settled(&self, request: u64) {
        self.settled.send_if_modified(|settled| {
            let forward = request > *settled;
            *settled = (*settled).max(request);
            forward
        });
    }
}
