//! Constants that a plan would repeat for every row.

use datafusion::{
    common::tree_node::{Transformed, TreeNode as _, TreeNodeRecursion},
    error::Result,
    logical_expr::{Expr, LogicalPlan},
    optimizer::{OptimizerConfig, OptimizerRule},
};

use super::{REPEATED_BYTES_MAX, VALUE_BYTES_MAX, too_large};

/// Smaller constants, such as those of a long IN list, are not counted.
const COUNTED_FROM_BYTES: usize = 1 << 10;

/// Refuses large constants in a step that runs over many rows. It comes after the rules that fold
/// function calls into constants and changes nothing.
#[derive(Debug)]
pub(super) struct ConstantsFit;

impl OptimizerRule for ConstantsFit {
    fn name(&self) -> &str {
        "constants_fit"
    }

    fn rewrite(
        &self,
        plan: LogicalPlan,
        config: &dyn OptimizerConfig,
    ) -> Result<Transformed<LogicalPlan>> {
        let batch = config.options().execution.batch_size.get();
        plan.apply_with_subqueries(|node| {
            check(node, batch)?;
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(Transformed::no(plan))
    }
}

fn check(node: &LogicalPlan, batch: usize) -> Result<()> {
    let rows = node.inputs().iter().map(|input| input.max_rows().unwrap_or(batch)).max();
    // A scan evaluates its filters over its own rows.
    let is_scan = matches!(node, LogicalPlan::TableScan(_));
    let rows = if is_scan { batch } else { rows.unwrap_or(1).clamp(1, batch) };
    let repeated = usize::try_from(REPEATED_BYTES_MAX).unwrap_or(usize::MAX);
    let most = if rows == 1 { usize::MAX } else { (repeated / rows).min(VALUE_BYTES_MAX) };
    let mut bytes = 0_usize;
    node.apply_expressions(|expr| {
        expr.apply(|part| {
            if let Expr::Literal(value, _) = part {
                bytes += Some(value.size()).filter(|n| *n >= COUNTED_FROM_BYTES).unwrap_or(0);
            }
            Ok(TreeNodeRecursion::Continue)
        })
    })?;
    if bytes > most {
        return Err(too_large(&format!(
            "constants of {bytes} bytes would be repeated for each of many rows; at most {most} \
             are allowed there"
        )));
    }
    Ok(())
}
