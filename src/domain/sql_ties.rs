//! Ties: rows that an ORDER BY of a model does not tell apart, so that its result depended on the
//! order in which rows happen to come.
//!
//! Where the order decides about the result, the other columns of the rows come after what ORDER BY
//! names, or after nothing: rows that tie then are equal. The rows of a stream are told apart by their
//! places alone. What means all rows that tie (`rank`, a RANGE frame of a sum) is as it was.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::{
    common::{
        Column,
        config::ConfigOptions,
        tree_node::{Transformed, TransformedResult as _, TreeNodeRecursion},
    },
    error::Result,
    execution::SessionStateBuilder,
    logical_expr::{
        Distinct, DistinctOn, Expr, Limit, LogicalPlan, LogicalPlanBuilder, SortExpr, Window,
        WindowFrameBound, WindowFrameUnits,
        expr::{AggregateFunction, WindowFunction},
        expr_rewriter::NamePreserver,
    },
    optimizer::AnalyzerRule,
};

use crate::domain::ACCEPTED;

/// Columns of a stream that no two of its rows have in common.
pub const PLACE: [&str; 3] = ["_partition", "_offset", "_index"];

/// Functions over a window of which one row gets another result than those that tie with it.
const OF_A_ROW: [&str; 9] = [
    "row_number",
    "ntile",
    "lead",
    "lag",
    "first_value",
    "last_value",
    "nth_value",
    "array_agg",
    "string_agg",
];
/// Functions whose result is that of all rows that tie.
const OF_TIES: [&str; 4] = ["rank", "dense_rank", "percent_rank", "cume_dist"];
/// Aggregates whose result depends on the order of rows.
const OF_AN_ORDER: [&str; 5] =
    ["array_agg", "string_agg", "first_value", "last_value", "nth_value"];

/// The session that `builder` describes, in which ties are broken.
pub fn with_ties_broken(builder: SessionStateBuilder) -> SessionStateBuilder {
    builder.with_analyzer_rule(Arc::new(BreakTies))
}

#[derive(Debug)]
struct BreakTies;

impl AnalyzerRule for BreakTies {
    fn name(&self) -> &str {
        "break_ties"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        plan.transform_up_with_subqueries(|node| match node {
            LogicalPlan::Window(node) => window(node),
            LogicalPlan::Aggregate(_) => aggregate(node),
            LogicalPlan::Distinct(Distinct::On(distinct)) => first(distinct),
            LogicalPlan::Limit(node) => limit(node),
            other => Ok(Transformed::no(other)),
        })
        .data()
    }
}

fn window(window: Window) -> Result<Transformed<LogicalPlan>> {
    let names = NamePreserver::new_for_projection();
    let mut exprs = Vec::with_capacity(window.window_expr.len());
    let mut is_changed = false;
    for expr in &window.window_expr {
        let saved = names.save(expr);
        let expr = match expr.clone().unalias() {
            Expr::WindowFunction(mut function) if is_of_a_row(&function) => {
                is_changed |= complete(&mut function.params.order_by, &window.input);
                Expr::WindowFunction(function)
            }
            other => other,
        };
        exprs.push(saved.restore(expr));
    }
    if !is_changed {
        return Ok(Transformed::no(LogicalPlan::Window(window)));
    }
    Ok(Transformed::yes(LogicalPlan::Window(Window::try_new(exprs, window.input)?)))
}

/// The first row of each key: DISTINCT ON.
fn first(mut distinct: DistinctOn) -> Result<Transformed<LogicalPlan>> {
    let on = || distinct.on_expr.iter().map(|expr| expr.clone().sort(true, false)).collect();
    let mut order: Vec<SortExpr> = distinct.sort_expr.take().unwrap_or_else(on);
    let is_changed = complete(&mut order, &distinct.input);
    distinct.sort_expr = Some(order);
    let plan = LogicalPlan::Distinct(Distinct::On(distinct));
    Ok(if is_changed { Transformed::yes(plan) } else { Transformed::no(plan) })
}

/// The first rows of all.
fn limit(limit: Limit) -> Result<Transformed<LogicalPlan>> {
    let Some(input) = sorted(&limit.input)? else {
        return Ok(Transformed::no(LogicalPlan::Limit(limit)));
    };
    Ok(Transformed::yes(LogicalPlan::Limit(Limit { input: Arc::new(input), ..limit })))
}

/// What is limited, in an order without ties; `None` if it is.
fn sorted(plan: &LogicalPlan) -> Result<Option<LogicalPlan>> {
    Ok(match plan {
        LogicalPlan::Sort(sort) => {
            let mut sort = sort.clone();
            let is_changed = complete(&mut sort.expr, &sort.input);
            is_changed.then_some(LogicalPlan::Sort(sort))
        }
        LogicalPlan::Projection(_) | LogicalPlan::Filter(_) | LogicalPlan::SubqueryAlias(_)
            if is_sorted(plan) =>
        {
            let below = plan.inputs().first().map_or(Ok(None), |below| sorted(below))?;
            let over = |below| plan.with_new_exprs(plan.expressions(), vec![below]);
            below.map(over).transpose()?
        }
        LogicalPlan::Limit(_) => None,
        _ => {
            let mut order = Vec::new();
            match complete(&mut order, plan) {
                true => Some(LogicalPlanBuilder::from(plan.clone()).sort(order)?.build()?),
                false => None,
            }
        }
    })
}

/// Adds to an order of rows of `input` what they may still be told apart by. Whether it lacked
/// something.
fn complete(order: &mut Vec<SortExpr>, input: &LogicalPlan) -> bool {
    let before = order.len();
    for column in place(input).unwrap_or_else(|| comparable(input)) {
        let column = Expr::Column(column);
        if order.iter().all(|sort| sort.expr != column) {
            order.push(column.sort(true, false));
        }
    }
    order.len() > before
}

/// The columns that hold the places of the rows of one stream, if these are such.
fn place(input: &LogicalPlan) -> Option<Vec<Column>> {
    let columns = input.schema().columns();
    let of = |name: &&str| {
        (0..columns.len()).find(|at| scanned(input, *at).is_some_and(|of| of == **name))
    };
    let found: Vec<Column> = PLACE.iter().filter_map(of).map(|at| columns[at].clone()).collect();
    (found.len() == PLACE.len()).then_some(found)
}

/// The name of the column of a stream that a column of `node` is.
fn scanned(mut node: &LogicalPlan, mut at: usize) -> Option<String> {
    loop {
        node = match node {
            LogicalPlan::TableScan(scan) if scan.table_name.schema() == Some(ACCEPTED) => {
                return Some(scan.projected_schema.field(at).name().clone());
            }
            LogicalPlan::SubqueryAlias(alias) if alias.alias.schema() == Some(ACCEPTED) => {
                return Some(alias.schema.field(at).name().clone());
            }
            LogicalPlan::Projection(projection) => {
                let below = projection.input.schema();
                at = below.index_of_column(column(&projection.expr[at])?).ok()?;
                &projection.input
            }
            LogicalPlan::Filter(filter) => &filter.input,
            LogicalPlan::SubqueryAlias(alias) => &alias.input,
            // Its columns come behind those of its input.
            LogicalPlan::Window(window) if at < window.input.schema().fields().len() => {
                &window.input
            }
            _ => return None,
        };
    }
}

/// The column that an expression is, whatever name it is given.
fn column(expr: &Expr) -> Option<&Column> {
    match expr {
        Expr::Alias(alias) => column(&alias.expr),
        Expr::Column(column) => Some(column),
        _ => None,
    }
}

/// Whether a sort stands below projections.
fn is_sorted(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Sort(_) => true,
        LogicalPlan::Projection(projection) => is_sorted(&projection.input),
        LogicalPlan::Filter(filter) => is_sorted(&filter.input),
        LogicalPlan::SubqueryAlias(alias) => is_sorted(&alias.input),
        _ => false,
    }
}

/// The columns by which rows can be sorted.
fn comparable(input: &LogicalPlan) -> Vec<Column> {
    let columns = input.schema().columns().into_iter().zip(input.schema().fields());
    columns
        .filter(|(_, field)| can_be_sorted(field.data_type()))
        .map(|(column, _)| column)
        .collect()
}

fn can_be_sorted(of: &DataType) -> bool {
    match of {
        DataType::List(element)
        | DataType::LargeList(element)
        | DataType::FixedSizeList(element, _) => !element.data_type().is_nested(),
        of => !of.is_nested(),
    }
}

/// Whether rows that tie get different results, in a frame that means the same with more columns.
fn is_of_a_row(function: &WindowFunction) -> bool {
    let (name, frame) = (function.fun.name(), &function.params.window_frame);
    let bounds = [&frame.start_bound, &frame.end_bound];
    if frame.units == WindowFrameUnits::Rows {
        // All rows of a part are the same in any order.
        let is_whole = bounds.iter().all(|bound| bound.is_unbounded());
        let is_of_ties = OF_TIES.contains(&name);
        return OF_A_ROW.contains(&name) || (!is_whole && !is_of_ties);
    }
    // So far in values of its one column, or so many groups of ties.
    let is_by_value = bounds
        .iter()
        .any(|bound| !matches!(bound, WindowFrameBound::CurrentRow) && !bound.is_unbounded());
    OF_A_ROW.contains(&name) && !is_by_value
}

/// Whether a function over a window is of its rows in an order.
pub fn is_of_an_order(name: &str) -> bool {
    OF_A_ROW.contains(&name) || OF_TIES.contains(&name)
}

/// Whether an aggregate takes rows in an order without ties.
pub fn is_ordered(function: &AggregateFunction) -> bool {
    OF_AN_ORDER.contains(&function.func.name()) && !function.params.order_by.is_empty()
}

/// Whether the order of rows decides about what a plan gives, but for what is said above.
pub fn decides(plan: &LogicalPlan) -> bool {
    let by_order = |node: &LogicalPlan| match node {
        LogicalPlan::Window(_) | LogicalPlan::Limit(_) | LogicalPlan::Distinct(Distinct::On(_)) => {
            true
        }
        LogicalPlan::Aggregate(aggregate) => aggregate.aggr_expr.iter().any(|expr| {
            matches!(expr.clone().unalias(), Expr::AggregateFunction(function)
                if OF_AN_ORDER.contains(&function.func.name()))
        }),
        _ => false,
    };
    let mut found = false;
    let walked = plan.apply_with_subqueries(|node| {
        found |= by_order(node);
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    found || walked.is_err()
}

/// Among rows that tie, what is collected is in its own order.
fn aggregate(node: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let names = NamePreserver::new_for_projection();
    node.map_expressions(|expr| {
        let saved = names.save(&expr);
        let Expr::AggregateFunction(AggregateFunction { func, mut params }) =
            expr.clone().unalias()
        else {
            return Ok(Transformed::no(expr));
        };
        let is_ordered = OF_AN_ORDER.contains(&func.name());
        // What is DISTINCT can be ordered by itself alone.
        let may_order = !params.distinct || params.order_by.is_empty();
        let Some(of) = params.args.first().filter(|_| is_ordered && may_order).cloned() else {
            return Ok(Transformed::no(expr));
        };
        if params.order_by.iter().any(|sort| sort.expr == of) {
            return Ok(Transformed::no(expr));
        }
        params.order_by.push(of.sort(true, false));
        let expr = Expr::AggregateFunction(AggregateFunction { func, params });
        Ok(Transformed::yes(saved.restore(expr)))
    })
    .map(|changed| Transformed { tnr: TreeNodeRecursion::Continue, ..changed })
}
