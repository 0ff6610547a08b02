//! The commit protocol: the only way anything is written into a table's log.
//!
//! 1. Positions are read from the snapshot that the commit is built on and must be what the writer
//!    expects. Delta refuses a concurrent commit with the same application id, but never compares
//!    values: a writer with a fresh snapshot that replays old rows would succeed.
//! 2. Every error means "unknown". The table is loaded again and its positions decide: moved as we
//!    meant to, the commit landed; unmoved, it is tried again; anything else, somebody else wrote.
//! 3. No checkpoint and no clean-up inside a commit: their failure would look like the commit's.
//! 4. A commit that removes files never retries over a newer version (compare-and-swap): delta's
//!    conflict check would let a stale removal stand beside the rows that replaced them.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use deltalake::{
    DeltaTable, DeltaTableError,
    kernel::{
        Action, Transaction,
        transaction::{CommitBuilder, CommitProperties},
    },
    protocol::{DeltaOperation, SaveMode},
};
use futures::TryStreamExt as _;
use rand::Rng as _;

use crate::{
    domain::{ErrorKind, TableName, chain},
    lake::{LakeError, follow::take_over},
    ops::crash,
};

/// Attempts before a commit is given up with its outcome known to be "not landed".
const ATTEMPTS: u32 = 8;
const BACK_OFF_MS: u64 = 20;
/// Retries inside delta-rs for appends: disjoint writers of one table only race for the version.
const APPEND_RETRIES: usize = 200;

/// One recorded position of a table, and how a commit moves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// `{log id}/{stream}/{partition}`, `in/…`, see the design of positions.
    pub app_id: String,
    /// What the writer believes the table holds.
    pub from: Option<i64>,
    pub to: i64,
}

/// Why a commit did not happen.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    #[error(
        "{table}: position {app_id} is at {found:?}, expected {expected:?}: another writer moved it"
    )]
    Moved { table: TableName, app_id: String, expected: Option<i64>, found: Option<i64> },
    #[error("{table}: version {base} is no longer the newest, version {head} is")]
    Outdated { table: TableName, base: u64, head: u64 },
    #[error("{table}: a commit moves no position, so its outcome could not be told")]
    NoMove { table: TableName },
    #[error("{table}: files could not be written, nothing was committed")]
    Write { table: TableName, source: Box<DeltaTableError> },
    #[error("{table}: the table could not be read again, the outcome of a commit is unknown")]
    Unknown { table: TableName, source: Box<DeltaTableError> },
    #[error("the table could not be read before a commit")]
    Unreadable(#[source] Box<LakeError>),
    #[error("{table}: not committed after {attempts} attempts")]
    Exhausted { table: TableName, attempts: u32, source: Box<DeltaTableError> },
}

impl CommitError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Moved { .. } | Self::Outdated { .. } | Self::Unknown { .. } => {
                ErrorKind::Conflict
            }
            Self::NoMove { .. } => ErrorKind::Internal,
            Self::Unreadable(error) => error.kind(),
            Self::Write { .. } | Self::Exhausted { .. } => ErrorKind::Unavailable,
        }
    }
}

/// The recorded positions of one snapshot.
pub(super) type Recorded = BTreeMap<String, Option<i64>>;

/// What a commit does.
pub(super) struct Commit {
    pub actions: Vec<Action>,
    pub moves: Vec<Move>,
    /// Whether files are removed: compare-and-swap.
    pub removes: bool,
}

/// Commits on the snapshot that `delta` holds, whose positions are `recorded`; both are those of
/// the new version afterwards.
pub(super) async fn commit(
    name: &TableName,
    delta: &mut DeltaTable,
    recorded: &mut Recorded,
    commit: Commit,
) -> Result<(), CommitError> {
    if commit.moves.iter().all(|step| step.from == Some(step.to)) {
        return Err(CommitError::NoMove { table: name.clone() });
    }
    let mut attempts = 0;
    crash::point(format_args!("{}.written", name.schema));
    loop {
        expect_positions(name, recorded, &commit.moves)?;
        let base = delta.version().unwrap_or_default();
        let error = match attempt(delta, &commit).await {
            Ok(()) => {
                crash::point(format_args!("{}.committed", name.schema));
                for step in &commit.moves {
                    recorded.insert(step.app_id.clone(), Some(step.to));
                }
                return follow_others(name, delta, recorded, base).await;
            }
            Err(error) => error,
        };
        attempts += 1;
        let reason = chain(&error);
        tracing::warn!(table = %name, error = reason, "commit outcome unknown, reading the table again");
        reload(name, delta, recorded).await?;
        if landed(name, delta, recorded, &commit).await? {
            return Ok(());
        }
        let head = delta.version().unwrap_or_default();
        if commit.removes && head != base {
            expect_positions(name, recorded, &commit.moves)?;
            return Err(CommitError::Outdated { table: name.clone(), base, head });
        }
        if attempts >= ATTEMPTS {
            let source = Box::new(error);
            return Err(CommitError::Exhausted { table: name.clone(), attempts, source });
        }
        back_off(attempts).await;
    }
}

/// Takes over the positions that others committed between `base` and the commit just made: the
/// snapshot holds their rows.
async fn follow_others(
    name: &TableName,
    delta: &DeltaTable,
    recorded: &mut Recorded,
    base: u64,
) -> Result<(), CommitError> {
    let ours = delta.version().unwrap_or_default();
    let others = base + 1..=ours.saturating_sub(1);
    let followed = take_over(delta, recorded, others).await;
    followed.map_err(|source| CommitError::Unknown { table: name.clone(), source: source.into() })
}

/// Whether the snapshot just read holds this very commit: its positions and its files, since
/// another writer may have moved the same positions with rows of its own. A file that was compacted
/// since is taken for one that never came, which only costs a start from the tables.
async fn landed(
    name: &TableName,
    delta: &DeltaTable,
    recorded: &Recorded,
    commit: &Commit,
) -> Result<bool, CommitError> {
    if commit.moves.iter().any(|step| recorded.get(&step.app_id) != Some(&Some(step.to))) {
        return Ok(false);
    }
    let added = commit.actions.iter().find_map(|action| match action {
        Action::Add(add) => Some(add.path.as_str()),
        _ => None,
    });
    let Some(added) = added else { return Ok(true) };
    let unknown = |source| CommitError::Unknown { table: name.clone(), source: Box::new(source) };
    let snapshot = delta.snapshot().map_err(unknown)?.snapshot();
    let log_store = delta.log_store();
    let mut files = snapshot.file_views(log_store.as_ref(), None);
    while let Some(file) = files.try_next().await.map_err(unknown)? {
        if file.path() == added {
            return Ok(true);
        }
    }
    Ok(false)
}

fn expect_positions(
    name: &TableName,
    recorded: &Recorded,
    moves: &[Move],
) -> Result<(), CommitError> {
    for step in moves {
        let found = recorded.get(&step.app_id).copied().flatten();
        if found != step.from {
            return Err(CommitError::Moved {
                table: name.clone(),
                app_id: step.app_id.clone(),
                expected: step.from,
                found,
            });
        }
    }
    Ok(())
}

async fn attempt(delta: &mut DeltaTable, commit: &Commit) -> Result<(), DeltaTableError> {
    let transactions = commit.moves.iter().map(|step| Transaction::new(&step.app_id, step.to));
    let properties = CommitProperties::default()
        .with_application_transactions(transactions.collect())
        .with_create_checkpoint(false)
        .with_cleanup_expired_logs(Some(false))
        .with_max_retries(if commit.removes { 0 } else { APPEND_RETRIES });
    let mode = if commit.removes { SaveMode::Overwrite } else { SaveMode::Append };
    let operation = DeltaOperation::Write { mode, partition_by: None, predicate: None };
    let log_store = delta.log_store();
    let snapshot = delta.snapshot()?.snapshot().clone();
    let finalized = CommitBuilder::from(properties)
        .with_actions(commit.actions.clone())
        .with_app_metadata(HashMap::from([(
            "sluiceVersion".to_owned(),
            env!("CARGO_PKG_VERSION").into(),
        )]))
        .build(Some(&snapshot), log_store, operation)
        .await?;
    delta.state = Some(finalized.snapshot());
    Ok(())
}

/// Loads the newest snapshot and its positions; both change together or not at all.
pub(super) async fn reload(
    name: &TableName,
    delta: &mut DeltaTable,
    recorded: &mut Recorded,
) -> Result<(), CommitError> {
    let mut attempts = 0;
    loop {
        let app_ids = recorded.keys().cloned();
        match load(delta, app_ids).await {
            Ok((fresh, positions)) => {
                (*delta, *recorded) = (fresh, positions);
                return Ok(());
            }
            Err(source) => {
                attempts += 1;
                if attempts >= ATTEMPTS {
                    let source = Box::new(source);
                    return Err(CommitError::Unknown { table: name.clone(), source });
                }
                back_off(attempts).await;
            }
        }
    }
}

/// The newest snapshot of a table with the positions that this very snapshot records.
pub(super) async fn load(
    delta: &DeltaTable,
    app_ids: impl Iterator<Item = String>,
) -> Result<(DeltaTable, Recorded), DeltaTableError> {
    let mut fresh = DeltaTable::new(delta.log_store());
    fresh.load().await?;
    let recorded = recorded_in(&fresh, app_ids).await?;
    Ok((fresh, recorded))
}

/// The positions that the snapshot of `delta` records.
pub(super) async fn recorded_in(
    delta: &DeltaTable,
    app_ids: impl Iterator<Item = String>,
) -> Result<Recorded, DeltaTableError> {
    let snapshot = delta.snapshot()?.snapshot();
    let log_store = delta.log_store();
    let mut recorded = Recorded::new();
    for app_id in app_ids {
        let version = snapshot.transaction_version(log_store.as_ref(), &app_id).await?;
        recorded.insert(app_id, version);
    }
    Ok(recorded)
}

async fn back_off(attempts: u32) {
    let ceiling = BACK_OFF_MS << attempts.min(8);
    let wait = rand::rng().random_range(ceiling / 2..=ceiling);
    tokio::time::sleep(Duration::from_millis(wait)).await;
}
