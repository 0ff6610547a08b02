//! Which columns a plan reads of what it scans.

use std::collections::{BTreeMap, BTreeSet};

use datafusion::{
    common::tree_node::TreeNodeRecursion,
    error::DataFusionError,
    execution::SessionState,
    logical_expr::LogicalPlan,
    optimizer::{OptimizerRule as _, optimize_projections::OptimizeProjections},
};

/// Per relation, as (schema, table), the names of the columns that the analysed `plan` needs; where
/// that cannot be told, all that it scans.
pub(super) fn columns_read(
    plan: LogicalPlan,
    state: &SessionState,
    default_schema: &str,
) -> Result<BTreeMap<(String, String), BTreeSet<String>>, DataFusionError> {
    let pruned = OptimizeProjections::new().rewrite(plan, state)?.data;
    let mut read: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
    pruned.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            let schema = scan.table_name.schema().unwrap_or(default_schema).to_owned();
            let columns = read.entry((schema, scan.table_name.table().to_owned())).or_default();
            columns.extend(scan.projected_schema.fields().iter().map(|f| f.name().clone()));
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(read)
}
