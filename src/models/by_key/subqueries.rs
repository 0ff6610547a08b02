//! Subqueries as joins, through which rows can be traced.

use std::sync::Arc;

use datafusion::{
    error::DataFusionError,
    execution::SessionState,
    logical_expr::LogicalPlan,
    optimizer::{
        Optimizer, decorrelate_predicate_subquery::DecorrelatePredicateSubquery,
        scalar_subquery_to_join::ScalarSubqueryToJoin,
    },
};

/// The plan with `IN`, `EXISTS` and subqueries of one value over the row before them as joins, where
/// the engine makes such of them; the rest stays as it is.
pub(in crate::models) fn decorrelated(
    plan: &LogicalPlan,
    state: &SessionState,
) -> Result<LogicalPlan, DataFusionError> {
    let rules = Optimizer::with_rules(vec![
        Arc::new(DecorrelatePredicateSubquery::new()),
        Arc::new(ScalarSubqueryToJoin::new()),
    ]);
    rules.optimize(plan.clone(), state, |_, _| {})
}
