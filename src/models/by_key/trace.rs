//! Through which columns of its input the rows of a plan can be told apart, so that those under some
//! keys follow from the input's rows under the same keys alone.

use datafusion::{
    common::{
        DFSchema,
        tree_node::{Transformed, TreeNode as _, TreeNodeRecursion},
    },
    logical_expr::{
        Aggregate, BinaryExpr, Distinct, Expr, Join, JoinType, LogicalPlan, Operator, Union,
        Unnest, Window, WindowFunctionDefinition,
        expr::AggregateFunction,
        utils::{find_valid_equijoin_key_pair, split_conjunction},
    },
};

use crate::{
    domain::TableName,
    models::{
        classify::{UNORDERED, not_deterministic},
        plan::scanned_name,
    },
};

/// What is known of the rows of a plan.
pub(super) struct Traced {
    /// Of each column, what it is of the input's row that it comes of, where it is something.
    pub columns: Vec<Option<Expr>>,
    /// Rows come of input rows that agree in each of these; `None` if each comes of one alone.
    pub keys: Option<Vec<Expr>>,
}

/// Functions that are of the first, the last or all rows in an order.
const OF_AN_ORDER: [&str; 13] = [
    "row_number",
    "rank",
    "dense_rank",
    "percent_rank",
    "cume_dist",
    "ntile",
    "lead",
    "lag",
    "first_value",
    "last_value",
    "nth_value",
    "array_agg",
    "string_agg",
];
/// Traces the rows of `plan` to the rows of `driving`; what is joined to them and reads nothing of
/// it is added to `sides`. An error says what cannot be traced.
pub(super) fn trace<'plan>(
    plan: &'plan LogicalPlan,
    driving: &TableName,
    sides: &mut Vec<&'plan LogicalPlan>,
) -> Result<Traced, String> {
    if let Some(reason) = plan.expressions().iter().find_map(not_deterministic) {
        return Err(reason);
    }
    match plan {
        LogicalPlan::TableScan(scan) if scanned_name(scan) == *driving => {
            let fields = scan.projected_schema.fields().iter();
            let columns = fields.map(|field| Some(named(field.name()))).collect();
            Ok(Traced { columns, keys: None })
        }
        LogicalPlan::Projection(projection) => {
            let below = trace(&projection.input, driving, sides)?;
            let of_input = |expr| traced(expr, projection.input.schema(), &below);
            Ok(Traced { columns: projection.expr.iter().map(of_input).collect(), ..below })
        }
        LogicalPlan::Filter(filter) => trace(&filter.input, driving, sides),
        LogicalPlan::SubqueryAlias(alias) => trace(&alias.input, driving, sides),
        LogicalPlan::Sort(sort) if sort.fetch.is_none() => trace(&sort.input, driving, sides),
        LogicalPlan::Aggregate(aggregate) => {
            grouped(aggregate, trace(&aggregate.input, driving, sides)?)
        }
        LogicalPlan::Window(window) => ranked(window, trace(&window.input, driving, sides)?),
        LogicalPlan::Distinct(Distinct::All(input)) => {
            let mut below = trace(input, driving, sides)?;
            let all = below.columns.iter().flatten().cloned().collect();
            below.keys = Some(within(below.keys, all));
            Ok(below)
        }
        LogicalPlan::Unnest(unnest) => Ok(unnested(unnest, trace(&unnest.input, driving, sides)?)),
        LogicalPlan::Join(join) => joined(join, driving, sides),
        LogicalPlan::Union(union) => united(union, driving, sides),
        LogicalPlan::Limit(_) | LogicalPlan::Sort(_) => Err("limits rows".to_owned()),
        LogicalPlan::Distinct(_) => Err("takes one of equal rows".to_owned()),
        other => Err(format!("contains {}", other.display())),
    }
}

/// Whether a plan reads a relation.
fn reads(plan: &LogicalPlan, name: &TableName) -> bool {
    let is_scan = |node: &LogicalPlan| match node {
        LogicalPlan::TableScan(scan) => scanned_name(scan) == *name,
        _ => false,
    };
    plan.exists(|node| Ok(is_scan(node))).unwrap_or(true)
}

fn grouped(aggregate: &Aggregate, below: Traced) -> Result<Traced, String> {
    for expr in &aggregate.aggr_expr {
        if let Expr::AggregateFunction(AggregateFunction { func, params }) = expr.clone().unalias()
        {
            let name = func.name();
            let is_ordered = OF_AN_ORDER.contains(&name) && !params.order_by.is_empty();
            if !UNORDERED.contains(&name) && !is_ordered {
                return Err(format!("has {name}(), which may depend on the order of rows"));
            }
        }
    }
    let mut columns = Vec::new();
    for expr in &aggregate.group_expr {
        if matches!(expr, Expr::GroupingSet(_)) {
            return Err("groups in several ways at once".to_owned());
        }
        columns.push(traced(expr, aggregate.input.schema(), &below));
    }
    let keys = within(below.keys, columns.iter().flatten().cloned().collect());
    columns.resize(aggregate.schema.fields().len(), None);
    Ok(Traced { columns, keys: Some(keys) })
}

fn ranked(window: &Window, below: Traced) -> Result<Traced, String> {
    let (mut columns, mut keys) = (below.columns.clone(), below.keys.clone());
    for expr in &window.window_expr {
        let Expr::WindowFunction(function) = expr.clone().unalias() else {
            return Err("has a window function".to_owned());
        };
        let (name, params) = (function.fun.name().to_owned(), &function.params);
        let is_aggregate = matches!(function.fun, WindowFunctionDefinition::AggregateUDF(_));
        let needs_order = OF_AN_ORDER.contains(&name.as_str());
        if params.order_by.is_empty() && needs_order {
            return Err(format!("has {name}() without ORDER BY"));
        }
        if is_aggregate && !needs_order && !UNORDERED.contains(&name.as_str()) {
            return Err(format!("has {name}(), which may depend on the order of rows"));
        }
        if params.partition_by.is_empty() {
            return Err(format!("has {name}() without PARTITION BY"));
        }
        let parts = params.partition_by.iter();
        let parts = parts.filter_map(|part| traced(part, window.input.schema(), &below)).collect();
        keys = Some(within(keys, parts));
    }
    columns.resize(window.schema.fields().len(), None);
    Ok(Traced { columns, keys })
}

/// What is taken apart is something else than it was; the rest stays.
fn unnested(unnest: &Unnest, below: Traced) -> Traced {
    let is_list = |at: &usize| unnest.list_type_columns.iter().any(|(list, _)| list == at);
    let is_whole = |at: &&usize| !is_list(at) && !unnest.struct_type_columns.contains(at);
    let of_input = |at: &usize| below.columns.get(*Some(at).filter(is_whole)?).cloned().flatten();
    Traced { columns: unnest.dependency_indices.iter().map(of_input).collect(), ..below }
}

fn joined<'plan>(
    join: &'plan Join,
    driving: &TableName,
    sides: &mut Vec<&'plan LogicalPlan>,
) -> Result<Traced, String> {
    let by = || format!("joins relations by {} JOIN", join.join_type.to_string().to_uppercase());
    let kind = join.join_type;
    if matches!(kind, JoinType::LeftMark | JoinType::RightMark) {
        return Err(by());
    }
    let width = join.schema.fields().len();
    match (reads(&join.left, driving), reads(&join.right, driving)) {
        (true, false) => {
            if !matches!(
                kind,
                JoinType::Inner | JoinType::Left | JoinType::LeftSemi | JoinType::LeftAnti
            ) {
                return Err(by());
            }
            let mut left = trace(&join.left, driving, sides)?;
            sides.push(&join.right);
            left.columns.resize(width, None);
            Ok(left)
        }
        (false, true) => {
            if !matches!(
                kind,
                JoinType::Inner | JoinType::Right | JoinType::RightSemi | JoinType::RightAnti
            ) {
                return Err(by());
            }
            let right = trace(&join.right, driving, sides)?;
            sides.push(&join.left);
            let mut columns = vec![None; width - right.columns.len()];
            columns.extend(right.columns);
            Ok(Traced { columns, keys: right.keys })
        }
        _ => {
            let left = trace(&join.left, driving, sides)?;
            let right = trace(&join.right, driving, sides)?;
            let shared = shared(join, &left, &right)?;
            let keys = within(left.keys, within(right.keys, shared));
            // What the two rows of a pair agree in is of both; all else is of one of them.
            let agreed = |columns: Vec<Option<Expr>>| -> Vec<Option<Expr>> {
                let agreed = |column: Option<Expr>| column.filter(|column| keys.contains(column));
                columns.into_iter().map(agreed).collect()
            };
            let nothing = |columns: &[Option<Expr>]| vec![None; columns.len()];
            // A row that meets none has nulls on the other side, whatever its key.
            let (of_left, of_right) = match kind {
                JoinType::Left => (left.columns, nothing(&right.columns)),
                JoinType::Right => (nothing(&left.columns), right.columns),
                JoinType::Full => (nothing(&left.columns), nothing(&right.columns)),
                JoinType::LeftSemi | JoinType::LeftAnti => (left.columns, Vec::new()),
                JoinType::RightSemi | JoinType::RightAnti => (Vec::new(), right.columns),
                _ => (agreed(left.columns), agreed(right.columns)),
            };
            Ok(Traced { columns: of_left.into_iter().chain(of_right).collect(), keys: Some(keys) })
        }
    }
}

/// What both sides of a join agree in wherever their rows meet.
fn shared(join: &Join, left: &Traced, right: &Traced) -> Result<Vec<Expr>, String> {
    let (of_left, of_right) = (join.left.schema(), join.right.schema());
    let mut equal = join.on.clone();
    for part in join.filter.iter().flat_map(split_conjunction) {
        if let Expr::BinaryExpr(BinaryExpr { left: a, op: Operator::Eq, right: b }) = part {
            let pair = find_valid_equijoin_key_pair(a, b, of_left, of_right);
            equal.extend(pair.map_err(|error| error.to_string())?);
        }
    }
    let pairs = equal.iter().filter_map(|(a, b)| {
        let (a, b) = (traced(a, of_left, left)?, traced(b, of_right, right)?);
        (a == b).then_some(a)
    });
    Ok(pairs.collect())
}

fn united<'plan>(
    union: &'plan Union,
    driving: &TableName,
    sides: &mut Vec<&'plan LogicalPlan>,
) -> Result<Traced, String> {
    let mut all: Option<Traced> = None;
    for input in &union.inputs {
        if !reads(input, driving) {
            return Err("unites rows with those of another relation".to_owned());
        }
        let next = trace(input, driving, sides)?;
        all = Some(match all {
            None => next,
            Some(before) => {
                let both = before.columns.into_iter().zip(next.columns);
                let columns = both.map(|(a, b)| a.filter(|a| Some(a) == b.as_ref())).collect();
                let keys = match (before.keys, next.keys) {
                    (keys, None) | (None, keys) => keys,
                    (keys, Some(others)) => Some(within(keys, others)),
                };
                Traced { columns, keys }
            }
        });
    }
    all.ok_or_else(|| "unites nothing".to_owned())
}

/// Those of `keys` that are among `before`, if that is anything in particular.
fn within(before: Option<Vec<Expr>>, keys: Vec<Expr>) -> Vec<Expr> {
    keys.into_iter().filter(|key| before.as_ref().is_none_or(|all| all.contains(key))).collect()
}

/// An expression over traced rows as one over the input's, if it is one.
fn traced(expr: &Expr, schema: &DFSchema, rows: &Traced) -> Option<Expr> {
    let (mut is_known, mut has_column) = (true, false);
    let of_input = expr.clone().unalias_nested().data.transform_up(|part| match &part {
        Expr::Column(column) => {
            let at = schema.index_of_column(column).ok();
            let of_input = at.and_then(|at| rows.columns.get(at)?.clone());
            has_column = true;
            Ok(match of_input {
                Some(expr) => Transformed::new(expr, true, TreeNodeRecursion::Jump),
                None => {
                    is_known = false;
                    Transformed::no(part)
                }
            })
        }
        Expr::AggregateFunction(_) | Expr::WindowFunction(_) => {
            is_known = false;
            Ok(Transformed::no(part))
        }
        _ => Ok(Transformed::no(part)),
    });
    of_input.ok().map(|expr| expr.data).filter(|_| is_known && has_column)
}

/// A column of the input.
fn named(name: &str) -> Expr {
    Expr::Column(datafusion::common::Column::new_unqualified(name))
}
