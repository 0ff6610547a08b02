//! Which way of keeping a model its analysed plan allows, and why not a faster one.

use std::{collections::BTreeMap, sync::Arc};

use arrow::datatypes::SchemaRef;
use datafusion::{
    common::tree_node::{TreeNode as _, TreeNodeRecursion},
    error::DataFusionError,
    execution::SessionState,
    logical_expr::{Expr, LogicalPlan, Volatility},
};

use crate::{
    domain::TableName,
    models::{
        aggregate::AggregateProgram,
        append::RowProgram,
        keyed::{First, KeyedProgram},
        plan::{Class, DEFAULT_SCHEMA, Program},
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

/// How a stored model is kept.
pub(super) struct Classified {
    pub class: Class,
    /// Why not a faster class.
    pub reason: String,
    pub program: Program,
}

impl Classified {
    /// What the model asks for by `materialized='view'`.
    pub(super) fn view() -> Self {
        let reason = "the model asks for a view".to_owned();
        Self { class: Class::View, reason, program: Program::None }
    }
}

/// Classifies an analysed plan; `visible` is the schema of the model, `known` tells of every
/// relation.
pub(super) fn classify(
    plan: &LogicalPlan,
    known: &BTreeMap<TableName, Rows>,
    state: &SessionState,
    visible: &SchemaRef,
) -> Result<Classified, DataFusionError> {
    let reason = match row_wise(plan, known) {
        Ok((_, Rows::Arrive | Rows::Grow)) => {
            let program = RowProgram::compile(plan, state, Arc::clone(visible))?;
            return Ok(Classified {
                class: Class::Append,
                reason: "projects and filters one input whose rows only grow".to_owned(),
                program: Program::Rows(Arc::new(program)),
            });
        }
        Ok((name, _)) => format!("rows of {name} may change"),
        Err(reason) => reason,
    };
    match keyed(plan, known, state, visible)? {
        Some(Ok(program)) => {
            return Ok(Classified {
                class: Class::Keyed,
                reason: "takes the first row of each key of one input whose rows only grow".into(),
                program: Program::Kept(Arc::new(program)),
            });
        }
        Some(Err(reason)) => return Ok(recompute(reason)),
        None => {}
    }
    match aggregate(plan, known, state, visible)? {
        Some(Ok(program)) => Ok(Classified {
            class: Class::Aggregate,
            reason: "sums up the rows of one input per group".to_owned(),
            program: Program::Kept(Arc::new(program)),
        }),
        Some(Err(reason)) => Ok(recompute(reason)),
        None => Ok(recompute(reason)),
    }
}

fn recompute(reason: String) -> Classified {
    Classified { class: Class::Recompute, reason, program: Program::None }
}

/// The plan as one aggregation over one input, or why it is none that can be kept; `None` if there
/// is no aggregation at its top.
fn aggregate(
    plan: &LogicalPlan,
    known: &BTreeMap<TableName, Rows>,
    state: &SessionState,
    visible: &SchemaRef,
) -> Result<Option<Result<AggregateProgram, String>>, DataFusionError> {
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
    let rows = match row_wise(input, known) {
        Ok((name, Rows::Replaced)) => {
            return Ok(Some(Err(format!("aggregates {name}, whose rows are replaced as a whole"))));
        }
        Ok((_, rows)) => rows,
        Err(reason) => return Ok(Some(Err(format!("aggregates what {reason}")))),
    };
    let grows = matches!(rows, Rows::Arrive | Rows::Grow);
    AggregateProgram::compile(plan, grows, state, Arc::clone(visible)).map(Some)
}

/// The plan as one that takes the first row of each key, or why that cannot be kept; `None` if it
/// does something else.
fn keyed(
    plan: &LogicalPlan,
    known: &BTreeMap<TableName, Rows>,
    state: &SessionState,
    visible: &SchemaRef,
) -> Result<Option<Result<KeyedProgram, String>>, DataFusionError> {
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
    match row_wise(first.input(), known) {
        Ok((_, rows @ (Rows::Arrive | Rows::Grow))) => {
            let (of_stream, visible) = (rows == Rows::Arrive, Arc::clone(visible));
            KeyedProgram::compile(plan, &first, of_stream, state, visible).map(Some)
        }
        Ok((name, _)) => Ok(Some(Err(format!("takes the first of rows of {name} that may go")))),
        Err(reason) => Ok(Some(Err(format!("takes the first row of what {reason}")))),
    }
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
    known: &BTreeMap<TableName, Rows>,
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
            LogicalPlan::TableScan(scan) => {
                let schema = scan.table_name.schema().unwrap_or(DEFAULT_SCHEMA);
                let name = TableName::new(schema, scan.table_name.table());
                let reads = || format!("reads {}", scan.table_name.table());
                return known.get(&name).copied().map(|rows| (name, rows)).ok_or_else(reads);
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

fn not_deterministic(expr: &Expr) -> Option<String> {
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
