//! One unit test of a model: its SQL over given rows.

use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, AsArray as _, RecordBatch, new_null_array},
    compute::{cast, concat_batches},
    datatypes::{DataType, Float64Type, SchemaRef},
    util::display::{ArrayFormatter, FormatOptions},
};
use datafusion::{error::DataFusionError, prelude::SessionContext};
use tokio::time::Instant;

use crate::{
    domain::{
        Positions,
        tested::{Ran, Status},
    },
    lake::{
        LakeView, Overlay, RelationInfo, RelationKind, TableState, reason_of,
        session::{Columns, session},
    },
    models::{UnitInput, UnitPlan, UnitRows},
    process::data_tests::Runner,
};

/// So many rows of each kind are told.
const ROWS_TOLD: usize = 3;

/// Runs a unit test.
pub(super) async fn run_unit(runner: &Runner, plan: &UnitPlan) -> Ran {
    let started = Instant::now();
    let mut ran = Ran {
        name: plan.test.name.clone(),
        test: "unit".to_owned(),
        table: Some(plan.test.model.to_string()),
        column: None,
        severity: "error".to_owned(),
        status: Status::Pass,
        failures: None,
        message: String::new(),
        ran_at_us: runner.clock.now_us(),
        took_ms: 0,
    };
    match compare(runner, plan).await {
        Ok((0, _)) => ran.failures = Some(0),
        Ok((failures, message)) => {
            ran.status = Status::Fail;
            ran.failures = i64::try_from(failures).ok();
            ran.message = message;
        }
        Err(error) => {
            ran.status = Status::Error;
            ran.message = reason_of(&error);
        }
    }
    ran.took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    ran
}

/// In how many rows the model's answer differs from what is expected, and in which.
async fn compare(runner: &Runner, plan: &UnitPlan) -> Result<(usize, String), DataFusionError> {
    let mut view = LakeView::default();
    let context = over(runner, &view);
    for input in &plan.inputs {
        let rows = rows(&context, &input.rows, &input.schema).await?;
        let state = state(input, all_columns(&rows, &input.schema)?);
        view.tables.insert(input.name.clone(), Arc::new(state));
    }
    let context = over(runner, &view);
    let expected = rows(&context, &plan.expect, &plan.schema).await?;
    let actual = context.sql(&plan.sql).await?.collect().await?;
    let actual = match actual.first() {
        Some(first) => concat_batches(&first.schema(), &actual)?,
        None => RecordBatch::new_empty(Arc::clone(&plan.schema)),
    };
    let expected = texts(&expected, &expected.schema(), &plan.schema)?;
    let columns = expected.0;
    let actual = texts(&actual, &columns, &plan.schema)?.1;
    let mut counts: BTreeMap<String, i64> = BTreeMap::new();
    expected.1.into_iter().for_each(|row| *counts.entry(row).or_default() += 1);
    actual.into_iter().for_each(|row| *counts.entry(row).or_default() -= 1);
    let told = |what: &str, sign: i64| {
        let rows: Vec<&str> = counts
            .iter()
            .filter(|(_, n)| **n * sign > 0)
            .flat_map(|(row, n)| std::iter::repeat_n(row.as_str(), n.unsigned_abs() as usize))
            .collect();
        let more = rows.len().saturating_sub(ROWS_TOLD);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let shown = rows.iter().take(ROWS_TOLD).copied().collect::<Vec<_>>().join(", ");
        (rows.len(), (!rows.is_empty()).then(|| format!("{what} {shown}{more}")))
    };
    let (missing, unexpected) = (told("missing", 1), told("unexpected", -1));
    let message: Vec<String> = [missing.1, unexpected.1].into_iter().flatten().collect();
    Ok((missing.0.max(unexpected.0), message.join("; ")))
}

fn over(runner: &Runner, view: &LakeView) -> SessionContext {
    let memory = Arc::clone(&runner.memory);
    session(&Arc::new(view.clone()), Columns::Model, runner.config(), memory)
}

/// Given rows; those of SQL in the types of `schema`.
async fn rows(
    context: &SessionContext,
    rows: &UnitRows,
    schema: &SchemaRef,
) -> Result<RecordBatch, DataFusionError> {
    let sql = match rows {
        UnitRows::Batch(batch) => return Ok(batch.clone()),
        UnitRows::Sql(sql) => sql,
    };
    let frame = context.sql(sql).await?;
    let found = Arc::clone(frame.schema().inner());
    let rows = concat_batches(&found, &frame.collect().await?)?;
    let mut columns: Vec<(String, ArrayRef, bool)> = Vec::new();
    for (field, values) in found.fields().iter().zip(rows.columns()) {
        let wanted = schema.field_with_name(field.name())?;
        columns.push((field.name().clone(), cast(values, wanted.data_type())?, true));
    }
    Ok(RecordBatch::try_from_iter_with_nullable(columns)?)
}

/// Rows with all columns of `schema`; those that are missing are null.
fn all_columns(rows: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, DataFusionError> {
    let column = |field: &arrow::datatypes::FieldRef| {
        let given = rows.column_by_name(field.name()).cloned();
        let values = given.unwrap_or_else(|| new_null_array(field.data_type(), rows.num_rows()));
        (field.name().clone(), values, true)
    };
    Ok(RecordBatch::try_from_iter_with_nullable(schema.fields().iter().map(column))?)
}

fn state(input: &UnitInput, rows: RecordBatch) -> TableState {
    TableState {
        info: Arc::new(RelationInfo {
            name: input.name.clone(),
            kind: RelationKind::Internal,
            description: String::new(),
            columns: BTreeMap::new(),
        }),
        schema: rows.schema(),
        committed: None,
        overlay: Overlay::Replace(vec![rows]),
        streams: Vec::new(),
        positions: Positions::default(),
    }
}

/// The `columns` of rows as texts, each in its type of `schema`; floating point numbers to 12 digits.
fn texts(
    rows: &RecordBatch,
    columns: &SchemaRef,
    schema: &SchemaRef,
) -> Result<(SchemaRef, Vec<String>), DataFusionError> {
    let options = FormatOptions::default().with_null("null");
    let mut cells: Vec<Vec<String>> = vec![Vec::new(); rows.num_rows()];
    for field in columns.fields() {
        let name = field.name();
        let values = rows
            .column_by_name(name)
            .ok_or_else(|| DataFusionError::Plan(format!("the model has no column `{name}`")))?;
        let values = cast(values, schema.field_with_name(name)?.data_type())?;
        let format = ArrayFormatter::try_new(values.as_ref(), &options)?;
        for (row, cells) in cells.iter_mut().enumerate() {
            let is_float = matches!(values.data_type(), DataType::Float32 | DataType::Float64);
            let text = if is_float && values.is_valid(row) {
                let number = cast(&values.slice(row, 1), &DataType::Float64)?;
                format!("{:.11e}", number.as_primitive::<Float64Type>().value(0))
            } else {
                format.value(row).to_string()
            };
            cells.push(format!("{name}: {text}"));
        }
    }
    let rows = cells.into_iter().map(|cells| format!("{{{}}}", cells.join(", "))).collect();
    Ok((Arc::clone(columns), rows))
}
