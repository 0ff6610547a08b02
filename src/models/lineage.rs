//! Which columns of what it reads a query's columns are made of.

use std::collections::{BTreeMap, BTreeSet};

use datafusion::{
    common::{
        Column, DFSchema,
        tree_node::{TreeNode as _, TreeNodeRecursion},
    },
    error::DataFusionError,
    logical_expr::{Expr, JoinType, LogicalPlan},
};

use crate::{domain::TableName, models::plan::scanned_name};

/// A column of a relation.
pub type Origin = (TableName, String);

/// Per column of a plan, in its order, the columns of scanned relations that its values are made of.
/// What merely decides which rows there are (filters, join conditions, groups) is no part of it.
pub(super) fn origins(plan: &LogicalPlan) -> Result<Vec<BTreeSet<Origin>>, DataFusionError> {
    let own = |plan: &LogicalPlan| plan.schema().fields().len();
    match plan {
        LogicalPlan::TableScan(scan) => {
            let name = scanned_name(scan);
            let fields = plan.schema().fields().iter();
            Ok(fields.map(|field| [(name.clone(), field.name().clone())].into()).collect())
        }
        LogicalPlan::Projection(node) => of_all(&node.expr, &node.input),
        LogicalPlan::Aggregate(node) => {
            let all: Vec<Expr> = node.group_expr.iter().chain(&node.aggr_expr).cloned().collect();
            let mut found = of_all(&all, &node.input)?;
            // Grouping sets have a column more.
            found.resize(own(plan), BTreeSet::new());
            Ok(found)
        }
        LogicalPlan::Window(node) => {
            let mut found = origins(&node.input)?;
            found.extend(of_all(&node.window_expr, &node.input)?);
            Ok(found)
        }
        LogicalPlan::Join(node) => {
            let (mut left, right) = (origins(&node.left)?, origins(&node.right)?);
            match node.join_type {
                JoinType::LeftSemi | JoinType::LeftAnti => {}
                JoinType::RightSemi | JoinType::RightAnti => left = right,
                _ => left.extend(right),
            }
            left.resize(own(plan), BTreeSet::new());
            Ok(left)
        }
        LogicalPlan::Union(node) => {
            let mut found = vec![BTreeSet::new(); own(plan)];
            for input in &node.inputs {
                found.iter_mut().zip(origins(input)?).for_each(|(all, one)| all.extend(one));
            }
            Ok(found)
        }
        LogicalPlan::Unnest(node) => {
            let from = origins(&node.input)?;
            let of = node.dependency_indices.iter();
            Ok(of.map(|index| from.get(*index).cloned().unwrap_or_default()).collect())
        }
        other => match other.inputs()[..] {
            [input] if own(input) == own(other) => origins(input),
            _ => Ok(vec![BTreeSet::new(); own(other)]),
        },
    }
}

fn of_all(exprs: &[Expr], input: &LogicalPlan) -> Result<Vec<BTreeSet<Origin>>, DataFusionError> {
    let from = origins(input)?;
    exprs.iter().map(|expr| of(expr, input.schema(), &from)).collect()
}

/// The columns that an expression over `schema` is made of.
fn of(
    expr: &Expr,
    schema: &DFSchema,
    from: &[BTreeSet<Origin>],
) -> Result<BTreeSet<Origin>, DataFusionError> {
    let mut found = BTreeSet::new();
    let add = |column: &Column, found: &mut BTreeSet<Origin>| {
        let index = schema.maybe_index_of_column(column);
        found.extend(index.and_then(|index| from.get(index)).into_iter().flatten().cloned());
    };
    expr.apply(|node| {
        match node {
            Expr::Column(column) => add(column, &mut found),
            Expr::OuterReferenceColumn(_, column) => add(column, &mut found),
            Expr::ScalarSubquery(subquery) => {
                found.extend(origins(&subquery.subquery)?.into_iter().flatten());
            }
            _ => {}
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(found)
}

/// Per column of a query by name, what it is made of.
pub(super) fn lineage(
    plan: &LogicalPlan,
) -> Result<BTreeMap<String, BTreeSet<Origin>>, DataFusionError> {
    let names = plan.schema().fields().iter().map(|field| field.name().clone());
    Ok(names.zip(origins(plan)?).collect())
}
