//! Projections, filters and unnested lists, compiled: run on a batch they give a batch, row by row.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions, UInt32Array},
    compute::{cast, filter, filter_record_batch, take, take_record_batch},
    datatypes::{DataType, Field, Schema, SchemaRef},
    error::ArrowError,
};
use datafusion::{
    common::{
        DFSchema,
        cast::{as_boolean_array, as_list_array},
    },
    error::DataFusionError,
    execution::SessionState,
    logical_expr::{Expr, LogicalPlan, Unnest, utils::split_conjunction},
    physical_expr::PhysicalExpr,
};

use crate::domain::sql_exprs::compile;

/// A chain of projections, filters and unnested lists.
#[derive(Debug)]
pub(super) struct Steps(Vec<Step>);

/// Which rows a step hands on.
pub(super) enum Picked<'a> {
    /// Those for which this holds.
    Kept(&'a BooleanArray),
    /// These, ascending, some of them several times.
    Repeated(&'a UInt32Array),
}

impl Picked<'_> {
    /// The values of these rows.
    pub(super) fn of(&self, values: &dyn Array) -> Result<ArrayRef, ArrowError> {
        match self {
            Self::Kept(keep) => filter(values, keep),
            Self::Repeated(rows) => take(values, rows, None),
        }
    }

    fn rows_of(&self, rows: &RecordBatch) -> Result<RecordBatch, ArrowError> {
        match self {
            Self::Kept(keep) => filter_record_batch(rows, keep),
            Self::Repeated(of) => take_record_batch(rows, of),
        }
    }
}

#[derive(Debug)]
enum Step {
    /// A predicate, and what all has to hold for it, in its order.
    Filter(Arc<dyn PhysicalExpr>, Vec<Arc<dyn PhysicalExpr>>),
    Project(Vec<Arc<dyn PhysicalExpr>>, SchemaRef),
    /// A row per element of the list in this column, none for an empty list or null.
    Unnest(usize, SchemaRef),
}

impl Steps {
    /// Compiles the projections and filters at the top of an analysed plan. Also returns what is
    /// below them.
    pub(super) fn compile<'plan>(
        plan: &'plan LogicalPlan,
        state: &SessionState,
    ) -> Result<(Self, &'plan LogicalPlan), DataFusionError> {
        let mut steps = Vec::new();
        let mut node = plan;
        loop {
            node = match node {
                LogicalPlan::Projection(projection) => {
                    let exprs = physical(&projection.expr, projection.input.schema(), state)?;
                    steps.push(Step::Project(exprs, Arc::clone(projection.schema.inner())));
                    &projection.input
                }
                LogicalPlan::Filter(filter) => {
                    let input = filter.input.schema();
                    let parts = split_conjunction(&filter.predicate).into_iter().cloned();
                    let parts = physical(&parts.collect::<Vec<_>>(), input, state)?;
                    let predicate = compile(filter.predicate.clone(), input, state)?;
                    steps.push(Step::Filter(predicate, parts));
                    &filter.input
                }
                LogicalPlan::SubqueryAlias(alias) => &alias.input,
                LogicalPlan::Unnest(unnest) => match unnested_column(unnest) {
                    Some(column) => {
                        steps.push(Step::Unnest(column, Arc::clone(unnest.schema.inner())));
                        &unnest.input
                    }
                    None => return Err(DataFusionError::Internal(unnest_refused())),
                },
                below => {
                    steps.reverse();
                    return Ok((Self(steps), below));
                }
            };
        }
    }

    /// The output rows of `input`, and with each the row of `carried` (same length as `input`)
    /// that belongs to it.
    pub(super) fn run(
        &self,
        input: &RecordBatch,
        carried: &RecordBatch,
    ) -> Result<(RecordBatch, RecordBatch), DataFusionError> {
        let mut carried = carried.clone();
        let rows = self.run_with(input, |picked| {
            carried = picked.rows_of(&carried)?;
            Ok(())
        })?;
        Ok((rows, carried))
    }

    /// Whether a row of the input may become several.
    pub(super) fn unnests(&self) -> bool {
        self.0.iter().any(|step| matches!(step, Step::Unnest(..)))
    }

    /// The output rows of `input`; which rows each step hands on is told to `picked`.
    pub(super) fn run_with(
        &self,
        input: &RecordBatch,
        mut picked: impl FnMut(Picked<'_>) -> Result<(), DataFusionError>,
    ) -> Result<RecordBatch, DataFusionError> {
        let mut rows = input.clone();
        for step in &self.0 {
            match step {
                Step::Filter(predicate, parts) => match kept(predicate, &rows) {
                    Ok(keep) => {
                        rows = filter_record_batch(&rows, &keep)?;
                        picked(Picked::Kept(&keep))?;
                    }
                    // Whether a part is computed where an earlier one does not hold is up to the
                    // batch. One after the other they need not be.
                    Err(_) if parts.len() > 1 => {
                        for part in parts {
                            let keep = kept(part, &rows)?;
                            rows = filter_record_batch(&rows, &keep)?;
                            picked(Picked::Kept(&keep))?;
                        }
                    }
                    Err(error) => return Err(error),
                },
                Step::Project(exprs, schema) => {
                    let columns = evaluate(exprs, &rows)?;
                    rows = named(columns, schema, rows.num_rows())?;
                }
                Step::Unnest(column, schema) => {
                    let (columns, of) = unnested(&rows, *column)?;
                    rows = named(columns, schema, of.len())?;
                    picked(Picked::Repeated(&of))?;
                }
            }
        }
        Ok(rows)
    }
}

/// The column of an `unnest` that can be kept row by row: of one list, one level of it.
pub(super) fn unnested_column(unnest: &Unnest) -> Option<usize> {
    match (unnest.list_type_columns.as_slice(), unnest.struct_type_columns.as_slice()) {
        ([(column, list)], []) if list.depth == 1 && !unnest.options.preserve_nulls() => {
            Some(*column)
        }
        _ => None,
    }
}

/// Why another `unnest` cannot be.
pub(super) fn unnest_refused() -> String {
    "unnests several lists, lists of lists or structs at once".to_owned()
}

/// The columns with a row per element of the list in `column`, and the row that each was.
fn unnested(
    rows: &RecordBatch,
    column: usize,
) -> Result<(Vec<ArrayRef>, UInt32Array), DataFusionError> {
    let lists = match rows.column(column).data_type() {
        DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            cast(rows.column(column), &DataType::List(Arc::clone(item)))?
        }
        _ => Arc::clone(rows.column(column)),
    };
    let lists = as_list_array(&lists)?;
    let (mut of, mut elements) = (Vec::new(), Vec::new());
    for (row, ends) in (0_u32..).zip(lists.offsets().windows(2)) {
        if lists.is_valid(row as usize) {
            // Offsets are never negative.
            let range = ends[0].cast_unsigned()..ends[1].cast_unsigned();
            of.extend(range.clone().map(|_| row));
            elements.extend(range);
        }
    }
    let (of, elements) = (UInt32Array::from(of), UInt32Array::from(elements));
    let columns = rows.columns().iter().enumerate().map(|(number, values)| {
        if number == column {
            take(lists.values(), &elements, None)
        } else {
            take(values, &of, None)
        }
    });
    Ok((columns.collect::<Result<_, _>>()?, of))
}

/// The rows for which a predicate holds.
fn kept(
    predicate: &Arc<dyn PhysicalExpr>,
    rows: &RecordBatch,
) -> Result<BooleanArray, DataFusionError> {
    let keep = predicate.evaluate(rows)?.into_array(rows.num_rows())?;
    Ok(as_boolean_array(&keep)?.clone())
}

pub(super) fn physical(
    exprs: &[Expr],
    schema: &DFSchema,
    state: &SessionState,
) -> Result<Vec<Arc<dyn PhysicalExpr>>, DataFusionError> {
    exprs.iter().map(|expr| compile(expr.clone(), schema, state)).collect()
}

/// The values of every expression for every row.
pub(super) fn evaluate(
    exprs: &[Arc<dyn PhysicalExpr>],
    rows: &RecordBatch,
) -> Result<Vec<ArrayRef>, DataFusionError> {
    exprs.iter().map(|expr| expr.evaluate(rows)?.into_array(rows.num_rows())).collect()
}

/// A batch in the names of `schema` and the types and nullability that the columns really have.
pub(super) fn named(
    columns: Vec<ArrayRef>,
    schema: &Schema,
    rows: usize,
) -> Result<RecordBatch, DataFusionError> {
    let fields = schema.fields().iter().zip(&columns);
    let fields =
        fields.map(|(field, column)| Field::new(field.name(), column.data_type().clone(), true));
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(schema, columns, &options)?)
}
