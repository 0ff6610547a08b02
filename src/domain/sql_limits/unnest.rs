//! What `unnest` makes of one batch: every other column, as often as the list is long.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::{
    common::{
        Column,
        config::ConfigOptions,
        tree_node::{Transformed, TransformedResult as _},
    },
    error::Result,
    logical_expr::{
        ColumnarValue, Expr, LogicalPlan, LogicalPlanBuilder, ScalarFunctionArgs, ScalarUDF,
        ScalarUDFImpl, Signature, Unnest, Volatility, expr::ScalarFunction,
    },
    optimizer::AnalyzerRule,
};

use super::{
    REPEATED_BYTES_MAX, arguments,
    growth::{Arguments, sizes},
    too_large,
};

/// Puts a check below each `unnest`, which makes all its rows of one batch at once.
#[derive(Debug)]
pub(super) struct UnnestFits;

impl AnalyzerRule for UnnestFits {
    fn name(&self) -> &str {
        "unnest_fits"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        plan.transform_up_with_subqueries(|node| match node {
            LogicalPlan::Unnest(unnest) => checked(unnest).map(Transformed::yes),
            other => Ok(Transformed::no(other)),
        })
        .data()
    }
}

fn checked(unnest: Unnest) -> Result<LogicalPlan> {
    let columns = unnest.input.schema().columns();
    let is_list = |at: usize| unnest.list_type_columns.iter().any(|(list, _)| *list == at);
    let (lists, beside): (Vec<usize>, Vec<usize>) = (0..columns.len()).partition(|at| is_list(*at));
    let Some(first) = lists.first().copied().filter(|_| !beside.is_empty()) else {
        return Ok(LogicalPlan::Unnest(unnest));
    };
    let signature = Signature::any(columns.len(), Volatility::Immutable);
    let func = Fits { lists: lists.len(), signature };
    let arguments = lists.iter().chain(&beside).map(|at| Expr::Column(columns[*at].clone()));
    let call = Expr::ScalarFunction(ScalarFunction {
        func: Arc::new(ScalarUDF::new_from_impl(func)),
        args: arguments.collect(),
    });
    let Column { relation, name, .. } = columns[first].clone();
    let mut all: Vec<Expr> = columns.into_iter().map(Expr::Column).collect();
    all[first] = call.alias_qualified(relation, name);
    let input =
        LogicalPlanBuilder::new_from_arc(Arc::clone(&unnest.input)).project(all)?.build()?;
    LogicalPlan::Unnest(unnest).with_new_exprs(Vec::new(), vec![input])
}

/// Hands its first argument on unless unnesting makes too much of all of them.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Fits {
    /// Arguments that are unnested; the others are repeated.
    lists: usize,
    signature: Signature,
}

impl ScalarUDFImpl for Fits {
    fn name(&self) -> &str {
        "unnest_fits"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        Ok(types.first().cloned().unwrap_or(DataType::Null))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let bytes = self.bytes(&arguments(&args.args)?, args.number_rows);
        if bytes > REPEATED_BYTES_MAX {
            return Err(too_large(&format!(
                "unnest would make {bytes} bytes of one batch of rows; at most \
                 {REPEATED_BYTES_MAX} are allowed: select fewer columns beside it"
            )));
        }
        let mut args = args.args;
        Ok(args.swap_remove(0))
    }
}

impl Fits {
    fn bytes(&self, given: &Arguments, rows: usize) -> u64 {
        let beside: Vec<Vec<u64>> = given.arrays[self.lists..].iter().map(sizes).collect();
        let width = |row: usize| {
            let at = |(i, sizes): (usize, &Vec<u64>)| {
                sizes.get(given.place(self.lists + i, row)).copied().unwrap_or(0)
            };
            beside.iter().enumerate().map(at).sum::<u64>()
        };
        let times = |row| (0..self.lists).map(|list| given.leaves(list, row)).max().unwrap_or(0);
        (0..rows).map(|row| width(row).saturating_mul(times(row))).fold(0, u64::saturating_add)
    }
}
