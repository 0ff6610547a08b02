//! `dbt_utils.get_column_values(…)`: the values of a seed's column, which a template can loop over.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray as _, RecordBatch},
    compute::cast,
    datatypes::{DataType, Float64Type, Int64Type},
};
use datafusion::{
    datasource::MemTable,
    error::{DataFusionError, Result as SqlResult},
    prelude::SessionContext,
};
use minijinja::{
    Error, Value,
    value::{Kwargs, from_args},
};

use crate::{
    domain::TableName,
    project::{
        jinja::{
            page::{Relation, Shared, fail, wrong},
            values,
        },
        nearest,
    },
};

/// What is asked for.
struct Asked {
    column: String,
    filter: Option<String>,
    order_by: String,
    most: Option<usize>,
}

/// The values of a column of a seed, each once: by default the most frequent first.
pub(super) fn column_values(shared: &Shared, args: &[Value]) -> Result<Value, Error> {
    let (table, column, named): (Option<Value>, Option<String>, Kwargs) = from_args(args)?;
    let table: Value = table.map_or_else(|| named.get("table"), Ok)?;
    let default: Option<Value> = named.get("default")?;
    let asked = Asked {
        column: column.map_or_else(|| named.get("column"), Ok)?,
        filter: named.get("where")?,
        order_by: named
            .get::<Option<String>>("order_by")?
            .unwrap_or_else(|| "count(*) desc".to_owned()),
        most: named.get("max_records")?,
    };
    named.assert_all_used()?;
    let relation = table.downcast_object_ref::<Relation>();
    let Some(Relation { table: TableName { name, .. }, .. }) = relation else {
        // What is not there has no values.
        let needed = || wrong("get_column_values: `table` is a ref() of a seed");
        return default.filter(|value| !value.is_none()).ok_or_else(needed);
    };
    let Some(rows) = shared.seeds.get(name) else {
        let hint = "of models and streams they change as data comes: write the values as a list";
        let message = format!("get_column_values: `{name}` is no seed");
        return Err(fail(message, hint));
    };
    let schema = rows.schema();
    let columns = || schema.fields().iter().map(|field| field.name().as_str());
    if !columns().any(|known| known.eq_ignore_ascii_case(asked.column.trim_matches('"'))) {
        let hint = nearest(&asked.column, columns());
        let message = format!("get_column_values: seed `{name}` has no column `{}`", asked.column);
        return Err(fail(message, hint.unwrap_or_default()));
    }
    let found = run(rows.clone(), &asked);
    let found = found.map_err(|reason| wrong(format!("get_column_values: {reason}")))?;
    let mut all = Vec::new();
    for array in &found {
        all.extend(read(array).map_err(|error| wrong(format!("get_column_values: {error}")))?);
    }
    match default {
        Some(default) if all.is_empty() && !default.is_none() => Ok(default),
        _ => values::list(&Value::from(all)),
    }
}

/// Runs the query on a thread of its own: templates are rendered wherever they are needed.
fn run(rows: RecordBatch, asked: &Asked) -> Result<Vec<ArrayRef>, String> {
    let filter = asked.filter.as_ref().map(|sql| format!(" WHERE {sql}")).unwrap_or_default();
    let most = asked.most.map(|most| format!(" LIMIT {most}")).unwrap_or_default();
    let Asked { column, order_by, .. } = asked;
    // Where the order leaves it open, values go by themselves.
    let sql = format!(
        "SELECT {column} AS value FROM seed{filter} GROUP BY {column} ORDER BY {order_by}, \
         {column}{most}"
    );
    let query = async move {
        let context = SessionContext::new();
        let table = MemTable::try_new(rows.schema(), vec![vec![rows]])?;
        context.register_table("seed", Arc::new(table))?;
        let batches = context.sql(&sql).await?.collect().await?;
        SqlResult::Ok(batches.iter().map(|batch| Arc::clone(batch.column(0))).collect())
    };
    let thread = std::thread::spawn(move || -> Result<Vec<ArrayRef>, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        runtime.block_on(query).map_err(|error: DataFusionError| error.strip_backtrace())
    });
    thread.join().map_err(|_| "a defect stopped the query".to_owned())?
}

/// Values as templates have them: numbers and truth values as such, others as text.
fn read(array: &ArrayRef) -> Result<Vec<Value>, arrow::error::ArrowError> {
    let or_none = |value: Option<Value>| value.unwrap_or_else(|| Value::from(()));
    Ok(match array.data_type() {
        DataType::Boolean => {
            array.as_boolean().iter().map(|value| or_none(value.map(Value::from))).collect()
        }
        of_type if of_type.is_integer() => {
            let array = cast(array, &DataType::Int64)?;
            let values = array.as_primitive::<Int64Type>().iter();
            values.map(|value| or_none(value.map(Value::from))).collect()
        }
        of_type if of_type.is_floating() => {
            let array = cast(array, &DataType::Float64)?;
            let values = array.as_primitive::<Float64Type>().iter();
            values.map(|value| or_none(value.map(Value::from))).collect()
        }
        _ => {
            let array = cast(array, &DataType::Utf8)?;
            array.as_string::<i32>().iter().map(|value| or_none(value.map(Value::from))).collect()
        }
    })
}
