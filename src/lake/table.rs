//! One Delta table: opening, writing with positions, reading what changed.

use std::sync::Arc;

use arrow::{array::RecordBatch, datatypes::SchemaRef};
use datafusion::{
    catalog::TableProvider, error::DataFusionError, execution::SendableRecordBatchStream,
};
use deltalake::{
    DeltaTable, DeltaTableBuilder, DeltaTableError,
    delta_datafusion::DeltaScanNext,
    kernel::{
        Action, Add, EagerSnapshot, StructType,
        engine::arrow_conversion::{TryIntoArrow as _, TryIntoKernel as _},
    },
    protocol::checkpoints,
    writer::DeltaWriter as _,
};
use futures::TryStreamExt as _;
use object_store::{ObjectStore, ObjectStoreExt as _, path::Path};
use url::Url;

use crate::{
    domain::{Durability, ErrorKind, TableName, chain},
    lake::{
        changes::conform,
        commit::{self, Commit, CommitError, Move, Recorded},
        damage, files,
        history::History,
        store::FsyncStore,
        upkeep::UPKEEP,
        view::Committed,
    },
    ops::{crash, folders},
};

/// Where the fingerprint stands in a table's configuration. Persisted: must stay stable.
const FINGERPRINT: &str = "sluice.fingerprint";
/// A checkpoint is written after so many commits.
const CHECKPOINT_EVERY: u64 = 50;

/// The folder (later: bucket) that all tables live in.
#[derive(Clone)]
pub struct Lake {
    root: Url,
    store: Arc<dyn ObjectStore>,
}

/// What a table should be.
#[derive(Debug, Clone)]
pub struct TableSpec {
    pub name: TableName,
    pub schema: SchemaRef,
    /// Digest of everything that decides the table's content.
    pub fingerprint: String,
    pub description: String,
}

#[derive(Debug, thiserror::Error)]
pub enum LakeError {
    #[error("lake folder {path:?} cannot be used: {reason}")]
    Folder { path: String, reason: String },
    #[error(
        "table {table} was built by another definition of its model (fingerprint {found}, now \
         {wanted})"
    )]
    Fingerprint { table: TableName, found: String, wanted: String },
    #[error("table {table}: {action}")]
    Table { table: TableName, action: &'static str, source: Box<DeltaTableError> },
    #[error("table {table}: its log cannot be read: {reason}")]
    Log { table: TableName, reason: String },
    #[error("file {path} of the lake")]
    Document { path: String, source: object_store::Error },
    #[error("version {asked} of table {table} is not kept: {kept}")]
    NotKept { table: TableName, asked: String, kept: String },
    #[error("table {table}: rows cannot be read: {reason}")]
    Read { table: TableName, reason: String },
}

impl LakeError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Folder { .. } | Self::Document { .. } => ErrorKind::Unavailable,
            Self::NotKept { .. } => ErrorKind::NotFound,
            Self::Fingerprint { .. }
            | Self::Table { .. }
            | Self::Log { .. }
            | Self::Read { .. } => ErrorKind::Data,
        }
    }

    /// The table that it is about.
    pub fn table(&self) -> Option<&TableName> {
        match self {
            Self::Folder { .. } | Self::Document { .. } => None,
            Self::Fingerprint { table, .. }
            | Self::Table { table, .. }
            | Self::Log { table, .. }
            | Self::NotKept { table, .. }
            | Self::Read { table, .. } => Some(table),
        }
    }
}

impl Lake {
    /// A lake in a local folder, which is created where it is missing.
    pub fn local(folder: &std::path::Path, durability: Durability) -> Result<Self, LakeError> {
        let store = Arc::new(FsyncStore::new(durability));
        folders::create(folder).map_err(|e| LakeError::Folder {
            path: folder.display().to_string(),
            reason: e.to_string(),
        })?;
        Self::with_store(folder, store)
    }

    /// The same over a given store rooted at `/`: for faults in tests.
    pub fn with_store(
        folder: &std::path::Path,
        store: Arc<dyn ObjectStore>,
    ) -> Result<Self, LakeError> {
        let error =
            |reason: String| LakeError::Folder { path: folder.display().to_string(), reason };
        std::fs::create_dir_all(folder).map_err(|e| error(e.to_string()))?;
        let folder = folder.canonicalize().map_err(|e| error(e.to_string()))?;
        let root = Url::from_directory_path(&folder)
            .map_err(|()| error("not an absolute path".to_owned()))?;
        Ok(Self { root, store })
    }

    /// Opens the table, or creates it empty. `app_ids` are the positions that the caller will read
    /// and move.
    pub async fn open(
        &self,
        spec: &TableSpec,
        app_ids: impl IntoIterator<Item = String>,
    ) -> Result<Table, LakeError> {
        let failed = |action| {
            let table = spec.name.clone();
            move |source| LakeError::Table { table, action, source: Box::new(source) }
        };
        let delta = self.locate(&spec.name)?;
        if !delta.verify_deltatable_existence().await.map_err(failed("look for its log"))? {
            create(&delta, spec).await.map_err(failed("create"))?;
        }
        let mut app_ids: Vec<String> = app_ids.into_iter().collect();
        app_ids.extend([PUBLISHED.to_owned(), UPKEEP.to_owned()]);
        let (delta, recorded) = match commit::load(&delta, app_ids.into_iter()).await {
            Ok(loaded) => loaded,
            Err(source) => return Err(damage::unloadable(&delta, &spec.name, source).await),
        };
        let last_checkpoint =
            last_checkpoint(&delta).await.map_err(failed("find its checkpoint"))?;
        let mut table = Table { spec: spec.clone(), delta, recorded, last_checkpoint };
        if table.check_fingerprint().is_err() {
            // Read as what it is; whoever writes checks first.
            table.spec.schema = table.stored_schema()?;
        }
        Ok(table)
    }
}

impl Lake {
    pub(super) fn root(&self) -> &Url {
        &self.root
    }

    pub(super) fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// The table of that name, whether it is there or not.
    pub(super) fn locate(&self, name: &TableName) -> Result<DeltaTable, LakeError> {
        let location = format!("{}/{}/", name.schema, name.name);
        let url = self
            .root
            .join(&location)
            .map_err(|e| LakeError::Folder { path: location, reason: e.to_string() })?;
        DeltaTableBuilder::from_url(url.clone())
            .map(|builder| builder.with_storage_backend(Arc::clone(&self.store), url))
            .and_then(DeltaTableBuilder::build)
            .map_err(|source| LakeError::Table {
                table: name.clone(),
                action: "locate",
                source: Box::new(source),
            })
    }

    /// Removes a table whose rows can be had again from elsewhere.
    pub async fn remove(&self, name: &TableName) -> Result<(), LakeError> {
        let error = |reason: String| LakeError::Folder { path: name.to_string(), reason };
        let root = self.root.to_file_path().map_err(|()| error("not a local lake".to_owned()))?;
        let folder = root.join(&name.schema).join(&name.name);
        tokio::fs::remove_dir_all(&folder).await.map_err(|e| error(e.to_string()))
    }
}

/// Why something could not be read. DataFusion names a file as its store does, whose root is that
/// of the file system: without the slash in front.
pub fn reason_of(error: &DataFusionError) -> String {
    const FILE: &str = "for file ";
    chain(error).replace(&format!("{FILE}/"), FILE).replace(FILE, &format!("{FILE}/"))
}

/// Counts the publications of a table whose rows are replaced, so that each moves a position.
/// Persisted: must stay stable.
pub(super) const PUBLISHED: &str = "sluice/published";

/// The version that the hint of the log names; a hint that cannot be read costs a checkpoint.
async fn last_checkpoint(delta: &DeltaTable) -> Result<Option<u64>, DeltaTableError> {
    let store = delta.log_store().object_store(None);
    let hint = match store.get(&Path::from("_delta_log/_last_checkpoint")).await {
        Ok(found) => found.bytes().await?,
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let hint: Option<serde_json::Value> = serde_json::from_slice(&hint).ok();
    Ok(hint.and_then(|hint| hint.get("version")?.as_u64()))
}

pub(super) async fn create(delta: &DeltaTable, spec: &TableSpec) -> Result<(), DeltaTableError> {
    let schema: StructType = spec.schema.as_ref().try_into_kernel()?;
    let created = delta
        .clone()
        .create()
        .with_columns(schema.fields().cloned())
        .with_table_name(spec.name.to_string())
        .with_comment(&spec.description)
        .with_raise_if_key_not_exists(false)
        .with_configuration([
            (FINGERPRINT.to_owned(), Some(spec.fingerprint.clone())),
            ("delta.enableExpiredLogCleanup".to_owned(), Some("false".to_owned())),
            ("delta.checkpointInterval".to_owned(), Some("1000000000".to_owned())),
        ])
        .await;
    match created {
        Ok(_) => Ok(()),
        // Another replica was faster; its table is loaded and compared like any other.
        Err(_) if delta.verify_deltatable_existence().await? => Ok(()),
        Err(error) => Err(error),
    }
}

/// An open table: a snapshot and the positions that it records.
pub struct Table {
    spec: TableSpec,
    delta: DeltaTable,
    recorded: Recorded,
    last_checkpoint: Option<u64>,
}

impl Table {
    pub fn name(&self) -> &TableName {
        &self.spec.name
    }

    pub fn schema(&self) -> &SchemaRef {
        &self.spec.schema
    }

    /// Names the table for ever, also across a rename; part of consumers' positions.
    pub fn id(&self) -> Result<String, LakeError> {
        Ok(self.snapshot()?.metadata().id().to_owned())
    }

    /// Delta version of the snapshot.
    pub fn version(&self) -> u64 {
        self.delta.version().unwrap_or_default()
    }

    /// The position recorded under `app_id`, of those named when the table was opened.
    pub fn position(&self, app_id: &str) -> Option<i64> {
        self.recorded.get(app_id).copied().flatten()
    }

    /// Reads more positions, of the newest snapshot.
    pub async fn also_read(&mut self, app_ids: Vec<String>) -> Result<(), CommitError> {
        for app_id in app_ids {
            self.recorded.entry(app_id).or_insert(None);
        }
        self.reload().await
    }

    /// Appends rows and moves positions in one commit.
    pub async fn append(
        &mut self,
        batches: &[RecordBatch],
        moves: Vec<Move>,
    ) -> Result<(), CommitError> {
        let actions = self.write(batches).await?.into_iter().map(Action::Add).collect();
        let commit = Commit { actions, moves, removes: false };
        commit::commit(&self.spec.name, &mut self.delta, &mut self.recorded, commit).await
    }

    /// Replaces all rows and moves positions in one commit, which only succeeds on the newest
    /// version.
    pub async fn replace(
        &mut self,
        batches: &[RecordBatch],
        moves: Vec<Move>,
    ) -> Result<(), CommitError> {
        let unknown = |source| CommitError::Unknown {
            table: self.spec.name.clone(),
            source: Box::new(source),
        };
        let removes = self.removals().await.map_err(unknown)?;
        let adds = self.write(batches).await?;
        let actions = removes.into_iter().chain(adds.into_iter().map(Action::Add)).collect();
        self.publish(actions, moves).await
    }

    /// Moves positions alone: the inputs moved without changing the rows.
    pub async fn advance(&mut self, moves: Vec<Move>) -> Result<(), CommitError> {
        self.publish(Vec::new(), moves).await
    }

    pub(super) async fn publish(
        &mut self,
        actions: Vec<Action>,
        mut moves: Vec<Move>,
    ) -> Result<(), CommitError> {
        let from = self.position(PUBLISHED);
        moves.push(Move { app_id: PUBLISHED.into(), from, to: from.unwrap_or(0) + 1 });
        let commit = Commit { actions, moves, removes: true };
        commit::commit(&self.spec.name, &mut self.delta, &mut self.recorded, commit).await
    }

    /// Whether the table was ever published.
    pub fn is_published(&self) -> bool {
        self.position(PUBLISHED).is_some()
    }

    /// Loads the newest snapshot and its positions.
    pub async fn reload(&mut self) -> Result<(), CommitError> {
        commit::reload(&self.spec.name, &mut self.delta, &mut self.recorded).await
    }

    /// Writes a checkpoint when enough commits came since the last; never part of a commit.
    pub async fn checkpoint_if_due(&mut self) -> Result<bool, LakeError> {
        let version = self.version();
        if version < self.last_checkpoint.unwrap_or_default() + CHECKPOINT_EVERY {
            return Ok(false);
        }
        let done = checkpoints::create_checkpoint(&self.delta, None).await;
        done.map_err(|e| self.failed("write a checkpoint")(e))?;
        crash::point("lake.checkpointed");
        self.last_checkpoint = Some(version);
        Ok(true)
    }

    /// The version of the last checkpoint.
    pub fn last_checkpoint(&self) -> Option<u64> {
        self.last_checkpoint
    }

    /// The snapshot as the lake view shows it.
    pub async fn committed(&self) -> Result<Committed, LakeError> {
        let snapshot = self.snapshot()?.clone();
        let (mut rows, mut files, mut bytes) = (0, 0, 0);
        let log_store = self.delta.log_store();
        let mut views = snapshot.file_views(log_store.as_ref(), None);
        while let Some(file) = views.try_next().await.map_err(self.failed("list its files"))? {
            rows += file.num_records().unwrap_or_default() as u64;
            bytes += u64::try_from(file.size()).unwrap_or_default();
            files += 1;
        }
        drop(views);
        let provider = self.scan(Arc::new(snapshot), None).await?;
        let history = Some(History::new(self.spec.name.clone(), log_store));
        Ok(Committed { version: self.version(), provider, history, rows, files, bytes })
    }

    /// Reads the table at `version`, or of it only the files named.
    pub(super) async fn scan(
        &self,
        snapshot: Arc<EagerSnapshot>,
        files: Option<Vec<String>>,
    ) -> Result<Arc<dyn TableProvider>, LakeError> {
        let mut builder = DeltaScanNext::builder()
            .with_eager_snapshot(snapshot)
            .with_log_store(self.delta.log_store());
        if let Some(files) = files {
            builder = builder.with_file_paths(files);
        }
        let scan = builder.build().await;
        Ok(Arc::new(scan.map_err(self.unread())?))
    }

    pub(super) fn snapshot(&self) -> Result<&EagerSnapshot, LakeError> {
        self.delta.snapshot().map(|state| state.snapshot()).map_err(self.failed("load"))
    }

    /// The snapshot of an older version.
    pub(super) async fn snapshot_at(&self, version: u64) -> Result<EagerSnapshot, LakeError> {
        let log_store = self.delta.log_store();
        let snapshot = EagerSnapshot::try_new(log_store.as_ref(), Some(version)).await;
        snapshot.map_err(self.failed("load an older version"))
    }

    /// Paths of the files of a snapshot.
    pub(super) async fn files(&self, snapshot: &EagerSnapshot) -> Result<Vec<String>, LakeError> {
        let log_store = self.delta.log_store();
        let views = snapshot.file_views(log_store.as_ref(), None);
        let paths = views.map_ok(|file| file.path().into_owned()).try_collect().await;
        paths.map_err(self.failed("list its files"))
    }

    pub(super) fn failed(
        &self,
        action: &'static str,
    ) -> impl Fn(DeltaTableError) -> LakeError + use<> {
        let table = self.spec.name.clone();
        move |source| LakeError::Table { table: table.clone(), action, source: Box::new(source) }
    }

    /// The error of a read of rows.
    pub fn unread(&self) -> impl Fn(DataFusionError) -> LakeError + use<> {
        let table = self.spec.name.clone();
        move |error| LakeError::Read { table: table.clone(), reason: reason_of(&error) }
    }

    pub(super) async fn removals(&self) -> Result<Vec<Action>, DeltaTableError> {
        let log_store = self.delta.log_store();
        let views = self.delta.snapshot()?.snapshot().file_views(log_store.as_ref(), None);
        views.map_ok(|file| Action::Remove(file.remove_action(true))).try_collect().await
    }

    /// The same table for somebody who only reads it.
    pub(super) fn reader(&self) -> Self {
        let (spec, delta) = (self.spec.clone(), self.delta.clone());
        let recorded = self.recorded.clone();
        Self { spec, delta, recorded, last_checkpoint: self.last_checkpoint }
    }

    /// What a commit needs.
    pub(super) fn parts(&mut self) -> (&TableName, &mut DeltaTable, &mut Recorded) {
        (&self.spec.name, &mut self.delta, &mut self.recorded)
    }

    /// Writes rows into files that no commit names yet.
    pub(super) async fn write_stream(
        &self,
        mut rows: SendableRecordBatchStream,
    ) -> Result<Vec<Add>, LakeError> {
        let failed = self.failed("write files");
        let read = self.unread();
        let mut writer = files::writer(&self.delta).map_err(&failed)?;
        while let Some(batch) = rows.try_next().await.map_err(&read)? {
            let batch = conform(&batch, &self.spec.schema).map_err(|e| read(e.into()))?;
            writer.write(batch).await.map_err(&failed)?;
        }
        writer.flush().await.map_err(&failed)
    }

    async fn write(&self, batches: &[RecordBatch]) -> Result<Vec<Add>, CommitError> {
        let failed =
            |source| CommitError::Write { table: self.spec.name.clone(), source: Box::new(source) };
        let mut writer = files::writer(&self.delta).map_err(failed)?;
        let mut any = false;
        for batch in batches.iter().filter(|batch| batch.num_rows() > 0) {
            writer.write(batch.clone()).await.map_err(failed)?;
            any = true;
        }
        if any { writer.flush().await.map_err(failed) } else { Ok(Vec::new()) }
    }

    /// The definition that built the table.
    pub fn fingerprint(&self) -> Result<String, LakeError> {
        let configuration = self.snapshot()?.metadata().configuration();
        Ok(configuration.get(FINGERPRINT).cloned().unwrap_or_default())
    }

    pub(super) fn delta(&self) -> &DeltaTable {
        &self.delta
    }

    /// Whether the table was built by the definition that it was opened with; only then may it be
    /// written.
    pub fn check_fingerprint(&self) -> Result<(), LakeError> {
        let found = self.fingerprint()?;
        if found == self.spec.fingerprint {
            return Ok(());
        }
        let (table, wanted) = (self.spec.name.clone(), self.spec.fingerprint.clone());
        Err(LakeError::Fingerprint { table, found, wanted })
    }

    fn stored_schema(&self) -> Result<SchemaRef, LakeError> {
        let kernel = self.snapshot()?.schema();
        let arrow: arrow::datatypes::Schema = kernel
            .as_ref()
            .try_into_arrow()
            .map_err(|e| self.failed("read its schema")(e.into()))?;
        Ok(Arc::new(arrow))
    }
}
