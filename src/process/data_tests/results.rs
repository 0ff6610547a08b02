//! What the tests of a running process found last, and the table `system.test_results`.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use arrow::{
    array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray},
    datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit},
    error::ArrowError,
};
use async_trait::async_trait;
use datafusion::{
    catalog::{MemTable, Session, TableProvider},
    datasource::TableType,
    error::DataFusionError,
    physical_plan::ExecutionPlan,
    prelude::Expr,
};

use crate::{
    domain::{Positions, TableName, tested::Ran},
    lake::{Committed, Overlay, RelationInfo, RelationKind, TableState},
};

const DESCRIPTION: &str = "What each test found when it was run last";

/// The last outcome of each test.
#[derive(Debug, Default)]
pub struct Results(Mutex<BTreeMap<String, Ran>>);

impl Results {
    fn all(&self) -> MutexGuard<'_, BTreeMap<String, Ran>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn record(&self, ran: Ran) {
        self.all().insert(ran.name.clone(), ran);
    }

    /// The outcomes, by name.
    pub fn list(&self) -> Vec<Ran> {
        self.all().values().cloned().collect()
    }

    /// The table `system.test_results`: what is known when it is read.
    pub fn table(self: &Arc<Self>) -> TableState {
        let schema = schema();
        let columns = schema
            .fields()
            .iter()
            .filter_map(|field| Some((field.name().clone(), about(field.name())?.to_owned())));
        TableState {
            info: Arc::new(RelationInfo {
                name: TableName::new("system", "test_results"),
                kind: RelationKind::System,
                description: DESCRIPTION.to_owned(),
                columns: columns.collect(),
            }),
            schema: Arc::clone(&schema),
            committed: Some(Committed {
                version: 0,
                provider: Arc::new(Provider { results: Arc::clone(self), schema }),
                history: None,
                rows: 0,
                files: 0,
                bytes: 0,
            }),
            overlay: Overlay::None,
            streams: Vec::new(),
            positions: Positions::default(),
        }
    }
}

#[derive(Debug)]
struct Provider {
    results: Arc<Results>,
    schema: SchemaRef,
}

#[async_trait]
impl TableProvider for Provider {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        let rows = rows(&self.schema, &self.results.list())?;
        let table = MemTable::try_new(Arc::clone(&self.schema), vec![vec![rows]])?;
        table.scan(state, projection, filters, limit).await
    }
}

fn schema() -> SchemaRef {
    let text = |name: &str| Field::new(name, DataType::Utf8, true);
    let number = |name: &str| Field::new(name, DataType::Int64, true);
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    Arc::new(Schema::new(vec![
        text("name"),
        text("test"),
        text("table"),
        text("column"),
        text("severity"),
        text("status"),
        number("failures"),
        text("message"),
        Field::new("ran_at", time, true),
        number("took_ms"),
    ]))
}

fn about(column: &str) -> Option<&'static str> {
    Some(match column {
        "test" => "The generic test, singular or unit",
        "table" => "What it is about; of a singular test what its SQL reads says that",
        "status" => "pass, warn, fail, or error where it could not be run",
        "failures" => "Rows that fail, or what fail_calc makes of them",
        "took_ms" => "Milliseconds that the run took",
        _ => return None,
    })
}

fn rows(schema: &SchemaRef, all: &[Ran]) -> Result<RecordBatch, ArrowError> {
    fn text<'a>(all: &'a [Ran], value: impl Fn(&'a Ran) -> Option<&'a str>) -> ArrayRef {
        Arc::new(all.iter().map(value).collect::<StringArray>())
    }
    let ran_at: TimestampMicrosecondArray = all.iter().map(|ran| Some(ran.ran_at_us)).collect();
    let took = all.iter().map(|ran| i64::try_from(ran.took_ms).ok());
    RecordBatch::try_new(
        Arc::clone(schema),
        vec![
            text(all, |ran| Some(&ran.name)),
            text(all, |ran| Some(&ran.test)),
            text(all, |ran| ran.table.as_deref()),
            text(all, |ran| ran.column.as_deref()),
            text(all, |ran| Some(&ran.severity)),
            text(all, |ran| Some(ran.status.as_str())),
            Arc::new(all.iter().map(|ran| ran.failures).collect::<Int64Array>()),
            text(all, |ran| Some(&ran.message)),
            Arc::new(ran_at.with_timezone("UTC")),
            Arc::new(took.collect::<Int64Array>()),
        ],
    )
}
