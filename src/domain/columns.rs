//! Typed values gathered into Arrow columns.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanBuilder, Date32Builder, Decimal128Builder, Float64Builder, Int64Builder,
    StringBuilder, TimestampMicrosecondBuilder,
};

use crate::domain::{contract::FieldType, decode::Value};

/// Gathers the values of one column.
pub enum ColumnBuilder {
    Text(StringBuilder),
    Int(Int64Builder),
    Float(Float64Builder),
    Decimal(Decimal128Builder, u8, i8),
    Bool(BooleanBuilder),
    Timestamp(TimestampMicrosecondBuilder),
    Date(Date32Builder),
}

impl ColumnBuilder {
    pub fn new(data_type: FieldType, capacity: usize) -> Self {
        match data_type {
            FieldType::Text => Self::Text(StringBuilder::with_capacity(capacity, capacity * 16)),
            FieldType::Int => Self::Int(Int64Builder::with_capacity(capacity)),
            FieldType::Float => Self::Float(Float64Builder::with_capacity(capacity)),
            FieldType::Decimal(precision, scale) => {
                Self::Decimal(Decimal128Builder::with_capacity(capacity), precision, scale)
            }
            FieldType::Bool => Self::Bool(BooleanBuilder::with_capacity(capacity)),
            FieldType::Timestamp => {
                Self::Timestamp(TimestampMicrosecondBuilder::with_capacity(capacity))
            }
            FieldType::Date => Self::Date(Date32Builder::with_capacity(capacity)),
        }
    }

    /// Appends a value; one of another type than the column's becomes null.
    pub fn push(&mut self, value: &Value<'_>) {
        match (self, value) {
            (Self::Text(column), Value::Text(text)) => column.append_value(text),
            (Self::Text(column), _) => column.append_null(),
            (Self::Int(column), Value::Int(n)) => column.append_value(*n),
            (Self::Int(column), _) => column.append_null(),
            (Self::Float(column), Value::Float(n)) => column.append_value(*n),
            (Self::Float(column), _) => column.append_null(),
            (Self::Decimal(column, ..), Value::Decimal(n)) => column.append_value(*n),
            (Self::Decimal(column, ..), _) => column.append_null(),
            (Self::Bool(column), Value::Bool(b)) => column.append_value(*b),
            (Self::Bool(column), _) => column.append_null(),
            (Self::Timestamp(column), Value::Timestamp(us)) => column.append_value(*us),
            (Self::Timestamp(column), _) => column.append_null(),
            (Self::Date(column), Value::Date(days)) => column.append_value(*days),
            (Self::Date(column), _) => column.append_null(),
        }
    }

    /// The column, in the Arrow type that the contract's type maps to.
    pub fn finish(self) -> Result<ArrayRef, arrow::error::ArrowError> {
        Ok(match self {
            Self::Text(mut column) => Arc::new(column.finish()),
            Self::Int(mut column) => Arc::new(column.finish()),
            Self::Float(mut column) => Arc::new(column.finish()),
            Self::Decimal(mut column, precision, scale) => {
                Arc::new(column.finish().with_precision_and_scale(precision, scale)?)
            }
            Self::Bool(mut column) => Arc::new(column.finish()),
            Self::Timestamp(mut column) => Arc::new(column.finish().with_timezone("UTC")),
            Self::Date(mut column) => Arc::new(column.finish()),
        })
    }
}
