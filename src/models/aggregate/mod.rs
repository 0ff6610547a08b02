//! *aggregate*: one GROUP BY over one input, kept by what changes in the input.
//!
//! Every group has running values (`cells.rs`), which a change adds to or takes from; only the
//! groups that it touches are computed again. They are stored beside the visible columns of the
//! same row, in hidden ones, so that a table is all that is needed to go on.

mod cells;
mod state;

use std::sync::Arc;

use arrow::{
    array::{Array as _, ArrayRef, BooleanArray, RecordBatch},
    compute::{filter_record_batch, prep_null_mask_filter},
    datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit},
    row::SortField,
};
use datafusion::{
    common::cast::as_boolean_array,
    error::DataFusionError,
    execution::SessionState,
    logical_expr::{
        Aggregate, Distinct, Expr, LogicalPlan,
        expr::{AggregateFunction, AggregateFunctionParams},
    },
    physical_expr::PhysicalExpr,
};

use crate::{
    domain::{change::KEY, sql_exprs::compile},
    models::{
        KeptProgram, KeptState, ProgramError,
        aggregate::cells::Kind,
        steps::{Steps, evaluate, physical},
    },
};

use state::AggregateState;

/// Column of an aggregate's table: how many rows are in the group. Persisted.
const COUNT: &str = "__n";

/// A GROUP BY, compiled.
#[derive(Debug)]
pub(super) struct AggregateProgram {
    /// From rows of the input to the rows that are grouped.
    input: Steps,
    groups: Vec<Arc<dyn PhysicalExpr>>,
    group_types: Vec<DataType>,
    summaries: Vec<Summary>,
    /// Groups and results, as the aggregation gives them.
    grouped: SchemaRef,
    /// From those to the visible columns.
    output: Steps,
    visible: SchemaRef,
    stored: SchemaRef,
}

#[derive(Debug)]
struct Summary {
    kind: Kind,
    argument: Arc<dyn PhysicalExpr>,
    /// The rows that count.
    filter: Option<Arc<dyn PhysicalExpr>>,
}

/// Why a plan is not of this class.
pub(super) type Refusal = String;

/// Rows that are grouped: keys and arguments.
struct Arguments {
    groups: Vec<ArrayRef>,
    arguments: Vec<Argument>,
    rows: usize,
}

/// What a function is given.
struct Argument {
    /// The rows that count, if not all do.
    counting: Option<BooleanArray>,
    /// The values of those.
    values: ArrayRef,
}

impl AggregateProgram {
    /// The aggregation below the projections of an analysed plan, and what it groups.
    pub(super) fn input(plan: &LogicalPlan) -> Option<&LogicalPlan> {
        let mut node = plan;
        loop {
            node = match node {
                LogicalPlan::Projection(projection) => &projection.input,
                LogicalPlan::SubqueryAlias(alias) => &alias.input,
                LogicalPlan::Aggregate(aggregate) => return Some(&aggregate.input),
                LogicalPlan::Distinct(Distinct::All(input)) => return Some(input),
                _ => return None,
            };
        }
    }

    /// Compiles a plan for which [`AggregateProgram::input`] is a chain of projections and filters
    /// over one table. `grows`: rows are never taken out of that. `visible` is the schema of the
    /// model.
    pub(super) fn compile(
        plan: &LogicalPlan,
        grows: bool,
        state: &SessionState,
        visible: SchemaRef,
    ) -> Result<Result<Self, Refusal>, DataFusionError> {
        let (output, node) = Steps::compile(plan, state)?;
        let (input, groups, functions, grouped) = match node {
            LogicalPlan::Aggregate(Aggregate { input, group_expr, aggr_expr, schema, .. }) => {
                (input, group_expr.clone(), aggr_expr.as_slice(), schema)
            }
            LogicalPlan::Distinct(Distinct::All(input)) => {
                let columns = input.schema().columns();
                let columns = columns.into_iter().map(Expr::Column).collect();
                (input, columns, [].as_slice(), input.schema())
            }
            _ => return Ok(Err("does not aggregate at its top".to_owned())),
        };
        let mut summaries = Vec::new();
        for function in functions {
            match summary(function, input, grows, state)? {
                Ok(summary) => summaries.push(summary),
                Err(refusal) => return Ok(Err(refusal)),
            }
        }
        let group_types = grouped.fields()[..groups.len()].iter().map(|f| f.data_type().clone());
        let group_types: Vec<DataType> = group_types.collect();
        if let Some(refusal) = groups.iter().zip(&group_types).find_map(|(g, t)| ungroupable(g, t))
        {
            return Ok(Err(refusal));
        }
        let groups = physical(&groups, input.schema(), state)?;
        let (input, _) = Steps::compile(input, state)?;
        let stored = stored_schema(&summaries, &visible);
        let grouped = Arc::clone(grouped.inner());
        Ok(Ok(Self { input, groups, group_types, summaries, grouped, output, visible, stored }))
    }

    /// Evaluates what a batch of input rows is grouped by, and the arguments of every function.
    fn arguments(&self, rows: &RecordBatch) -> Result<Arguments, DataFusionError> {
        let rows = self.input.run_with(rows, |_| Ok(()))?;
        let groups = evaluate(&self.groups, &rows)?;
        let arguments = self.summaries.iter().map(|summary| {
            let Some(filter) = &summary.filter else {
                let values = summary.argument.evaluate(&rows)?.into_array(rows.num_rows())?;
                return Ok(Argument { counting: None, values });
            };
            let counting = filter.evaluate(&rows)?.into_array(rows.num_rows())?;
            let counting = as_boolean_array(&counting)?;
            let counting = match counting.nulls() {
                Some(_) => prep_null_mask_filter(counting),
                None => counting.clone(),
            };
            // Only of these: of others it may not be computable.
            let rows = filter_record_batch(&rows, &counting)?;
            let values = summary.argument.evaluate(&rows)?.into_array(rows.num_rows())?;
            Ok(Argument { counting: Some(counting), values })
        });
        let arguments = arguments.collect::<Result<_, DataFusionError>>()?;
        Ok(Arguments { groups, arguments, rows: rows.num_rows() })
    }

    fn sort_fields(&self) -> Vec<SortField> {
        self.group_types.iter().map(|of| SortField::new(of.clone())).collect()
    }
}

impl KeptProgram for AggregateProgram {
    fn stored_schema(&self) -> &SchemaRef {
        &self.stored
    }

    fn schema(&self) -> &SchemaRef {
        &self.visible
    }

    fn begin(self: Arc<Self>) -> Result<Box<dyn KeptState>, ProgramError> {
        Ok(Box::new(AggregateState::new(self)?))
    }
}

fn stored_schema(summaries: &[Summary], visible: &SchemaRef) -> SchemaRef {
    let mut fields =
        vec![Field::new(KEY, DataType::Binary, true), Field::new(COUNT, DataType::Int64, true)];
    for (number, summary) in summaries.iter().enumerate() {
        fields.extend(summary.kind.fields(number));
    }
    fields.extend(visible.fields().iter().map(|field| field.as_ref().clone()));
    Arc::new(Schema::new(fields))
}

/// Why rows cannot be grouped by an expression, if they cannot.
fn ungroupable(expr: &Expr, of: &DataType) -> Option<Refusal> {
    if matches!(expr, Expr::GroupingSet(_)) {
        return Some("groups by several sets (ROLLUP, CUBE, GROUPING SETS)".to_owned());
    }
    if of.is_floating() {
        return Some("groups by a floating-point number".to_owned());
    }
    (of.is_nested()).then(|| "groups by a list or struct".to_owned())
}

fn summary(
    function: &Expr,
    input: &LogicalPlan,
    grows: bool,
    state: &SessionState,
) -> Result<Result<Summary, Refusal>, DataFusionError> {
    let Expr::AggregateFunction(AggregateFunction { func, params }) = function.clone().unalias()
    else {
        return Ok(Err("has an unknown aggregate".to_owned()));
    };
    let AggregateFunctionParams { args, distinct, filter, order_by, .. } = params;
    let name = func.name();
    if distinct {
        return Ok(Err(format!("{name}(DISTINCT …) looks at all rows of a group")));
    }
    let [argument] = args.as_slice() else {
        return Ok(Err(format!("{name}() looks at all rows of a group")));
    };
    if !order_by.is_empty() {
        return Ok(Err(format!("{name}() depends on the order of rows")));
    }
    let schema = input.schema();
    use datafusion::logical_expr::ExprSchemable as _;
    let result = function.get_type(schema.as_ref())?;
    let (kind, argument) = match kind(name, argument, schema, &result)? {
        Some(found) => found,
        None => return Ok(Err(format!("{name}() of {} looks at all rows of a group", result))),
    };
    if !grows && !kind.is_exact() {
        return Ok(Err(format!("rows may go out of {name}() of {result}, which is not exact")));
    }
    let argument = compile(argument, schema, state)?;
    let filter = filter.map(|filter| compile(*filter, schema, state)).transpose()?;
    Ok(Ok(Summary { kind, argument, filter }))
}

/// How a function is kept, and what it is given.
fn kind(
    name: &str,
    argument: &Expr,
    schema: &datafusion::common::DFSchema,
    result: &DataType,
) -> Result<Option<(Kind, Expr)>, DataFusionError> {
    use datafusion::logical_expr::ExprSchemable as _;
    let of = argument.get_type(schema)?;
    let found = match (name, &of) {
        ("count", _) => Kind::Count,
        ("sum", DataType::Int64 | DataType::UInt64) => {
            Kind::Sum { scale: 0, result: result.clone() }
        }
        ("sum", DataType::Decimal128(_, scale)) => {
            Kind::Sum { scale: *scale, result: result.clone() }
        }
        ("avg", DataType::Decimal128(_, scale)) => {
            Kind::Mean { scale: *scale, result: result.clone() }
        }
        ("avg", DataType::Float64) => match argument {
            // The engine makes floats of integers; their sum is exact.
            Expr::Cast(cast) if cast.expr.get_type(schema)?.is_integer() => {
                let kind = Kind::Mean { scale: 0, result: DataType::Float64 };
                return Ok(Some((kind, cast.expr.as_ref().clone())));
            }
            _ => Kind::FloatMean,
        },
        ("sum", DataType::Float64) => Kind::FloatSum,
        ("min" | "max", of) if is_ordered_by_its_encoding(of) => {
            Kind::Extreme { of: of.clone(), is_greatest: name == "max" }
        }
        _ => return Ok(None),
    };
    Ok(Some((found, argument.clone())))
}

/// Whether the values of a type are in the order of their encoding as rows, and stored as they are.
fn is_ordered_by_its_encoding(of: &DataType) -> bool {
    of.is_signed_integer()
        || matches!(
            of,
            DataType::Boolean
                | DataType::Utf8
                | DataType::Utf8View
                | DataType::Date32
                | DataType::Timestamp(TimeUnit::Microsecond, _)
                | DataType::Decimal128(..)
        )
}
