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
    logical_expr::LogicalPlan,
};

use crate::{
    domain::TableName,
    models::{
        KeptProgram,
        aggregate::AggregateProgram,
        append::RowProgram,
        by_key::{ByKeyProgram, Traceable, decorrelated},
        class::Class,
        keyed::{First, KeyedProgram},
        lookup::{GroupedProgram, Joins, LookupProgram},
        plan::{Program, scanned_name},
        shape::{filters_groups, not_deterministic, row_base, row_wise, unstable, unstable_in},
        united::{UnitedProgram, branches, is_constant},
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

impl Seen {
    /// Whether its rows only come.
    fn only_grows(&self) -> bool {
        matches!(self.rows, Rows::Arrive | Rows::Grow)
    }
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
    match united(plan, known, state, visible)? {
        Some(Ok(United { driving, program, .. })) => {
            let (class, reason) = match program.sides().is_empty() {
                true => (Class::Project, "unites the rows of its inputs, one by one"),
                false => (Class::Lookup, "unites rows that are joined to what is known of them"),
            };
            let (reason, program) = (reason.to_owned(), Program::Kept(program));
            return Ok(Classified { class, reason, driving, program });
        }
        Some(Err(reason)) => return by_key(plan, known, state, visible, reason),
        None => {}
    }
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
                let program = Program::Kept(program);
                return Ok(Classified { class, reason: what.to_owned(), driving, program });
            }
            Some(Err(reason)) => return by_key(plan, known, state, visible, reason),
            None => {}
        }
    }
    by_key(plan, known, state, visible, reason)
}

/// A plan as one that is kept in a certain way: what drives it, and how; or why it cannot be kept
/// so. `None` if it does something else.
type Kept = Option<Result<(Vec<TableName>, Arc<dyn KeptProgram>), String>>;
type Classify = fn(
    &LogicalPlan,
    &BTreeMap<TableName, Seen>,
    &SessionState,
    &SchemaRef,
) -> Result<Kept, DataFusionError>;

fn kept(driving: Vec<TableName>, program: Result<impl KeptProgram + 'static, String>) -> Kept {
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
    let base = row_base(input);
    if branches(base)?.len() == 1 && Joins::of(input).is_none() {
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
        return Ok(kept(vec![name], program));
    }
    // Of the rows of the join or the union itself: what is done to them before they are grouped is
    // the aggregate's.
    let fields = base.schema().fields().iter();
    let fields: Vec<_> = fields.map(|field| field.as_ref().clone().with_nullable(true)).collect();
    let (driving, rows, grows) = match given(base, known, state, &Arc::new(Schema::new(fields)))? {
        Some(Ok(given)) => given,
        Some(Err(reason)) => return Ok(Some(Err(format!("aggregates what {reason}")))),
        None => return Ok(None),
    };
    let groups = AggregateProgram::compile(plan, grows, state, Arc::clone(visible))?;
    Ok(kept(driving, groups.map(|groups| GroupedProgram::new(rows, groups))))
}

/// What a union or a join gives to an aggregate over it: what drives it, and whether its rows only
/// come.
#[allow(clippy::type_complexity, reason = "said above")]
fn given(
    base: &LogicalPlan,
    known: &BTreeMap<TableName, Seen>,
    state: &SessionState,
    rows: &SchemaRef,
) -> Result<Option<Result<(Vec<TableName>, Arc<dyn KeptProgram>, bool), String>>, DataFusionError> {
    if let Some(found) = united(base, known, state, rows)? {
        return Ok(Some(found.and_then(|United { driving, program, grows }| {
            if program.has_constants() {
                return Err("unites rows with some that are always there".to_owned());
            }
            Ok((driving, program as Arc<dyn KeptProgram>, grows))
        })));
    }
    let Some(joins) = Joins::of(base) else { return Ok(None) };
    let found = lookup(&joins, known, state, rows)?;
    Ok(Some(
        found.map(|(name, program)| (vec![name], Arc::new(program) as Arc<dyn KeptProgram>, false)),
    ))
}

/// What UNION ALL puts together.
struct United {
    driving: Vec<TableName>,
    program: Arc<UnitedProgram>,
    /// Whether rows only come.
    grows: bool,
}

/// The rows of several inputs put together, if that is at the top.
fn united(
    plan: &LogicalPlan,
    known: &BTreeMap<TableName, Seen>,
    state: &SessionState,
    visible: &SchemaRef,
) -> Result<Option<Result<United, String>>, DataFusionError> {
    let branches = branches(plan)?;
    if branches.len() == 1 {
        return Ok(None);
    }
    let (mut driving, mut programs, mut grows) = (Vec::new(), Vec::new(), true);
    for branch in &branches {
        if is_constant(branch) {
            let (joins, visible) = (Joins::none(branch), Arc::clone(visible));
            let program = match unstable_in(branch)? {
                None => LookupProgram::compile(&joins, Vec::new(), true, state, visible)?,
                Some(reason) => Err(reason),
            };
            match program {
                Ok(program) => programs.push((None, program)),
                Err(reason) => return Ok(Some(Err(format!("unites what {reason}")))),
            }
            continue;
        }
        let joins = Joins::of(branch).unwrap_or_else(|| Joins::none(branch));
        let (name, program) = match lookup(&joins, known, state, visible)? {
            Ok(found) => found,
            Err(reason) => return Ok(Some(Err(format!("unites what {reason}")))),
        };
        grows &= joins.sides().next().is_none() && known.get(&name).is_some_and(Seen::only_grows);
        let input = driving.iter().position(|of| *of == name).unwrap_or_else(|| {
            driving.push(name);
            driving.len() - 1
        });
        programs.push((Some(input), program));
    }
    let grown = |name: &TableName| known.get(name).is_some_and(Seen::only_grows);
    // How far a table is in a stream says nothing of how far it is in what lags behind that.
    if let (Some(one), Some(other)) =
        (driving.iter().find(|name| grown(name)), driving.iter().find(|name| !grown(name)))
    {
        let reason = format!("unites {one}, whose rows only come, with {other}, whose rows may go");
        return Ok(Some(Err(reason)));
    }
    if driving.is_empty() {
        return Ok(None);
    }
    let program = UnitedProgram::new(programs, Arc::clone(visible));
    Ok(Some(program.map(|program| United { driving, program, grows })))
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
            Ok(kept(vec![name], KeyedProgram::compile(plan, &first, of_stream, state, visible)?))
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
    let Some(joins) = Joins::of(plan) else { return Ok(None) };
    Ok(match lookup(&joins, known, state, visible)? {
        Ok((name, program)) => kept(vec![name], Ok(program)),
        Err(reason) => Some(Err(reason)),
    })
}

/// The rows of one relation, joined to others or not, and what drives them.
fn lookup(
    joins: &Joins<'_>,
    known: &BTreeMap<TableName, Seen>,
    state: &SessionState,
    visible: &SchemaRef,
) -> Result<Result<(TableName, LookupProgram), String>, DataFusionError> {
    let refused = joins.refused();
    if let Some(reason) = refused.or_else(|| joins.expressions().iter().find_map(not_deterministic))
    {
        return Ok(Err(reason));
    }
    let does = if joins.sides().next().is_some() { "joins" } else { "reads" };
    let (name, rows) = match row_wise(joins.driving(), known) {
        Ok((name, Rows::Replaced)) => {
            return Ok(Err(format!("{does} {name}, whose rows are replaced as a whole")));
        }
        Ok(found) => found,
        Err(reason) if does == "joins" => return Ok(Err(format!("joins what {reason}"))),
        Err(reason) => return Ok(Err(reason)),
    };
    let mut tables = Vec::new();
    for plan in joins.sides() {
        match side(plan, known)? {
            Ok(behind) => tables.push(behind),
            Err(reason) => return Ok(Err(reason)),
        }
    }
    let rows_stay = matches!(rows, Rows::Arrive | Rows::Grow);
    let program = LookupProgram::compile(joins, tables, rows_stay, state, Arc::clone(visible))?;
    Ok(program.map(|program| (name, program)))
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
