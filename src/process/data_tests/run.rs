//! One data test over one view.

use std::sync::Arc;

use arrow::{
    array::{Array as _, AsArray as _, RecordBatch},
    compute::cast,
    datatypes::{DataType, Int64Type},
};
use datafusion::{
    error::DataFusionError,
    execution::{
        memory_pool::FairSpillPool,
        runtime_env::{RuntimeEnv, RuntimeEnvBuilder},
    },
    prelude::SessionConfig,
};
use tokio::time::Instant;

use crate::{
    domain::tested::{Ran, Status},
    lake::{
        LakeView, reason_of,
        session::{Columns, session},
    },
    models::TestPlan,
    ops::Clock,
    process::data_tests::{Settings, about_to_run, weighed},
};

/// Runs data tests.
#[derive(Clone)]
pub struct Runner {
    pub(in crate::process) memory: Arc<RuntimeEnv>,
    pub(super) clock: Clock,
    /// Cores that a test may use; 0: all.
    cores: usize,
}

impl Runner {
    /// An error if there is no folder for what does not fit into memory.
    pub fn new(settings: &Settings, clock: Clock, cores: usize) -> Result<Self, DataFusionError> {
        let pool = Arc::new(FairSpillPool::new(settings.memory_bytes_max));
        let memory = RuntimeEnvBuilder::new().with_memory_pool(pool).build_arc()?;
        Ok(Self { memory, clock, cores })
    }

    pub(in crate::process) fn config(&self) -> SessionConfig {
        let config = SessionConfig::new();
        if self.cores == 0 { config } else { config.with_target_partitions(self.cores) }
    }
}

/// Runs a test over `view`.
pub(super) async fn run(runner: &Runner, view: &Arc<LakeView>, plan: &TestPlan) -> Ran {
    let started = Instant::now();
    let mut ran = about_to_run(plan, runner.clock.now_us());
    match verdict(runner, view, plan).await {
        Ok(Verdict { failures, warns, errs }) => {
            ran.status = weighed(plan.test.severity, warns, errs);
            ran.failures = failures;
            ran.message = message(plan, ran.status, failures);
        }
        Err(error) => {
            ran.status = Status::Error;
            ran.message = reason_of(&error);
        }
    }
    ran.took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    ran
}

struct Verdict {
    failures: Option<i64>,
    warns: bool,
    errs: bool,
}

async fn verdict(
    runner: &Runner,
    view: &Arc<LakeView>,
    plan: &TestPlan,
) -> Result<Verdict, DataFusionError> {
    let memory = Arc::clone(&runner.memory);
    let context = session(view, Columns::Model, runner.config(), memory);
    let rows = context.sql(&plan.verdict_sql()).await?.collect().await?;
    let row = rows.iter().find(|batch| batch.num_rows() > 0);
    let Some(row) = row else {
        return Err(DataFusionError::Plan("fail_calc gives no row: it is no aggregate".into()));
    };
    let failures = cast(row.column(0), &DataType::Int64)?;
    let failures = failures.as_primitive::<Int64Type>();
    Ok(Verdict {
        failures: failures.is_valid(0).then(|| failures.value(0)),
        warns: is_so(row, 1)?,
        errs: is_so(row, 2)?,
    })
}

/// Whether a condition holds; null does not.
fn is_so(row: &RecordBatch, column: usize) -> Result<bool, DataFusionError> {
    let values = cast(row.column(column), &DataType::Boolean)?;
    let values = values.as_boolean();
    Ok(values.is_valid(0) && values.value(0))
}

/// What a reader has to know of an outcome.
fn message(plan: &TestPlan, status: Status, failures: Option<i64>) -> String {
    let test = &plan.test;
    let condition = match status {
        Status::Pass if test.severity.takes_out() && failures.is_some_and(|n| n > 0) => {
            let rows = if failures == Some(1) { "row is" } else { "rows are" };
            return format!("{} {rows} left out", failures.unwrap_or_default());
        }
        Status::Pass => return String::new(),
        Status::Warn => &test.warn_if,
        Status::Fail | Status::Error => &test.error_if,
    };
    let found = failures.map_or_else(|| "nothing".to_owned(), |failures| failures.to_string());
    let what = match test.fail_calc.as_str() {
        _ if test.is_freshness() => "seconds old".to_owned(),
        "count(*)" if failures == Some(1) => "row fails".to_owned(),
        "count(*)" => "rows fail".to_owned(),
        other => format!("is {other}"),
    };
    match condition.as_str() {
        "!= 0" => format!("{found} {what}"),
        condition => format!("{found} {what}, which is {condition}"),
    }
}
