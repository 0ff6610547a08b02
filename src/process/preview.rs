//! Queries that see what models see, for looking at SQL before it is deployed.

use std::sync::Arc;

use arrow::{
    array::{Array as _, RecordBatch},
    error::ArrowError,
    util::display::{ArrayFormatter, FormatOptions},
};
use datafusion::{error::DataFusionError, execution::context::SQLOptions};

use crate::{
    domain::{
        previewed::{Asked, Previewed, ROWS_MAX},
        sql_guard,
    },
    lake::{
        LakeView,
        session::{Columns, session},
    },
    process::data_tests::Runner,
};

/// Longest SQL that is looked at.
const SQL_BYTES_MAX: usize = 1024 * 1024;

/// The rows of a query over `view`.
pub async fn preview(
    runner: &Runner,
    view: &Arc<LakeView>,
    asked: &Asked,
) -> Result<Previewed, DataFusionError> {
    sql_guard::check(&asked.sql, SQL_BYTES_MAX)
        .map_err(|error| DataFusionError::Plan(error.to_string()))?;
    let memory = Arc::clone(&runner.memory);
    let context = session(view, Columns::Model, runner.config(), memory);
    let reads =
        SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
    let frame = context.sql_with_options(&asked.sql, reads).await?;
    let fields = frame.schema().fields().iter();
    let columns = fields.map(|field| field.name().clone()).collect();
    let limit = asked.limit.min(ROWS_MAX);
    let batches = frame.limit(0, Some(limit))?.collect().await?;
    let rows: Result<Vec<_>, ArrowError> = batches.iter().map(texts).collect();
    Ok(Previewed { columns, rows: rows?.into_iter().flatten().collect() })
}

fn texts(batch: &RecordBatch) -> Result<Vec<Vec<Option<String>>>, ArrowError> {
    let options = FormatOptions::default();
    let formats: Result<Vec<_>, ArrowError> = batch
        .columns()
        .iter()
        .map(|column| ArrayFormatter::try_new(column.as_ref(), &options))
        .collect();
    let formats = formats?;
    let cell = |row: usize, column: usize| {
        let is_there = batch.column(column).is_valid(row);
        is_there.then(|| formats[column].value(row).to_string())
    };
    let cells = |row| (0..batch.num_columns()).map(|column| cell(row, column)).collect();
    Ok((0..batch.num_rows()).map(cells).collect())
}
