//! Which way of keeping a model its analysed plan allows, and why not a faster one.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use arrow::datatypes::{Schema, SchemaRef};
use datafusion::{
    common::tree_node::{TreeNode as _, TreeNodeRecursion},
    error::DataFusionError,
    execution::SessionState,
    logical_expr::{Expr, LogicalPlan, Volatility},
};

use crate::{
    domain::{TableName, sql_ties},
    models::{
        KeptProgram,
        aggregate::AggregateProgram,
        append::RowProgram,
        by_key::{ByKeyProgram, Traceable, decorrelated},
        keyed::{First, KeyedProgram},
        lookup::{GroupedProgram, Joins, LookupProgram},
        plan::{Class, Program, scanned_name},
        steps::{unnest_refused, unnested_column},
    },
};

/// How the rows of a relation change, for whoever reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rows {
    /// They only come, each with its place in a log in columns of its own.
    Arrive,
    /// They only come.
    Grow,
    /// They come and go, and the table tells which.
    Change,
    /// They are replaced as a whole.
    Replaced,
}

/// What is known of a relation.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub rows: Rows,
    /// Whether it is no stream, and does not grow with one: what others are joined to is in memory.
    pub is_side: bool,
    /// Whether it changes with a stream.
    pub is_fed: bool,
}

/// How a stored model is kept.
pub(super) struct Classified {
    pub class: Class,
    /// Why not a faster class.
    pub reason: String,
    /// The relations whose rows it is kept by, in the order in which its program takes them.
    pub driving: Vec<TableName>,
    pub program: Program,
}

impl Classified {
    /// What the model asks for by `materialized='view'`.
    pub(super) fn view() -> Self {
        let reason = "the model asks for a view".to_owned();
        Self { class: Class::View, reason, driving: Vec::new(), program: Program::None }
    }
}

/// Classifies an analysed plan; `visible` is the schema of the model, `known` tells of every
/// relation.
pub(super) fn classify(
    plan: &LogicalPlan,
    known: &BTreeMap<TableName, Seen>,
    state: &SessionState,
    visible: &SchemaRef,
) -> Result<Classified, DataFusionError> {
    let reason = match row_wise(plan, known) {
        Ok((name, Rows::Arrive | Rows::Grow)) => {
            let program = RowProgram::compile(plan, state, Arc::clone(visible))?;
            return Ok(Classified {
                class: Class::Append,
                reason: "projects and filters one input whose rows only grow".to_owned(),
                driving: vec![name],
                program: Program::Rows(Arc::new(program)),
            });
        }
        Ok((name, Rows::Change)) => {
            let (joins, visible) = (Joins::none(plan), Arc::clone(visible));
            match LookupProgram::compile(&joins, Vec::new(), false, state, visible)? {
                Ok(program) => {
                    return Ok(Classified {
                        class: Class::Project,
                        reason: "projects and filters one input whose rows may change".to_owned(),
                        driving: vec![name],
                        program: Program::Kept(Arc::new(program)),
                    });
                }
                Err(reason) => reason,
            }
        }
        Ok((name, _)) => format!("rows of {name} are replaced as a whole"),
        Err(reason) => reason,
    };
    for (class, kept, what) in [
        (
            Class::Keyed,
            keyed as Classify,
            "takes the first row of each key of one input whose rows only grow",
        ),
        (Class::Lookup, joined, "joins the rows of one input to what is known of them"),
        (Class::Aggregate, aggregate, "sums up the rows of one input per group"),
    ] {
        match kept(plan, known, state, visible)? {
            Some(Ok((driving, program))) => {
                let (reason, driving) = (what.to_owned(), vec![driving]);
                return Ok(Classified { class, reason, driving, program: Program::Kept(program) });
            }
            Some(Err(reason)) => return by_key(plan, known, state, visible, reason),
            None => {}
        }
    }
    by_key(plan, known, state, visible, reason)
}

/// A plan as one that is kept in a certain way: what drives it, and how; or why it cannot be kept
/// so. `None` if it does something else.
type Kept = Option<Result<(TableName, Arc<dyn KeptProgram>), String>>;
type Classify = fn(
    &LogicalPlan,
    &BTreeMap<TableName, Seen>,
    &SessionState,
    &SchemaRef,
) -> Result<Kept, DataFusionError>;

fn kept(driving: TableName, program: Result<impl KeptProgram + 'static, String>) -> Kept {
    Some(program.map(|program| (driving, Arc::new(program) as Arc<dyn KeptProgram>)))
}

fn recompute(reason: String) -> Classified {
    Classified { class: Class::Recompute, reason, driving: Vec::new(), program: Program::None }
}

/// What no faster way can keep, for the `reason` given: by the keys of its inputs if it has some, else
/// computed whole.
fn by_key(
    plan: &LogicalPlan,
    known: &BTreeMap<TableName, Seen>,
    state: &SessionState,
    visible: &SchemaRef,
    reason: String,
) -> Result<Classified, DataFusionError> {
    let plan = &decorrelated(plan, state)?;
    let told = told_by(plan, known)?;
    // Where not all of them have the key, some may be what others are joined to.
    let streams = |name: &&TableName| known.get(name).is_some_and(|seen| !seen.is_side);
    let fewer: BTreeSet<TableName> = told.iter().filter(streams).cloned().collect();
    let mut why = None;
    for driving in [&told, &fewer] {
        if driving.is_empty() || (why.is_some() && told == fewer) {
            continue;
        }
        match keyed_by(plan, driving, known, state, visible)? {
            Ok(program) => {
                let (class, driving) = (Class::ByKey, driving.iter().cloned().collect());
                let program = Program::Kept(Arc::new(program));
                return Ok(Classified { class, reason, driving, program });
            }
            Err(found) => why = why.or(Some(found)),
        }
    }
    Ok(recompute(match why {
        Some(why) if why != reason => format!("{reason}; by key: {why}"),
        _ => reason,
    }))
}

/// The plan kept by keys of all `driving` relations; or why it cannot be.
fn keyed_by(
    plan: &LogicalPlan,
    driving: &BTreeSet<TableName>,
    known: &BTreeMap<TableName, Seen>,
    state: &SessionState,
    visible: &SchemaRef,
) -> Result<Result<ByKeyProgram, String>, DataFusionError> {
    let traceable = match Traceable::of(plan, driving)? {
        Ok(traceable) => traceable,
        Err(why) => return Ok(Err(why)),
    };
    let mut tables = Vec::new();
    for plan in traceable.sides() {
        match side(plan, known)? {
            Ok(behind) => tables.push(behind),
            Err(why) => return Ok(Err(why)),
        }
    }
    ByKeyProgram::compile(plan, &traceable, tables, state, Arc::clone(visible))
}

/// The relations that a plan reads that change with streams and tell their changes.
fn told_by(
    plan: &LogicalPlan,
    known: &BTreeMap<TableName, Seen>,
) -> Result<BTreeSet<TableName>, DataFusionError> {
    let mut names = BTreeSet::new();
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            names.insert(scanned_name(scan));
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    let is_told = |seen: &Seen| seen.is_fed && seen.rows != Rows::Replaced;
    names.retain(|name| known.get(name).is_some_and(is_told));
    Ok(names)
}

/// An aggregation over one input, if that is at the top.
fn aggregate(
    plan: &LogicalPlan,
    known: &BTreeMap<TableName, Seen>,
    state: &SessionState,
    visible: &SchemaRef,
) -> Result<Kept, DataFusionError> {
    let Some(input) = AggregateProgram::input(plan) else {
        return Ok(filters_groups(plan).then(|| Err("filters groups (HAVING)".to_owned())));
    };
    let mut above = plan;
    while !std::ptr::eq(above, input) {
        if let Some(reason) = above.expressions().iter().find_map(not_deterministic) {
            return Ok(Some(Err(reason)));
        }
        let Some(below) = above.inputs().first().copied() else { break };
        above = below;
    }
    let Some(joins) = Joins::of(input) else {
        let (name, rows) = match row_wise(input, known) {
            Ok((name, Rows::Replaced)) => {
                let reason = format!("aggregates {name}, whose rows are replaced as a whole");
                return Ok(Some(Err(reason)));
            }
            Ok(found) => found,
            Err(reason) => return Ok(Some(Err(format!("aggregates what {reason}")))),
        };
        let grows = matches!(rows, Rows::Arrive | Rows::Grow);
        let program = AggregateProgram::compile(plan, grows, state, Arc::clone(visible))?;
        return Ok(kept(name, program));
    };
    // Of the rows of the join itself: what is done to them before they are grouped is the
    // aggregate's.
    let joined = joins.joined();
    let fields = joined.schema().fields().iter();
    let fields: Vec<_> = fields.map(|field| field.as_ref().clone().with_nullable(true)).collect();
    let rows = Arc::new(Schema::new(fields));
    let joined = match lookup(joined, known, state, &rows)? {
        Some(Ok(joined)) => joined,
        Some(Err(reason)) => return Ok(Some(Err(format!("aggregates what {reason}")))),
        None => return Ok(None),
    };
    let groups = AggregateProgram::compile(plan, false, state, Arc::clone(visible))?;
    let (name, joined) = joined;
    Ok(kept(name, groups.map(|groups| GroupedProgram::new(joined, groups))))
}

/// The first row of each key.
fn keyed(
    plan: &LogicalPlan,
    known: &BTreeMap<TableName, Seen>,
    state: &SessionState,
    visible: &SchemaRef,
) -> Result<Kept, DataFusionError> {
    let Some(first) = First::of(plan) else { return Ok(None) };
    let mut above = plan;
    while !std::ptr::eq(above, first.input()) {
        let mut exprs = above.expressions();
        exprs.extend(first.expressions().cloned());
        let is_window = matches!(above, LogicalPlan::Window(_));
        if let Some(reason) = exprs.iter().filter(|_| !is_window).find_map(not_deterministic) {
            return Ok(Some(Err(reason)));
        }
        let Some(below) = above.inputs().first().copied() else { break };
        above = below;
    }
    if first.input().exists(|node| Ok(matches!(node, LogicalPlan::Unnest(_))))? {
        return Ok(Some(Err("takes the first of rows that unnest() makes".to_owned())));
    }
    match row_wise(first.input(), known) {
        Ok((name, rows @ (Rows::Arrive | Rows::Grow))) => {
            let (of_stream, visible) = (rows == Rows::Arrive, Arc::clone(visible));
            Ok(kept(name, KeyedProgram::compile(plan, &first, of_stream, state, visible)?))
        }
        Ok((name, _)) => Ok(Some(Err(format!("takes the first of rows of {name} that may go")))),
        Err(reason) => Ok(Some(Err(format!("takes the first row of what {reason}")))),
    }
}

/// The rows of one relation joined to others, if a join is at the top.
fn joined(
    plan: &LogicalPlan,
    known: &BTreeMap<TableName, Seen>,
    state: &SessionState,
    visible: &SchemaRef,
) -> Result<Kept, DataFusionError> {
    let found = lookup(plan, known, state, visible)?;
    Ok(found.and_then(|found| match found {
        Ok((name, program)) => kept(name, Ok(program)),
        Err(reason) => Some(Err(reason)),
    }))
}

/// The same, with what drives it.
#[allow(clippy::type_complexity, reason = "what the others have, before it is boxed")]
fn lookup(
    plan: &LogicalPlan,
    known: &BTreeMap<TableName, Seen>,
    state: &SessionState,
    visible: &SchemaRef,
) -> Result<Option<Result<(TableName, LookupProgram), String>>, DataFusionError> {
    let Some(joins) = Joins::of(plan) else { return Ok(None) };
    let refused = joins.refused();
    if let Some(reason) = refused.or_else(|| joins.expressions().iter().find_map(not_deterministic))
    {
        return Ok(Some(Err(reason)));
    }
    let (name, rows) = match row_wise(joins.driving(), known) {
        Ok((name, Rows::Replaced)) => {
            return Ok(Some(Err(format!("joins {name}, whose rows are replaced as a whole"))));
        }
        Ok(found) => found,
        Err(reason) => return Ok(Some(Err(format!("joins what {reason}")))),
    };
    let mut tables = Vec::new();
    for plan in joins.sides() {
        match side(plan, known)? {
            Ok(behind) => tables.push(behind),
            Err(reason) => return Ok(Some(Err(reason))),
        }
    }
    let rows_stay = matches!(rows, Rows::Arrive | Rows::Grow);
    let program = LookupProgram::compile(&joins, tables, rows_stay, state, Arc::clone(visible))?;
    Ok(Some(program.map(|program| (name, program))))
}

/// The stored tables behind a plan to whose rows others are joined; or why it is none for that.
fn side(
    plan: &LogicalPlan,
    known: &BTreeMap<TableName, Seen>,
) -> Result<Result<Vec<TableName>, String>, DataFusionError> {
    let (mut tables, mut refused) = (Vec::new(), None);
    plan.apply(|node| {
        refused = unstable(node).map(|what| format!("joins what {what}"));
        if let LogicalPlan::TableScan(scan) = node {
            let name = scanned_name(scan);
            match known.get(&name) {
                Some(relation) if relation.is_side => tables.push(name),
                Some(_) => refused = Some(format!("joins {name}, which grows with a stream")),
                None => refused = Some(format!("reads {}", scan.table_name.table())),
            }
        }
        let stop = refused.is_some();
        Ok(if stop { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    tables.sort();
    tables.dedup();
    Ok(refused.map_or(Ok(tables), Err))
}

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
fn unstable(node: &LogicalPlan) -> Option<String> {
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

/// Whether a filter stands over the top aggregation.
fn filters_groups(plan: &LogicalPlan) -> bool {
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

/// The one relation whose rows a plan projects and filters, one by one; or what else it does.
fn row_wise(
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
