//! Types whose every value takes memory, a null too: `BIGINT[2000000000]`.

use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::{
    common::plan_err,
    error::Result,
    logical_expr::planner::TypePlanner,
    sql::sqlparser::ast::{ArrayElemTypeDef, DataType as SqlType},
};

use super::VALUE_BYTES_MAX;

/// A value of another type, where it has no width of its own.
const VALUE_BYTES: usize = 16;

/// Refuses SQL types that are too wide; leaves the others to the engine.
#[derive(Debug)]
pub(super) struct FixedSizes;

impl TypePlanner for FixedSizes {
    fn plan_type_field(&self, sql: &SqlType) -> Result<Option<FieldRef>> {
        check(&sql.to_string(), sql_width(sql))?;
        Ok(None)
    }
}

/// Refuses the type that a function answers with, if one value of it is too wide.
pub(super) fn check_field(field: &Field) -> Result<()> {
    check(&field.data_type().to_string(), width(field.data_type()))
}

fn check(name: &str, width: usize) -> Result<()> {
    if width <= VALUE_BYTES_MAX {
        return Ok(());
    }
    plan_err!(
        "a value of type {name} takes {width} bytes; at most {VALUE_BYTES_MAX} are allowed: leave \
         out the size"
    )
}

fn sql_width(sql: &SqlType) -> usize {
    match sql {
        SqlType::Array(ArrayElemTypeDef::SquareBracket(item, size)) => {
            let size = size.map_or(1, |size| usize::try_from(size).unwrap_or(usize::MAX));
            size.saturating_mul(sql_width(item))
        }
        _ => VALUE_BYTES,
    }
}

fn width(data_type: &DataType) -> usize {
    match data_type {
        DataType::FixedSizeBinary(size) => usize::try_from(*size).unwrap_or(0),
        DataType::FixedSizeList(item, size) => {
            usize::try_from(*size).unwrap_or(0).saturating_mul(width(item.data_type()))
        }
        DataType::Struct(members) => {
            members.iter().map(|member| width(member.data_type())).fold(0, usize::saturating_add)
        }
        other => other.primitive_width().unwrap_or(VALUE_BYTES),
    }
}
