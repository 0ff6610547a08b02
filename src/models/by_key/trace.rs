//! Through which columns of its inputs the rows of a plan can be told apart, so that those under some
//! keys follow from the inputs' rows under the same keys alone.

use std::collections::{BTreeMap, BTreeSet};

use datafusion::{
    common::{
        DFSchema, JoinSide,
        tree_node::{Transformed, TreeNode as _, TreeNodeRecursion},
    },
    logical_expr::{
        Aggregate, BinaryExpr, Distinct, DistinctOn, Expr, Join, JoinType, LogicalPlan, Operator,
        Union, Unnest, Window, WindowFunctionDefinition,
        utils::{find_valid_equijoin_key_pair, split_conjunction},
    },
};

use crate::{
    domain::{TableName, sql_ties},
    models::{
        plan::scanned_name,
        shape::{UNORDERED, not_deterministic},
    },
};

/// Of each input that rows come of, what the key is of its rows.
pub(super) type Key = BTreeMap<TableName, Expr>;

/// What is known of the rows of a plan.
pub(super) struct Traced {
    pub columns: Vec<Origin>,
    /// Rows come of rows of the inputs that agree in each of these; `None` if each comes of one alone.
    pub keys: Option<Vec<Key>>,
}

/// What a column is of the rows that a row comes of.
#[derive(Clone)]
pub(super) enum Origin {
    Unknown,
    /// Of each input the same of the rows that it comes of.
    Of(Key),
    /// That, or null where the row comes of rows on the other side of a FULL JOIN alone.
    Half(Key, JoinSide),
}

impl Origin {
    pub(super) fn key(&self) -> Option<&Key> {
        match self {
            Self::Of(key) => Some(key),
            Self::Unknown | Self::Half(..) => None,
        }
    }
}

impl Traced {
    /// Whether rows agree in this key.
    fn has(&self, key: &Key) -> bool {
        self.keys.as_ref().is_none_or(|keys| keys.contains(key))
    }

    /// The keys that columns hold.
    fn held(&self) -> Vec<Key> {
        self.columns.iter().filter_map(Origin::key).cloned().collect()
    }
}

/// Traces the rows of `plan` to those of the `driving` relations; what is joined to them and reads
/// none of these is added to `sides`. An error says what cannot be traced.
pub(super) fn trace<'plan>(
    plan: &'plan LogicalPlan,
    driving: &BTreeSet<TableName>,
    sides: &mut Vec<&'plan LogicalPlan>,
) -> Result<Traced, String> {
    if let Some(reason) = plan.expressions().iter().find_map(not_deterministic) {
        return Err(reason);
    }
    match plan {
        LogicalPlan::TableScan(scan) if driving.contains(&scanned_name(scan)) => {
            let fields = scan.projected_schema.fields().iter();
            let of = |name| Origin::Of(Key::from([(scanned_name(scan), named(name))]));
            let columns = fields.map(|field| of(field.name())).collect();
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
            below.keys = Some(within(below.keys.take(), below.held()));
            Ok(below)
        }
        LogicalPlan::Unnest(unnest) => Ok(unnested(unnest, trace(&unnest.input, driving, sides)?)),
        LogicalPlan::Join(join) => joined(join, driving, sides),
        LogicalPlan::Union(union) => united(union, driving, sides),
        LogicalPlan::Limit(_) | LogicalPlan::Sort(_) => Err("limits rows".to_owned()),
        LogicalPlan::Distinct(Distinct::On(distinct)) => {
            Ok(first(distinct, &trace(&distinct.input, driving, sides)?))
        }
        other => Err(format!("contains {}", other.display())),
    }
}

/// Whether a plan reads one of these relations.
fn reads(plan: &LogicalPlan, names: &BTreeSet<TableName>) -> bool {
    let is_scan = |node: &LogicalPlan| match node {
        LogicalPlan::TableScan(scan) => names.contains(&scanned_name(scan)),
        _ => false,
    };
    plan.exists(|node| Ok(is_scan(node))).unwrap_or(true)
}

fn grouped(aggregate: &Aggregate, below: Traced) -> Result<Traced, String> {
    for expr in &aggregate.aggr_expr {
        if let Expr::AggregateFunction(function) = expr.clone().unalias() {
            let name = function.func.name();
            if !UNORDERED.contains(&name) && !sql_ties::is_ordered(&function) {
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
    columns.resize(aggregate.schema.fields().len(), Origin::Unknown);
    let grouped = Traced { columns, keys: None };
    Ok(Traced { keys: Some(within(below.keys, grouped.held())), ..grouped })
}

/// Of the rows of each key the first.
fn first(distinct: &DistinctOn, below: &Traced) -> Traced {
    let schema = distinct.input.schema();
    let on = distinct.on_expr.iter().map(|expr| traced(expr, schema, below));
    let on: Vec<Key> = on.filter_map(|origin| origin.key().cloned()).collect();
    let columns = distinct.select_expr.iter().map(|expr| {
        let origin = traced(expr, schema, below);
        let is_key = origin.key().is_some_and(|key| on.contains(key));
        if is_key { origin } else { Origin::Unknown }
    });
    Traced { columns: columns.collect(), keys: Some(within(below.keys.clone(), on)) }
}

fn ranked(window: &Window, below: Traced) -> Result<Traced, String> {
    let (mut columns, mut keys) = (below.columns.clone(), below.keys.clone());
    for expr in &window.window_expr {
        let Expr::WindowFunction(function) = expr.clone().unalias() else {
            return Err("has a window function".to_owned());
        };
        let (name, params) = (function.fun.name().to_owned(), &function.params);
        let is_aggregate = matches!(function.fun, WindowFunctionDefinition::AggregateUDF(_));
        let needs_order = sql_ties::is_of_an_order(&name);
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
        let parts =
            parts.filter_map(|part| traced(part, window.input.schema(), &below).key().cloned());
        keys = Some(within(keys, parts.collect()));
    }
    columns.resize(window.schema.fields().len(), Origin::Unknown);
    Ok(Traced { columns, keys })
}

/// What is taken apart is something else than it was; the rest stays.
fn unnested(unnest: &Unnest, below: Traced) -> Traced {
    let is_list = |at: &usize| unnest.list_type_columns.iter().any(|(list, _)| list == at);
    let is_whole = |at: &&usize| !is_list(at) && !unnest.struct_type_columns.contains(at);
    let of_input = |at: &usize| {
        let column = Some(at).filter(is_whole).and_then(|at| below.columns.get(*at));
        column.cloned().unwrap_or(Origin::Unknown)
    };
    Traced { columns: unnest.dependency_indices.iter().map(of_input).collect(), ..below }
}

fn joined<'plan>(
    join: &'plan Join,
    driving: &BTreeSet<TableName>,
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
            left.columns.resize(width, Origin::Unknown);
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
            let mut columns = vec![Origin::Unknown; width - right.columns.len()];
            columns.extend(right.columns);
            Ok(Traced { columns, keys: right.keys })
        }
        _ => {
            let left = trace(&join.left, driving, sides)?;
            let right = trace(&join.right, driving, sides)?;
            met(join, left, right)
        }
    }
}

/// Rows that come of inputs, joined to others that do.
fn met(join: &Join, left: Traced, right: Traced) -> Result<Traced, String> {
    if join.null_aware {
        return Err(
            "has NOT IN, where one null decides about every row (see NOT EXISTS)".to_owned()
        );
    }
    let pairs = pairs(join, &left, &right)?;
    let pairs: Vec<(Key, Key, Key)> = pairs
        .into_iter()
        .filter(|(of_left, of_right, _)| left.has(of_left) && right.has(of_right))
        .collect();
    let both = |column: &Origin, side| {
        let key = column.key();
        let mut pairs = pairs.iter();
        let pair = pairs.find(|(left, right, _)| {
            key == Some(if side == JoinSide::Left { left } else { right })
        });
        pair.map(|(.., both)| both.clone())
    };
    // What the two rows of a pair agree in is of both; all else is of one of them.
    let agreed = |of: &Traced, side| -> Vec<Origin> {
        let agreed = |column| both(column, side).map_or(Origin::Unknown, Origin::Of);
        of.columns.iter().map(agreed).collect()
    };
    // A row that meets none has nulls on the other side, whatever its key.
    let nothing = |of: &Traced, _| vec![Origin::Unknown; of.columns.len()];
    let half = |of: &Traced, side| -> Vec<Origin> {
        let half =
            |column| both(column, side).map_or(Origin::Unknown, |key| Origin::Half(key, side));
        of.columns.iter().map(half).collect()
    };
    let none = |_: &Traced, _| Vec::new();
    let (l, r) = (JoinSide::Left, JoinSide::Right);
    let (of_left, of_right) = match join.join_type {
        JoinType::Left => (agreed(&left, l), nothing(&right, r)),
        JoinType::Right => (nothing(&left, l), agreed(&right, r)),
        JoinType::Full => (half(&left, l), half(&right, r)),
        JoinType::LeftSemi | JoinType::LeftAnti => (agreed(&left, l), none(&right, r)),
        JoinType::RightSemi | JoinType::RightAnti => (none(&left, l), agreed(&right, r)),
        _ => (agreed(&left, l), agreed(&right, r)),
    };
    let columns = of_left.into_iter().chain(of_right).collect();
    Ok(Traced { columns, keys: Some(pairs.into_iter().map(|(.., both)| both).collect()) })
}

/// What both sides of a join agree in wherever their rows meet: of the left one, of the right one,
/// and of all inputs.
fn pairs(join: &Join, left: &Traced, right: &Traced) -> Result<Vec<(Key, Key, Key)>, String> {
    let (of_left, of_right) = (join.left.schema(), join.right.schema());
    let mut equal = join.on.clone();
    for part in join.filter.iter().flat_map(split_conjunction) {
        if let Expr::BinaryExpr(BinaryExpr { left: a, op: Operator::Eq, right: b }) = part {
            let pair = find_valid_equijoin_key_pair(a, b, of_left, of_right);
            equal.extend(pair.map_err(|error| error.to_string())?);
        }
    }
    let pairs = equal.iter().filter_map(|(a, b)| {
        let (a, b) = (traced(a, of_left, left), traced(b, of_right, right));
        let (a, b) = (a.key()?, b.key()?);
        Some((a.clone(), b.clone(), united_key(a, b)?))
    });
    Ok(pairs.collect())
}

/// What is the one of some inputs and the other of others, unless they differ about an input.
fn united_key(a: &Key, b: &Key) -> Option<Key> {
    let agree = a.iter().all(|(input, expr)| b.get(input).is_none_or(|other| other == expr));
    agree.then(|| a.iter().chain(b).map(|(input, expr)| (input.clone(), expr.clone())).collect())
}

fn united<'plan>(
    union: &'plan Union,
    driving: &BTreeSet<TableName>,
    sides: &mut Vec<&'plan LogicalPlan>,
) -> Result<Traced, String> {
    let mut all: Option<Traced> = None;
    for input in &union.inputs {
        if !reads(input, driving) {
            return Err(
                "unites rows with those of a relation that does not tell its changes".to_owned()
            );
        }
        let next = trace(input, driving, sides)?;
        all = Some(match all {
            None => next,
            Some(before) => both(&before, &next),
        });
    }
    all.ok_or_else(|| "unites nothing".to_owned())
}

/// Rows of the one and rows of the other.
fn both(one: &Traced, other: &Traced) -> Traced {
    let columns = one.columns.iter().zip(&other.columns);
    let pairs: Vec<Option<(&Key, &Key, Key)>> = columns
        .map(|(a, b)| a.key().zip(b.key()).and_then(|(a, b)| Some((a, b, united_key(a, b)?))))
        .collect();
    let keys = pairs.iter().flatten().filter(|(a, b, _)| one.has(a) && other.has(b));
    let keys = (one.keys.is_some() || other.keys.is_some())
        .then(|| keys.map(|(.., key)| key.clone()).collect());
    let columns = pairs.iter().map(|pair| match pair {
        Some((.., key)) => Origin::Of(key.clone()),
        None => Origin::Unknown,
    });
    Traced { columns: columns.collect(), keys }
}

/// Those of `keys` that are among `before`, if that is anything in particular.
fn within(before: Option<Vec<Key>>, keys: Vec<Key>) -> Vec<Key> {
    keys.into_iter().filter(|key| before.as_ref().is_none_or(|all| all.contains(key))).collect()
}

/// What an expression over traced rows is of the rows of the inputs.
fn traced(expr: &Expr, schema: &DFSchema, rows: &Traced) -> Origin {
    let expr = expr.clone().unalias_nested().data;
    if let Expr::Column(column) = &expr {
        let at = schema.index_of_column(column).ok();
        return at.and_then(|at| rows.columns.get(at).cloned()).unwrap_or(Origin::Unknown);
    }
    if let Some(key) = of_either(&expr, schema, rows) {
        return Origin::Of(key);
    }
    let inputs = rows.columns.iter().find_map(Origin::key);
    let inputs: Vec<&TableName> = inputs.map(|key| key.keys().collect()).unwrap_or_default();
    let key: Option<Key> = inputs
        .into_iter()
        .map(|input| Some((input.clone(), of_input(expr.clone(), schema, rows, input)?)))
        .collect();
    key.filter(|key| !key.is_empty()).map_or(Origin::Unknown, Origin::Of)
}

/// The first of both sides of a FULL JOIN that is there.
fn of_either(expr: &Expr, schema: &DFSchema, rows: &Traced) -> Option<Key> {
    let Expr::ScalarFunction(call) = expr else { return None };
    let [one, other] = call.args.as_slice() else { return None };
    if call.func.name() != "coalesce" {
        return None;
    }
    match (traced(one, schema, rows), traced(other, schema, rows)) {
        (Origin::Half(key, side), Origin::Half(of, another)) => {
            (side != another && key == of).then_some(key)
        }
        _ => None,
    }
}

/// The same as an expression over the rows of one input, if it is one.
fn of_input(expr: Expr, schema: &DFSchema, rows: &Traced, input: &TableName) -> Option<Expr> {
    let (mut is_known, mut has_column) = (true, false);
    let of_input = expr.transform_up(|part| match &part {
        Expr::Column(column) => {
            let at = schema.index_of_column(column).ok();
            let column = at.and_then(|at| rows.columns.get(at)?.key()?.get(input));
            has_column = true;
            Ok(match column {
                Some(expr) => Transformed::new(expr.clone(), true, TreeNodeRecursion::Jump),
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

/// A column of an input.
fn named(name: &str) -> Expr {
    Expr::Column(datafusion::common::Column::new_unqualified(name))
}
