//! Unit tests of models, planned: their rows in the types of what they stand for.

use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::{ArrayRef, RecordBatch, StringArray},
    compute::{CastOptions, cast_with_options},
    datatypes::SchemaRef,
};

use crate::{
    domain::TableName,
    models::plan::Planning,
    project::{Diagnostics, Rows, UnitTest, nearest},
};

/// A unit test that can be run.
#[derive(Debug, Clone)]
pub struct UnitPlan {
    pub test: UnitTest,
    /// The SQL of the model.
    pub sql: String,
    /// All that the model reads.
    pub inputs: Vec<UnitInput>,
    /// The columns of the model.
    pub schema: SchemaRef,
    pub expect: UnitRows,
}

/// A relation that a model reads, in a unit test.
#[derive(Debug, Clone)]
pub struct UnitInput {
    pub name: TableName,
    pub schema: SchemaRef,
    pub rows: UnitRows,
}

/// Rows of a unit test.
#[derive(Debug, Clone)]
pub enum UnitRows {
    /// Of the columns that are given; others do not matter, or are null.
    Batch(RecordBatch),
    Sql(String),
}

impl Planning<'_> {
    /// The plan of a unit test; `None` where it or its model is wrong.
    pub(super) fn unit(&self, test: &UnitTest, found: &mut Diagnostics) -> Option<UnitPlan> {
        let model = self.project.models.iter().find(|model| model.name == test.model)?;
        let model = match self.query(model)? {
            Ok(plan) => plan,
            Err(_) => return None, // It was told with the model.
        };
        let mut inputs = Vec::new();
        for name in model.model.reads() {
            let schema = Arc::clone(&self.known.get(&name)?.schema);
            let given = test.given.iter().find(|(of, _)| *of == name).map(|(_, rows)| rows);
            let rows = match given {
                None => Ok(UnitRows::Batch(RecordBatch::new_empty(Arc::clone(&schema)))),
                Some(rows) => typed(rows, &schema, true),
            };
            match rows {
                Ok(rows) => inputs.push(UnitInput { name, schema, rows }),
                Err(message) => {
                    found.push(test.wrong(format!("input {name}: {message}")));
                    return None;
                }
            }
        }
        match typed(&test.expect, &model.schema, false) {
            Ok(expect) => Some(UnitPlan {
                test: test.clone(),
                sql: model.model.sql.clone(),
                inputs,
                schema: model.schema,
                expect,
            }),
            Err(message) => {
                found.push(test.wrong(format!("expect: {message}")));
                None
            }
        }
    }
}

/// Rows in the types of a relation; of all its columns, or of those that they name.
fn typed(rows: &Rows, schema: &SchemaRef, of_all: bool) -> Result<UnitRows, String> {
    let rows = match rows {
        Rows::Sql(sql) => return Ok(UnitRows::Sql(sql.clone())),
        Rows::Values(rows) => rows,
    };
    let known: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    for name in rows.iter().flat_map(BTreeMap::keys) {
        if !known.contains(&name.as_str()) {
            let hint = nearest(name, known.iter().copied())
                .unwrap_or_else(|| format!("its columns are {}", known.join(", ")));
            return Err(format!("there is no column `{name}`; {hint}"));
        }
    }
    let is_given = |name: &str| rows.iter().any(|row| row.contains_key(name));
    let wanted: Vec<usize> = (0..known.len()).filter(|i| of_all || is_given(known[*i])).collect();
    let schema = Arc::new(schema.project(&wanted).map_err(|error| error.to_string())?);
    let columns: Result<Vec<ArrayRef>, String> =
        schema.fields().iter().map(|field| column(field, rows)).collect();
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(rows.len()));
    let nullable: Vec<_> =
        schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true)).collect();
    let schema = Arc::new(arrow::datatypes::Schema::new(nullable));
    let batch = RecordBatch::try_new_with_options(schema, columns?, &options);
    batch.map(UnitRows::Batch).map_err(|error| error.to_string())
}

fn column(
    field: &arrow::datatypes::Field,
    rows: &[BTreeMap<String, Option<String>>],
) -> Result<ArrayRef, String> {
    let name = field.name();
    let options = CastOptions { safe: false, ..CastOptions::default() };
    let cell = |row: &BTreeMap<String, Option<String>>| row.get(name).cloned().flatten();
    let text: StringArray = rows.iter().map(cell).collect();
    cast_with_options(&text, field.data_type(), &options).map_err(|whole| {
        // One cell is at fault, or the type is none that text can be read as.
        let alone = |row: &BTreeMap<String, Option<String>>| {
            let text: StringArray = [cell(row)].into_iter().collect();
            cast_with_options(&text, field.data_type(), &options).is_err()
        };
        let wrong = rows.iter().position(alone);
        let at = wrong.and_then(|at| Some((at, cell(&rows[at])?)));
        match at {
            Some((at, text)) => {
                format!("row {}: {name} is {}, not {text:?}", at + 1, field.data_type())
            }
            None => whole.to_string(),
        }
    })
}
