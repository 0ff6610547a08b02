//! Expressions that can be computed for every row there may be.

use arrow::datatypes::DataType;
use datafusion::{
    common::{DFSchema, ScalarValue},
    error::DataFusionError,
    logical_expr::{BinaryExpr, Expr, ExprSchemable as _, Operator},
};

/// Functions that have a value for all of their arguments' values.
const TOTAL: [&str; 14] = [
    "date_trunc",
    "date_bin",
    "date_part",
    "upper",
    "lower",
    "btrim",
    "ltrim",
    "rtrim",
    "trim",
    "coalesce",
    "nullif",
    "concat",
    "md5",
    "character_length",
];

const COMPARING: [Operator; 8] = [
    Operator::Eq,
    Operator::NotEq,
    Operator::Lt,
    Operator::LtEq,
    Operator::Gt,
    Operator::GtEq,
    Operator::IsDistinctFrom,
    Operator::IsNotDistinctFrom,
];

/// Whether an expression has a value for every row; when in doubt not.
pub(super) fn always_computes(expr: &Expr, schema: &DFSchema) -> Result<bool, DataFusionError> {
    let all = |exprs: &mut dyn Iterator<Item = &Expr>| -> Result<bool, DataFusionError> {
        for expr in exprs {
            if !always_computes(expr, schema)? {
                return Ok(false);
            }
        }
        Ok(true)
    };
    Ok(match expr {
        Expr::Column(_) | Expr::Literal(..) => true,
        Expr::Cast(cast) => {
            let from = cast.expr.get_type(schema)?;
            never_fails(&from, &expr.get_type(schema)?) && always_computes(&cast.expr, schema)?
        }
        Expr::TryCast(cast) => always_computes(&cast.expr, schema)?,
        Expr::IsNull(of) | Expr::IsNotNull(of) | Expr::Not(of) => always_computes(of, schema)?,
        Expr::ScalarFunction(call) if TOTAL.contains(&call.func.name()) => {
            all(&mut call.args.iter())?
        }
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let is_integer =
                |expr: &Expr| Ok::<_, DataFusionError>(expr.get_type(schema)?.is_integer());
            let are_integers = is_integer(left)? && is_integer(right)?;
            let is_total = match op {
                // These wrap around.
                Operator::Plus | Operator::Minus | Operator::Multiply => are_integers,
                Operator::Divide | Operator::Modulo => are_integers && is_positive(right),
                Operator::StringConcat => true,
                op => COMPARING.contains(op) || op.is_logic_operator(),
            };
            is_total && all(&mut [left.as_ref(), right.as_ref()].into_iter())?
        }
        Expr::Case(case) => {
            let branches = case.when_then_expr.iter().flat_map(|(when, then)| [when, then]);
            let others = case.expr.iter().chain(&case.else_expr);
            all(&mut branches.chain(others).map(AsRef::as_ref))?
        }
        _ => false,
    })
}

fn is_positive(expr: &Expr) -> bool {
    match expr {
        Expr::Literal(value, _) => {
            let number = value.cast_to(&DataType::Int64);
            matches!(number, Ok(ScalarValue::Int64(Some(number))) if number > 0)
        }
        Expr::Cast(cast) => is_positive(&cast.expr),
        _ => false,
    }
}

/// Whether every value of one type is one of the other; a time may lose what is behind its unit.
pub(super) fn never_fails(from: &DataType, to: &DataType) -> bool {
    use DataType::{Date32, Timestamp, UInt64, Utf8};
    let bits = |of: &DataType| of.primitive_width().unwrap_or_default() * 8;
    match (from, to) {
        (from, to) if from == to => true,
        (UInt64, to) if to.is_integer() => false,
        (from, to) if from.is_unsigned_integer() && to.is_signed_integer() => bits(from) < bits(to),
        (from, to) if from.is_signed_integer() && to.is_signed_integer() => bits(from) <= bits(to),
        (Timestamp(..), Timestamp(..) | Date32) => true,
        (from, to) if is_text(from) => is_text(to),
        (from, Utf8) => from.is_primitive() || *from == DataType::Boolean,
        _ => false,
    }
}

fn is_text(of: &DataType) -> bool {
    matches!(of, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}
