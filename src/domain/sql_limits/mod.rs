//! What a SQL function may make of small arguments.
//!
//! The memory of functions and constants is accounted nowhere: `repeat('x', 2000000000)` is one
//! allocation, made while the plan is folded, and one that fails ends the process. So every
//! session that plans SQL is built here. Functions that can make much out of little are told from
//! their arguments how large their output can be, before they run, and constants that would be
//! repeated for every row are refused.

mod constants;
mod distinct;
mod growth;
mod series;
mod size;
mod types;
mod unnest;

#[cfg(test)]
mod tests;

use std::{collections::HashMap, sync::Arc};

use arrow::{
    array::{Array, ArrayRef},
    compute::concat,
    datatypes::{DataType, FieldRef},
};
use datafusion::{
    catalog::TableFunction,
    common::{DFSchema, ScalarValue, config::ConfigOptions, tree_node::Transformed},
    error::{DataFusionError, Result},
    execution::{FunctionRegistry as _, SessionState, SessionStateBuilder},
    logical_expr::{
        BinaryExpr, ColumnarValue, Documentation, Expr, Operator, ReturnFieldArgs,
        ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, StructFieldMapping, Volatility,
        expr::ScalarFunction,
        expr_rewriter::FunctionRewrite,
        simplify::{ExprSimplifyResult, SimplifyContext},
    },
};
use growth::{Arguments, Growth};
pub use size::bytes;

use crate::domain::sql_functions;

/// Largest value that a function may make.
pub const VALUE_BYTES_MAX: usize = 1 << 20;
/// Most that one call of a function may make, for all rows that it is called for.
pub const CALL_BYTES_MAX: usize = 64 << 20;

/// Most that constants, or columns beside an `unnest`, may make for one batch of rows.
const REPEATED_BYTES_MAX: u64 = 512 << 20;

/// The session that `builder` describes, with all functions of the engine, bounded.
pub fn build(builder: SessionStateBuilder) -> SessionState {
    let rule = Arc::new(constants::ConstantsFit);
    let builder = builder.with_default_features().with_type_planner(Arc::new(types::FixedSizes));
    let builder = builder.with_analyzer_rule(Arc::new(unnest::UnnestFits));
    let mut state = builder.with_optimizer_rule(rule).build();
    sql_functions::register(&mut state);
    let functions: Vec<Arc<ScalarUDF>> = state.scalar_functions().values().cloned().collect();
    for bounded in functions.iter().filter_map(bounded) {
        // A registry in memory takes everything.
        state.register_udf(bounded).ok();
    }
    state.register_function_rewrite(Arc::new(Bound)).ok();
    let tables: HashMap<String, Arc<TableFunction>> = state.table_functions().clone();
    for (name, table) in tables {
        let inner = Arc::clone(table.function());
        state.register_udtf(&name, Arc::new(series::BoundedTable { name: name.clone(), inner }));
    }
    state
}

fn too_large(message: &str) -> DataFusionError {
    DataFusionError::Execution(message.to_owned())
}

/// The same function, bounded; `None` where that is not needed or done already.
fn bounded(function: &Arc<ScalarUDF>) -> Option<Arc<ScalarUDF>> {
    let growth = Growth::of(function.name())?;
    if function.inner().is::<Bounded>() {
        return None;
    }
    let inner = Arc::clone(function);
    Some(Arc::new(ScalarUDF::new_from_impl(Bounded { inner, growth })))
}

/// Bounds the calls that the planner writes itself (`[a, b]`), the operator `||` and
/// `count(DISTINCT (a, b))`.
#[derive(Debug)]
struct Bound;

impl FunctionRewrite for Bound {
    fn name(&self) -> &str {
        "bound_functions"
    }

    fn rewrite(
        &self,
        expr: Expr,
        schema: &DFSchema,
        _: &ConfigOptions,
    ) -> Result<Transformed<Expr>> {
        Ok(match expr {
            Expr::ScalarFunction(call) => match bounded(&call.func) {
                Some(func) => {
                    let args = call.args;
                    Transformed::yes(Expr::ScalarFunction(ScalarFunction { func, args }))
                }
                None => Transformed::no(Expr::ScalarFunction(call)),
            },
            Expr::BinaryExpr(BinaryExpr { op: Operator::StringConcat, .. }) => {
                let func = Arc::new(ScalarUDF::new_from_impl(Checked::default()));
                let call = ScalarFunction { func, args: vec![expr] };
                Transformed::yes(Expr::ScalarFunction(call))
            }
            Expr::AggregateFunction(call) => match distinct::encoded(&call, schema) {
                Some(call) => Transformed::yes(Expr::AggregateFunction(call)),
                None => Transformed::no(Expr::AggregateFunction(call)),
            },
            other => Transformed::no(other),
        })
    }
}

/// A function that is asked how much it will make before it runs.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Bounded {
    inner: Arc<ScalarUDF>,
    growth: Growth,
}

/// Hands on what the function says of itself, but `simplify` only where it becomes a cast: others
/// would bring back the function without bounds.
impl ScalarUDFImpl for Bounded {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        self.inner.inner().schema_name(args)
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let field = self.inner.return_field_from_args(args)?;
        types::check_field(&field)?;
        Ok(field)
    }

    fn is_strict(&self) -> bool {
        self.inner.inner().is_strict()
    }

    fn simplify(&self, args: Vec<Expr>, info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        match self.growth {
            Growth::Cast => self.inner.simplify(args, info),
            _ => Ok(ExprSimplifyResult::Original(args)),
        }
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(types)
    }

    fn struct_field_mapping(&self, args: &[Option<ScalarValue>]) -> Option<StructFieldMapping> {
        self.inner.inner().struct_field_mapping(args)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let made = self.invoke(args)?;
        check(self.name(), &made)?;
        Ok(made)
    }
}

impl Bounded {
    fn invoke(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let given = arguments(&args.args)?;
        let is_constant = given.is_constant.iter().all(|constant| *constant);
        let rows = if is_constant { 1 } else { args.number_rows };
        if rows == 0 || self.growth.is_small(&given, rows) {
            return self.inner.invoke_with_args(args);
        }
        let bounds = self.growth.bounds(self.name(), &given, rows)?;
        if let Some(most) = bounds.iter().copied().max().filter(|most| *most > call_bytes_max()) {
            return Err(too_large(&format!(
                "{}() would make a value of up to {most} bytes; at most {VALUE_BYTES_MAX} are \
                 allowed",
                self.name()
            )));
        }
        let pieces = pieces(&bounds);
        match pieces.as_slice() {
            [] | [_] => self.inner.invoke_with_args(args),
            _ => self.invoke_in_pieces(&args, &pieces),
        }
    }

    /// Where the bound is too large for one call, the real output need not be.
    fn invoke_in_pieces(
        &self,
        args: &ScalarFunctionArgs,
        pieces: &[usize],
    ) -> Result<ColumnarValue> {
        let (mut made, mut total, mut start): (Vec<ArrayRef>, usize, usize) = (Vec::new(), 0, 0);
        for length in pieces.iter().copied() {
            let slice = |arg: &ColumnarValue| match arg {
                ColumnarValue::Array(array) => ColumnarValue::Array(array.slice(start, length)),
                scalar => scalar.clone(),
            };
            let piece = ScalarFunctionArgs {
                args: args.args.iter().map(slice).collect(),
                number_rows: length,
                ..args.clone()
            };
            let piece = self.inner.invoke_with_args(piece)?.into_array(length)?;
            total += bytes(&piece);
            if total > CALL_BYTES_MAX {
                return Err(too_much(self.name(), total));
            }
            made.push(piece);
            start += length;
        }
        let made: Vec<&dyn Array> = made.iter().map(AsRef::as_ref).collect();
        Ok(ColumnarValue::Array(concat(&made)?))
    }
}

/// Passes its argument on unless it is too large: around an operator, whose output is at most its
/// input.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Checked {
    signature: Signature,
}

impl Default for Checked {
    fn default() -> Self {
        Self { signature: Signature::any(1, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for Checked {
    fn name(&self) -> &str {
        "checked"
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        Ok(args.iter().map(|arg| arg.schema_name().to_string()).collect())
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        Ok(types.first().cloned().unwrap_or(DataType::Null))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let Some(made) = args.args.into_iter().next() else {
            return Ok(ColumnarValue::Scalar(ScalarValue::Null));
        };
        check("||", &made)?;
        Ok(made)
    }
}

fn arguments(values: &[ColumnarValue]) -> Result<Arguments> {
    let is_constant = values.iter().map(|value| matches!(value, ColumnarValue::Scalar(_)));
    let is_constant = is_constant.collect();
    Ok(Arguments { arrays: values.iter().map(one_each).collect::<Result<_>>()?, is_constant })
}

/// The values of an argument; of a constant, one.
fn one_each(value: &ColumnarValue) -> Result<ArrayRef> {
    match value {
        ColumnarValue::Array(array) => Ok(Arc::clone(array)),
        ColumnarValue::Scalar(scalar) => scalar.to_array(),
    }
}

/// Refuses what a call has made if it is too large.
fn check(function: &str, made: &ColumnarValue) -> Result<()> {
    let made = one_each(made)?;
    let total = bytes(&made);
    if total > CALL_BYTES_MAX {
        return Err(too_much(function, total));
    }
    if total <= VALUE_BYTES_MAX {
        return Ok(());
    }
    match size::rows(&made).into_iter().max() {
        Some(largest) if largest > VALUE_BYTES_MAX => Err(too_large(&format!(
            "{function} made a value of {largest} bytes; at most {VALUE_BYTES_MAX} are allowed"
        ))),
        _ => Ok(()),
    }
}

fn too_much(function: &str, bytes: usize) -> DataFusionError {
    too_large(&format!(
        "{function} made {bytes} bytes for one batch of rows; at most {CALL_BYTES_MAX} are allowed"
    ))
}

fn call_bytes_max() -> u64 {
    u64::try_from(CALL_BYTES_MAX).unwrap_or(u64::MAX)
}

/// Cuts rows into runs that are bound to fit into one call; each row alone does.
fn pieces(bounds: &[u64]) -> Vec<usize> {
    let (mut lengths, mut length, mut total) = (Vec::new(), 0, 0_u64);
    for bound in bounds {
        if length > 0 && total.saturating_add(*bound) > call_bytes_max() {
            lengths.push(length);
            (length, total) = (0, 0);
        }
        length += 1;
        total = total.saturating_add(*bound);
    }
    lengths.push(length);
    lengths
}
