//! How long a series is before it is made, and the table functions that make one.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray as _},
    compute::cast,
    datatypes::{
        DataType, Date32Type, Int64Type, IntervalMonthDayNano, IntervalMonthDayNanoType,
        IntervalUnit, TimeUnit,
    },
};
use datafusion::{
    catalog::{TableFunctionArgs, TableFunctionImpl, TableProvider},
    error::Result,
    logical_expr::Expr,
};

use super::too_large;

/// Rows that `generate_series` or `range` gives as a table.
const TABLE_ROWS_MAX: u128 = 100_000_000;

const DAY_NS: u128 = 86_400_000_000_000;
/// The shortest day of a time zone that changes its clocks, and the shortest month.
const SHORT_DAY_NS: u128 = DAY_NS - 3 * 3_600_000_000_000;
const SHORT_MONTH_DAYS: u128 = 28;

/// Values of `function(start, stop, step)` for the row `row(argument)` of each argument; 0 where
/// the function itself says what is wrong with them.
pub(super) fn length(
    function: &str,
    arguments: &[ArrayRef],
    row: impl Fn(usize) -> usize,
) -> Result<u128> {
    let nulls = arguments.iter().enumerate().any(|(i, a)| a.is_null(row(i)));
    let Some(first) = arguments.first().filter(|_| !nulls) else { return Ok(0) };
    let number = |i: usize| Some(i128::from(number(arguments.get(i)?, row(i))?));
    match first.data_type() {
        DataType::Int64 => {
            let (start, stop) =
                if arguments.len() == 1 { (Some(0), number(0)) } else { (number(0), number(1)) };
            let step = number(2).unwrap_or(1).unsigned_abs();
            Ok(start.zip(stop).map_or(0, |(start, stop)| steps(start, stop, step)))
        }
        DataType::Date32 | DataType::Date64 | DataType::Timestamp(..) => {
            let Some(step) = arguments.get(2).and_then(|step| interval(step, row(2))) else {
                return Ok(0);
            };
            let units = duration(function, step, first.data_type())?;
            let ends = number(0).zip(number(1));
            Ok(ends.map_or(0, |(start, stop)| steps(start, stop, units)))
        }
        _ => Ok(0),
    }
}

/// Values from `start` to `stop`, both included.
fn steps(start: i128, stop: i128, step: u128) -> u128 {
    start.abs_diff(stop).checked_div(step).map_or(0, |between| between + 1)
}

/// An integer, a day, or a time in nanoseconds.
fn number(array: &ArrayRef, row: usize) -> Option<i64> {
    let one = array.slice(row, 1);
    let to = match array.data_type() {
        DataType::Int64 => DataType::Int64,
        DataType::Date32 | DataType::Date64 => DataType::Date32,
        DataType::Timestamp(_, zone) => DataType::Timestamp(TimeUnit::Nanosecond, zone.clone()),
        _ => return None,
    };
    let one = cast(&one, &to).ok()?;
    match to {
        DataType::Date32 => Some(i64::from(one.as_primitive::<Date32Type>().value(0))),
        _ => {
            let whole = cast(&one, &DataType::Int64).ok()?;
            whole.is_valid(0).then(|| whole.as_primitive::<Int64Type>().value(0))
        }
    }
}

fn interval(array: &ArrayRef, row: usize) -> Option<IntervalMonthDayNano> {
    let one = array.slice(row, 1);
    let one = cast(&one, &DataType::Interval(IntervalUnit::MonthDayNano)).ok()?;
    Some(one.as_primitive::<IntervalMonthDayNanoType>().value(0))
}

/// The least that a step moves, in days of a date or nanoseconds of a time.
fn duration(function: &str, step: IntervalMonthDayNano, of: &DataType) -> Result<u128> {
    let parts = [i64::from(step.months), i64::from(step.days), step.nanoseconds];
    if parts.iter().any(|part| *part < 0) && parts.iter().any(|part| *part > 0) {
        return datafusion::common::exec_err!(
            "{function}: the step has parts of both signs and may never arrive: give all of them \
             one sign"
        );
    }
    let [months, days, nanos] = parts.map(|part| u128::from(part.unsigned_abs()));
    let days = months * SHORT_MONTH_DAYS + days;
    Ok(match of {
        DataType::Timestamp(..) => days * SHORT_DAY_NS + nanos,
        // Less than a day does not move a date.
        _ => days,
    })
}

/// A table function that refuses a series that is too long.
#[derive(Debug)]
pub(super) struct BoundedTable {
    pub(super) name: String,
    pub(super) inner: Arc<dyn TableFunctionImpl>,
}

impl TableFunctionImpl for BoundedTable {
    fn call_with_args(&self, args: TableFunctionArgs<'_, '_>) -> Result<Arc<dyn TableProvider>> {
        let literals = args.exprs().iter().map(|expr| match expr {
            Expr::Literal(value, _) => value.to_array().ok(),
            _ => None,
        });
        if let Some(arguments) = literals.collect::<Option<Vec<ArrayRef>>>() {
            let rows = length(&self.name, &arguments, |_| 0)?;
            if rows > TABLE_ROWS_MAX {
                return Err(too_large(&format!(
                    "{} would give {rows} rows; at most {TABLE_ROWS_MAX} are allowed",
                    self.name
                )));
            }
        }
        self.inner.call_with_args(args)
    }
}
