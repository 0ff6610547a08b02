//! What a plan does to the rows of relations, seen from its top.

use std::collections::BTreeMap;

use datafusion::{
    common::tree_node::{TreeNode as _, TreeNodeRecursion},
    error::DataFusionError,
    logical_expr::{Expr, LogicalPlan, Volatility},
};

use crate::{
    domain::{TableName, sql_ties},
    models::{
        classify::{Rows, Seen},
        plan::scanned_name,
        steps::{unnest_refused, unnested_column},
    },
};

/// Aggregates for which the order of rows is nothing.
pub(super) const UNORDERED: [&str; 17] = [
    "count",
    "sum",
    "avg",
    "min",
    "max",
    "bool_and",
    "bool_or",
    "approx_distinct",
    "median",
    "percentile_cont",
    "stddev",
    "stddev_pop",
    "var",
    "var_pop",
    "bit_and",
    "bit_or",
    "bit_xor",
];

/// Why a node may give other rows for the same input, if it may.
pub(super) fn unstable(node: &LogicalPlan) -> Option<String> {
    match node {
        LogicalPlan::Subquery(_) => Some("contains a subquery".to_owned()),
        LogicalPlan::Aggregate(aggregate) => aggregate.aggr_expr.iter().find_map(|expr| {
            let name = match expr.clone().unalias() {
                Expr::AggregateFunction(function) if sql_ties::is_ordered(&function) => {
                    return None;
                }
                Expr::AggregateFunction(function) => function.func.name().to_owned(),
                other => other.to_string(),
            };
            let is_unknown = !UNORDERED.contains(&name.as_str());
            is_unknown.then(|| format!("has {name}(), which may depend on the order of rows"))
        }),
        _ => None,
    }
    .or_else(|| node.expressions().iter().find_map(not_deterministic))
}

/// The same for a plan.
pub(super) fn unstable_in(plan: &LogicalPlan) -> Result<Option<String>, DataFusionError> {
    let mut found = None;
    plan.apply(|node| {
        found = unstable(node);
        let stop = found.is_some();
        Ok(if stop { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(found)
}

/// Whether a filter stands over the top aggregation.
pub(super) fn filters_groups(plan: &LogicalPlan) -> bool {
    let mut node = plan;
    loop {
        node = match node {
            LogicalPlan::Projection(projection) => &projection.input,
            LogicalPlan::SubqueryAlias(alias) => &alias.input,
            LogicalPlan::Filter(filter) => &filter.input,
            LogicalPlan::Aggregate(_) => return true,
            _ => return false,
        };
    }
}

/// What is below the projections, filters and unnested lists at the top of a plan.
pub(super) fn row_base(plan: &LogicalPlan) -> &LogicalPlan {
    match plan {
        LogicalPlan::Projection(projection) => row_base(&projection.input),
        LogicalPlan::Filter(filter) => row_base(&filter.input),
        LogicalPlan::SubqueryAlias(alias) => row_base(&alias.input),
        LogicalPlan::Unnest(unnest) if unnested_column(unnest).is_some() => row_base(&unnest.input),
        base => base,
    }
}

/// The one relation whose rows a plan projects and filters, one by one; or what else it does.
pub(super) fn row_wise(
    plan: &LogicalPlan,
    known: &BTreeMap<TableName, Seen>,
) -> Result<(TableName, Rows), String> {
    let mut node = plan;
    loop {
        let exprs: &[Expr] = match node {
            LogicalPlan::Projection(projection) => &projection.expr,
            LogicalPlan::Filter(filter) => std::slice::from_ref(&filter.predicate),
            _ => &[],
        };
        if let Some(reason) = exprs.iter().find_map(not_deterministic) {
            return Err(reason);
        }
        node = match node {
            LogicalPlan::Projection(projection) => &projection.input,
            LogicalPlan::Filter(filter) => &filter.input,
            LogicalPlan::SubqueryAlias(alias) => &alias.input,
            LogicalPlan::Unnest(unnest) if unnested_column(unnest).is_some() => &unnest.input,
            LogicalPlan::Unnest(_) => return Err(unnest_refused()),
            LogicalPlan::TableScan(scan) => {
                let name = scanned_name(scan);
                let reads = || format!("reads {}", scan.table_name.table());
                return known.get(&name).map(|of| (name, of.rows)).ok_or_else(reads);
            }
            LogicalPlan::Aggregate(_) => return Err("aggregates rows (GROUP BY)".into()),
            LogicalPlan::Join(_) => return Err("joins relations".into()),
            LogicalPlan::Window(_) => return Err("has a window function".into()),
            LogicalPlan::Sort(_) | LogicalPlan::Limit(_) => {
                return Err("orders or limits rows".into());
            }
            LogicalPlan::Distinct(_) => return Err("removes equal rows (DISTINCT)".into()),
            LogicalPlan::Union(_) => return Err("unites relations (UNION)".into()),
            LogicalPlan::Values(_) | LogicalPlan::EmptyRelation(_) => {
                return Err("reads no relation".into());
            }
            other => return Err(format!("contains {}", other.display())),
        };
    }
}

pub(super) fn not_deterministic(expr: &Expr) -> Option<String> {
    let mut reason = None;
    let walked = expr.apply(|part| {
        let found = match part {
            Expr::ScalarFunction(call)
                if call.func.signature().volatility != Volatility::Immutable =>
            {
                Some(format!("{}() is not deterministic", call.func.name()))
            }
            Expr::ScalarSubquery(_)
            | Expr::InSubquery(_)
            | Expr::Exists(_)
            | Expr::SetComparison(_) => Some("contains a subquery".to_owned()),
            _ => None,
        };
        let stop = found.is_some();
        reason = found;
        Ok(if stop { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    walked.err().map(|error| error.to_string()).or(reason)
}
