//! The events of a stream whose records may hold arrays, as a relation over its Bronze.

use std::sync::Arc;

use arrow::{
    array::{RecordBatch, RecordBatchOptions},
    datatypes::SchemaRef,
    error::ArrowError,
};
use async_trait::async_trait;
use datafusion::{
    catalog::{Session, TableProvider},
    common::project_schema,
    datasource::TableType,
    error::Result,
    execution::{SendableRecordBatchStream, TaskContext},
    logical_expr::TableProviderFilterPushDown,
    physical_plan::{
        ExecutionPlan, execute_stream,
        execution_plan::reset_plan_states,
        stream::RecordBatchStreamAdapter,
        streaming::{PartitionStream, StreamingTableExec},
    },
    prelude::Expr,
};
use futures::{StreamExt as _, TryStreamExt as _, stream};

use crate::{bronze::Judge, domain::TableName, lake::Derive};

/// Records that are taken apart at once: each may hold hundreds of events.
const RECORDS: usize = 128;
/// Columns that are the same for a record and each of its events.
const OF_THE_RECORD: [&str; 6] = ["_log", "_topic", "_partition", "_offset", "_ts", "_ingested_at"];
/// What events are made of.
const READ: [&str; 6] = ["_payload", "_index", "_key", "_headers", "_ts", "__identity"];
/// What takes a look into the event.
const NAMES: [&str; 2] = ["_event_id", "__identity"];

/// The events of a stream, made of its Bronze.
pub(super) struct Events {
    judge: Arc<Judge>,
    /// Bronze, under the name that it is read by.
    bronze: TableName,
}

impl Events {
    pub(super) fn new(judge: Arc<Judge>, bronze: TableName) -> Self {
        Self { judge, bronze }
    }
}

impl Derive for Events {
    fn table(&self) -> &TableName {
        &self.bronze
    }

    fn over(&self, table: Arc<dyn TableProvider>) -> Arc<dyn TableProvider> {
        Arc::new(TakenApart { judge: Arc::clone(&self.judge), bronze: table })
    }
}

#[derive(Debug)]
struct TakenApart {
    judge: Arc<Judge>,
    bronze: Arc<dyn TableProvider>,
}

#[async_trait]
impl TableProvider for TakenApart {
    fn schema(&self) -> SchemaRef {
        self.bronze.schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        let of_the_record = |filter: &&Expr| {
            let columns = filter.column_refs();
            match columns.iter().all(|column| OF_THE_RECORD.contains(&column.name.as_str())) {
                true => TableProviderFilterPushDown::Inexact,
                false => TableProviderFilterPushDown::Unsupported,
            }
        };
        Ok(filters.iter().map(of_the_record).collect())
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let all = self.schema();
        let schema = project_schema(&all, projection)?;
        let is_wanted = |name: &str| schema.field_with_name(name).is_ok();
        let is_read = |at: &usize| {
            let name = all.field(*at).name().as_str();
            is_wanted(name) || READ.contains(&name)
        };
        let read = (0..all.fields().len()).filter(is_read).collect();
        let plan = self.bronze.scan(state, Some(&read), filters, None).await?;
        let names = NAMES.iter().any(|name| is_wanted(name));
        let judge = Arc::clone(&self.judge);
        let all: Arc<dyn PartitionStream> =
            Arc::new(Parts { judge, plan, names, schema: Arc::clone(&schema) });
        Ok(Arc::new(StreamingTableExec::try_new(schema, vec![all], None, [], false, None)?))
    }
}

/// The events of what a plan over Bronze gives. Taking apart is cheap; what is done with events is
/// spread above.
#[derive(Debug)]
struct Parts {
    judge: Arc<Judge>,
    plan: Arc<dyn ExecutionPlan>,
    /// Whether somebody wants to know what events are called.
    names: bool,
    schema: SchemaRef,
}

impl PartitionStream for Parts {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let schema = Arc::clone(&self.schema);
        let context = Arc::new(in_small_batches(&context));
        // A recursive query runs it again and again.
        let plan = reset_plan_states(Arc::clone(&self.plan));
        let records = match plan.and_then(|plan| execute_stream(plan, context)) {
            Ok(records) => records,
            Err(error) => {
                let failed = stream::once(std::future::ready(Err(error)));
                return Box::pin(RecordBatchStreamAdapter::new(schema, failed));
            }
        };
        let (judge, names) = (Arc::clone(&self.judge), self.names);
        let events = records.map_ok(move |records| {
            let (judge, schema) = (Arc::clone(&judge), Arc::clone(&schema));
            let starts = (0..records.num_rows()).step_by(RECORDS);
            stream::iter(starts).map(move |start| {
                let length = RECORDS.min(records.num_rows() - start);
                let some = records.slice(start, length);
                let events = if names { judge.told(&some)? } else { judge.events(&some)? };
                Ok(columns(&events, &schema)?)
            })
        });
        let schema = Arc::clone(&self.schema);
        Box::pin(RecordBatchStreamAdapter::new(schema, events.try_flatten()))
    }
}

/// Records of hundreds of events are as large as so many.
fn in_small_batches(context: &TaskContext) -> TaskContext {
    TaskContext::new(
        context.task_id(),
        context.session_id(),
        context.session_config().clone().with_batch_size(RECORDS),
        context.scalar_functions().clone(),
        context.higher_order_functions().clone(),
        context.aggregate_functions().clone(),
        context.window_functions().clone(),
        context.runtime_env(),
    )
}

/// The columns of `schema`, by name.
fn columns(rows: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let fields = schema.fields().iter();
    let columns = fields.map(|field| {
        let column = rows.column_by_name(field.name()).cloned();
        column.ok_or_else(|| ArrowError::SchemaError(format!("no column {}", field.name())))
    });
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    let columns = columns.collect::<Result<_, ArrowError>>()?;
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
}
