//! Query types as tables store them.

use std::sync::Arc;

use arrow::{
    array::{Array as _, ArrayRef, RecordBatch, UInt32Array},
    compute::{cast, take},
    datatypes::{DataType, Field, FieldRef, Schema, SchemaRef, TimeUnit},
    error::ArrowError,
    row::{Row, RowConverter},
};

/// The schema in types that Delta stores and every reader knows; all columns nullable.
pub fn storable(schema: &Schema) -> SchemaRef {
    let fields: Vec<Field> = schema
        .fields()
        .iter()
        .map(|field| Field::new(field.name(), data_type(field.data_type()), true))
        .collect();
    Arc::new(Schema::new(fields))
}

/// `batch` with the columns, by position, cast to those of `schema`.
pub fn storable_batch(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let columns = batch
        .columns()
        .iter()
        .zip(schema.fields())
        .map(|(column, field)| cast(column, field.data_type()));
    RecordBatch::try_new(Arc::clone(schema), columns.collect::<Result<_, _>>()?)
}

/// The columns of encoded rows. Where one is null it holds no other value: the engine's functions
/// compute with what stands there, and may overflow.
pub(super) fn decoded<'a>(
    converter: &RowConverter,
    rows: impl IntoIterator<Item = Row<'a>>,
) -> Result<Vec<ArrayRef>, ArrowError> {
    let without = |column: ArrayRef| match column.nulls() {
        Some(nulls) if column.data_type().is_primitive() => {
            // Beyond the end, where nothing is.
            let at = (0_u32..).zip(nulls).map(|(at, there)| if there { at } else { u32::MAX });
            let at = UInt32Array::new(at.collect(), Some(nulls.clone()));
            take(&column, &at, None)
        }
        _ => Ok(column),
    };
    converter.convert_rows(rows)?.into_iter().map(without).collect()
}

/// Names and SQL types of columns, as a template can cast to them.
/// The columns of a schema with their types in SQL.
pub fn sql_columns(schema: &Schema) -> Vec<(String, String)> {
    let fields = schema.fields().iter();
    fields.map(|field| (field.name().clone(), sql_type(field.data_type()))).collect()
}

fn sql_type(of: &DataType) -> String {
    match of {
        DataType::Boolean => "BOOLEAN".to_owned(),
        DataType::Int8 | DataType::UInt8 => "TINYINT".to_owned(),
        DataType::Int16 | DataType::UInt16 => "SMALLINT".to_owned(),
        DataType::Int32 | DataType::UInt32 => "INT".to_owned(),
        DataType::Int64 | DataType::UInt64 => "BIGINT".to_owned(),
        DataType::Float16 | DataType::Float32 => "FLOAT".to_owned(),
        DataType::Float64 => "DOUBLE".to_owned(),
        DataType::Decimal128(p, s) | DataType::Decimal256(p, s) => format!("DECIMAL({p},{s})"),
        DataType::Date32 | DataType::Date64 => "DATE".to_owned(),
        DataType::Timestamp(_, None) => "TIMESTAMP(6)".to_owned(),
        DataType::Timestamp(_, Some(_)) => "TIMESTAMP(6) WITH TIME ZONE".to_owned(),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => "BYTEA".to_owned(),
        DataType::List(item) | DataType::LargeList(item) => {
            format!("{}[]", sql_type(item.data_type()))
        }
        _ => "VARCHAR".to_owned(),
    }
}

/// The type as which a value is stored.
pub(super) fn data_type(from: &DataType) -> DataType {
    match from {
        DataType::Null | DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            DataType::Binary
        }
        DataType::UInt8 => DataType::Int16,
        DataType::UInt16 => DataType::Int32,
        DataType::UInt32 | DataType::UInt64 => DataType::Int64,
        DataType::Float16 => DataType::Float32,
        DataType::Date64 => DataType::Date32,
        DataType::Decimal32(p, s) | DataType::Decimal64(p, s) => DataType::Decimal128(*p, *s),
        DataType::Decimal256(_, s) => DataType::Decimal128(38, *s),
        DataType::Timestamp(..) => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        DataType::Time32(_) | DataType::Time64(_) | DataType::Duration(_) => DataType::Int64,
        DataType::Interval(_) => DataType::Utf8,
        DataType::Dictionary(_, value) => data_type(value),
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::FixedSizeList(item, _) => DataType::List(element(item)),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(member).collect()),
        other => other.clone(),
    }
}

fn element(item: &FieldRef) -> FieldRef {
    Arc::new(Field::new("element", data_type(item.data_type()), true))
}

fn member(field: &FieldRef) -> FieldRef {
    Arc::new(Field::new(field.name(), data_type(field.data_type()), true))
}

#[cfg(test)]
mod tests {
    use arrow::{
        array::{AsArray as _, TimestampMicrosecondArray},
        datatypes::TimestampMicrosecondType,
        row::SortField,
    };

    use super::*;

    #[test]
    fn nulls_hold_no_other_value_once_decoded() {
        let times: TimestampMicrosecondArray =
            [Some(7), None, Some(-1), None].into_iter().collect();
        let times: ArrayRef = Arc::new(times.with_timezone("UTC"));
        let fields = vec![SortField::new(times.data_type().clone())];
        let converter = RowConverter::new(fields).expect("converter");
        let rows = converter.convert_columns(&[Arc::clone(&times)]).expect("rows");
        let again = decoded(&converter, &rows).expect("columns").swap_remove(0);
        assert_eq!(&again, &times);
        let values = again.as_primitive::<TimestampMicrosecondType>().values();
        assert_eq!(values[..], [7, 0, -1, 0]);
    }
}
