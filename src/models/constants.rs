//! Constants of a query that cannot be what they have to be, found before the first row comes.

use datafusion::{
    common::{
        ScalarValue,
        tree_node::{TreeNode as _, TreeNodeRecursion},
    },
    error::{DataFusionError, Result},
    logical_expr::{Cast, Expr, LogicalPlan, expr::ScalarFunction},
};

/// Refuses constants in an analysed plan that fail as soon as a row comes, or say something else
/// than who wrote them means.
pub(super) fn check_constants(plan: &LogicalPlan) -> Result<()> {
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|expr| {
                match expr {
                    Expr::Cast(cast) => castable(cast)?,
                    Expr::ScalarFunction(call) => patterned(call)?,
                    _ => {}
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    Ok(())
}

/// Refuses a text that is no value of the type that it is compared or put together with.
fn castable(cast: &Cast) -> Result<()> {
    let Expr::Literal(value, _) = cast.expr.as_ref() else { return Ok(()) };
    let Some(Some(text)) = value.try_as_str() else { return Ok(()) };
    let wanted = cast.field.data_type();
    match value.cast_to(wanted) {
        Ok(_) => Ok(()),
        Err(_) => Err(DataFusionError::Plan(format!("'{text}' is no value of type {wanted}"))),
    }
}

/// Refuses `to_char(day, 'YYYY-MM')`, which would print these letters.
fn patterned(call: &ScalarFunction) -> Result<()> {
    if call.name() != "to_char" {
        return Ok(());
    }
    let literal = |expr: &Expr| match expr {
        Expr::Literal(value, _) => value.try_as_str().flatten().map(str::to_owned),
        Expr::Cast(Cast { expr, .. }) => match expr.as_ref() {
            Expr::Literal(value, _) => ScalarValue::try_as_str(value).flatten().map(str::to_owned),
            _ => None,
        },
        _ => None,
    };
    match call.args.get(1).and_then(literal) {
        Some(pattern) if !pattern.is_empty() && !pattern.contains('%') => {
            let message = format!(
                "to_char with '{pattern}' would print just that: its parts are written %Y, %m, %d, \
                 %H, %M, %S, as in '%Y-%m'"
            );
            Err(DataFusionError::Plan(message))
        }
        _ => Ok(()),
    }
}
