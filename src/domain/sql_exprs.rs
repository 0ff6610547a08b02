//! Expressions, compiled to be run on batches.

use std::sync::Arc;

use datafusion::{
    common::DFSchema,
    error::Result,
    execution::SessionState,
    logical_expr::{Expr, simplify::SimplifyContext},
    optimizer::simplify_expressions::ExprSimplifier,
    physical_expr::PhysicalExpr,
};

/// Compiles an expression over columns of `schema`.
///
/// Some functions of the engine exist as a form that its optimiser replaces, and fail where they
/// are run as they are: `coalesce` is one. So what the optimiser does to expressions is done here.
pub fn compile(
    expr: Expr,
    schema: &DFSchema,
    state: &SessionState,
) -> Result<Arc<dyn PhysicalExpr>> {
    let context = SimplifyContext::builder()
        .with_schema(Arc::new(schema.clone()))
        .with_config_options(Arc::clone(state.config_options()))
        .build();
    let simplifier = ExprSimplifier::new(context);
    let expr = simplifier.simplify(simplifier.coerce(expr, schema)?)?;
    state.create_physical_expr(expr, schema)
}
