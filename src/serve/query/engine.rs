//! Plans and starts queries, within limits, on threads of their own.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use arrow::datatypes::SchemaRef;
use datafusion::{
    common::tree_node::TreeNodeRecursion,
    dataframe::DataFrame,
    execution::{
        context::SQLOptions,
        memory_pool::{FairSpillPool, TrackConsumersPool},
        runtime_env::{RuntimeEnv, RuntimeEnvBuilder},
    },
    logical_expr::LogicalPlan,
    prelude::SessionConfig,
};
use tokio::{
    runtime::Runtime,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout},
};

use crate::{
    domain::{TableName, sql_guard},
    lake::{
        LakeHandle, LakeView, Overlay, TableState,
        session::{Columns, session},
    },
    serve::{
        Error, QueryError, Settings,
        metrics::{self, Outcome},
        query::{
            After, FlightStream, Freshness, Options, after, past,
            run::{AbortOnDrop, Run},
            statement::{self, Parsed},
        },
        wire,
    },
};

/// Deep plans recurse; the guard keeps them shallow enough for this.
const STACK_BYTES: usize = 32 << 20;
/// Nodes of a plan with all its views and CTEs written out.
const PLAN_NODES_MAX: usize = 5_000;
/// Consumers of memory that an error message names.
const CONSUMERS_NAMED: std::num::NonZeroUsize = std::num::NonZeroUsize::MIN;

/// A statement with its plan, pinned to one view of the lake.
#[derive(Clone)]
pub(crate) struct Planned {
    pub(crate) sql: String,
    pub(crate) options: Options,
    pub(crate) view: Arc<LakeView>,
    /// As it goes over the wire.
    pub(crate) schema: SchemaRef,
    pub(crate) frame: DataFrame,
}

/// Everything that queries share.
pub(crate) struct Engine {
    pub(crate) settings: Settings,
    lake: Arc<LakeHandle>,
    memory: Arc<RuntimeEnv>,
    turns: Arc<Semaphore>,
    waiting: AtomicUsize,
    threads: Option<Runtime>,
}

/// An error that names the tables behind `names` that do not follow their inputs.
fn following(view: &LakeView, names: &[TableName]) -> Result<(), QueryError> {
    let lagging: Vec<String> = view
        .lagging_behind(names)
        .iter()
        .map(|(name, reason)| format!("{name} does not follow its inputs: {reason}"))
        .collect();
    if lagging.is_empty() { Ok(()) } else { Err(QueryError::NotFollowing(lagging.join("; "))) }
}

impl Engine {
    pub(crate) fn new(settings: Settings, lake: Arc<LakeHandle>) -> Result<Self, Error> {
        let pool = FairSpillPool::new(settings.memory_bytes_max);
        let memory = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(TrackConsumersPool::new(pool, CONSUMERS_NAMED)))
            .with_max_temp_directory_size(settings.spill_bytes_max)
            .build_arc()
            .map_err(Error::Limits)?;
        let mut threads = tokio::runtime::Builder::new_multi_thread();
        threads.enable_all().thread_name("sluice-query").thread_stack_size(STACK_BYTES);
        if settings.threads > 0 {
            threads.worker_threads(settings.threads);
        }
        Ok(Self {
            turns: Arc::new(Semaphore::new(settings.queries_max)),
            waiting: AtomicUsize::new(0),
            threads: Some(threads.build().map_err(Error::Threads)?),
            settings,
            lake,
            memory,
        })
    }

    /// The view of this instant.
    pub(crate) fn view(&self) -> Arc<LakeView> {
        self.lake.load()
    }

    /// Checks and plans a statement, after waiting for what its options ask for.
    pub(crate) async fn plan(
        self: &Arc<Self>,
        sql: &str,
        options: &Options,
        deadline: Option<Duration>,
    ) -> Result<Planned, QueryError> {
        sql_guard::check(sql, self.settings.sql_bytes_max)?;
        let text = sql.to_owned();
        let parsed = self.on_threads(async move { statement::parse(&text) }).await?;
        let view = self.pin(&parsed.names, options, deadline).await?;
        let view = past::with_versions(view, &parsed.past).await?;
        let (sql, options, memory) = (sql.to_owned(), options.clone(), Arc::clone(&self.memory));
        self.on_threads(Box::pin(planned(sql, options, parsed, view, memory))).await
    }

    /// Whether a plan would come out the same if it were made now.
    pub(crate) fn is_current(&self, planned: &Planned, options: &Options) -> bool {
        planned.options == *options
            && options.after == After::Nothing
            && options.freshness == Freshness::Hot
            && Arc::ptr_eq(&planned.view, &self.lake.load())
    }

    /// Starts a planned query as soon as it is its turn.
    pub(crate) async fn start(
        self: &Arc<Self>,
        planned: Planned,
        deadline: Option<Duration>,
    ) -> Result<FlightStream, QueryError> {
        let most = Duration::from_millis(self.settings.query_ms_max);
        let allowed = deadline.map_or(most, |asked| asked.min(most));
        let until = Instant::now() + allowed;
        let turn = self.turn().await?;
        let Some(threads) = &self.threads else { return Err(stopped()) };
        Ok(FlightStream::start(threads.handle(), Run { planned, turn, until, allowed }))
    }

    async fn turn(&self) -> Result<OwnedSemaphorePermit, QueryError> {
        if let Ok(free) = Arc::clone(&self.turns).try_acquire_owned() {
            return Ok(free);
        }
        let asked = Instant::now();
        let busy = |waiting| {
            metrics::query_ended(Outcome::Refused, asked.elapsed(), 0);
            QueryError::Busy { running: self.settings.queries_max, waiting }
        };
        let place = Place::take(&self.waiting);
        if place.ahead >= self.settings.queued_max {
            return Err(busy(place.ahead));
        }
        let patience = Duration::from_millis(self.settings.queue_ms_max);
        match timeout(patience, Arc::clone(&self.turns).acquire_owned()).await {
            Ok(Ok(turn)) => Ok(turn),
            Ok(Err(_)) => Err(stopped()),
            Err(_) => Err(busy(place.ahead)),
        }
    }

    /// The view to answer from.
    async fn pin(
        &self,
        names: &[TableName],
        options: &Options,
        deadline: Option<Duration>,
    ) -> Result<Arc<LakeView>, QueryError> {
        let patience =
            deadline.unwrap_or_else(|| Duration::from_millis(self.settings.after_ms_max));
        let behind = |wanted: &str| QueryError::Behind {
            wanted: wanted.to_owned(),
            reached: after::standing(&self.lake.load(), names),
            waited_ms: u64::try_from(patience.as_millis()).unwrap_or(u64::MAX),
        };
        let view = match &options.after {
            After::Nothing => self.lake.load(),
            After::All => {
                let settled = timeout(patience, self.lake.settle()).await;
                settled.map_err(|_| behind("the end of the log"))?;
                let view = self.lake.load();
                following(&view, names)?;
                view
            }
            After::Positions(wanted) => {
                after::check(&self.lake.load(), wanted)?;
                let reached = |view: &LakeView| after::reached(view, names, wanted);
                let waited = timeout(patience, self.lake.wait_until(reached)).await;
                waited.map_err(|_| behind(&wanted.to_string()))?
            }
        };
        Ok(match options.freshness {
            Freshness::Hot => view,
            Freshness::Committed => Arc::new(committed(&view)),
        })
    }

    /// Runs `work` on the threads for queries; dropping the result stops it.
    async fn on_threads<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, QueryError>> + Send + 'static,
    ) -> Result<T, QueryError> {
        let Some(threads) = &self.threads else { return Err(stopped()) };
        let limit_ms = self.settings.query_ms_max;
        let task = AbortOnDrop(threads.spawn(work));
        match timeout(Duration::from_millis(limit_ms), task).await {
            Ok(Ok(result)) => result,
            Ok(Err(join)) => Err(QueryError::Internal(format!("planning ended early: {join}"))),
            Err(_) => Err(QueryError::Timeout { limit_ms }),
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // A runtime must not be dropped where blocking is not allowed.
        if let Some(threads) = self.threads.take() {
            threads.shutdown_background();
        }
    }
}

/// A place in the queue.
struct Place<'a> {
    waiting: &'a AtomicUsize,
    ahead: usize,
}

impl<'a> Place<'a> {
    fn take(waiting: &'a AtomicUsize) -> Self {
        Self { waiting, ahead: waiting.fetch_add(1, Ordering::SeqCst) }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

fn stopped() -> QueryError {
    QueryError::Busy { running: 0, waiting: 0 }
}

/// The same view without the rows that are not committed.
fn committed(view: &LakeView) -> LakeView {
    let tables = view.tables.iter().map(|(name, table)| {
        let table = TableState { overlay: Overlay::None, ..TableState::clone(table) };
        (name.clone(), Arc::new(table))
    });
    LakeView { tables: tables.collect(), ..view.clone() }
}

async fn planned(
    sql: String,
    options: Options,
    parsed: Parsed,
    view: Arc<LakeView>,
    memory: Arc<RuntimeEnv>,
) -> Result<Planned, QueryError> {
    let context = session(&view, Columns::Visible, config(), memory);
    let state = context.state();
    parsed.check_names(
        |name| state.table_functions().contains_key(name),
        || view.tables.keys().chain(view.views.keys()).collect(),
        |name| view.tables.contains_key(name) || view.views.contains_key(name),
    )?;
    let plan = state.statement_to_plan(parsed.statement).await?;
    let reads_only =
        SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
    reads_only.verify_plan(&plan).map_err(|error| statement::read_only(&error))?;
    check_size(&plan)?;
    let schema = wire::schema(plan.schema().as_arrow());
    let frame = DataFrame::new(state, plan);
    Ok(Planned { sql, options, view, schema, frame })
}

fn config() -> SessionConfig {
    let mut config = SessionConfig::new().with_information_schema(true);
    // Views of text would only be cast back at the border.
    config.options_mut().sql_parser.map_string_types_to_utf8view = false;
    config
}

/// Refuses plans that grow out of hand by naming the same CTE or view again and again.
fn check_size(plan: &LogicalPlan) -> Result<(), QueryError> {
    let mut nodes = 0_usize;
    plan.apply_with_subqueries(|_| {
        nodes += 1;
        Ok(if nodes > PLAN_NODES_MAX {
            TreeNodeRecursion::Stop
        } else {
            TreeNodeRecursion::Continue
        })
    })?;
    if nodes > PLAN_NODES_MAX {
        let message = format!("sql expands to more than {PLAN_NODES_MAX} steps: simplify it");
        return Err(QueryError::Sql(message));
    }
    Ok(())
}
