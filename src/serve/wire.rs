//! The types that clients see.
//!
//! One mapping for everything: the schema of a FlightInfo, of its DoGet, of a prepared statement
//! and of GetTables all come from here. Views, large offsets, dictionaries and small decimals are
//! turned into what every client reads; a time is microseconds in UTC.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, RecordBatch, RecordBatchOptions},
    compute::{CastOptions, cast_with_options},
    datatypes::{
        DECIMAL128_MAX_PRECISION, DataType, Field, FieldRef, Fields, Schema, SchemaRef, TimeUnit,
    },
    error::ArrowError,
};

use crate::domain::sql_limits;

/// `schema` as it goes over the wire.
pub(crate) fn schema(schema: &Schema) -> SchemaRef {
    let fields: Vec<FieldRef> = schema.fields().iter().map(field).collect();
    Arc::new(Schema::new(fields))
}

fn field(field: &FieldRef) -> FieldRef {
    let mapped = Field::clone(field).with_data_type(data_type(field.data_type()));
    Arc::new(mapped)
}

fn data_type(internal: &DataType) -> DataType {
    match internal {
        DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
        DataType::BinaryView | DataType::LargeBinary => DataType::Binary,
        DataType::Dictionary(_, values) => data_type(values),
        DataType::RunEndEncoded(_, values) => data_type(values.data_type()),
        DataType::Decimal32(precision, scale) | DataType::Decimal64(precision, scale) => {
            DataType::Decimal128((*precision).min(DECIMAL128_MAX_PRECISION), *scale)
        }
        DataType::Timestamp(_, _) => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        DataType::Float16 => DataType::Float32,
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item) => DataType::List(field(item)),
        DataType::FixedSizeList(item, length) => DataType::FixedSizeList(field(item), *length),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(field).collect::<Fields>()),
        DataType::Map(entries, sorted) => DataType::Map(field(entries), *sorted),
        same => same.clone(),
    }
}

/// `batch` in the types of `wire`, which was made from its schema.
pub(crate) fn batch(batch: &RecordBatch, wire: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let options = CastOptions { safe: false, ..CastOptions::default() };
    let columns = batch.columns().iter().zip(wire.fields()).map(|(column, field)| {
        if column.data_type() == field.data_type() {
            return Ok(Arc::clone(column));
        }
        cast_with_options(column, field.data_type(), &options)
    });
    let columns = columns.collect::<Result<Vec<ArrayRef>, ArrowError>>()?;
    let rows = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(wire), columns, &rows)
}

/// Cuts `batch` into pieces of at most about `bytes_max`; a single row is never cut.
pub(crate) fn split(batch: RecordBatch, bytes_max: usize, pieces: &mut Vec<RecordBatch>) {
    let rows = batch.num_rows();
    if rows <= 1 || bytes(&batch) <= bytes_max {
        pieces.push(batch);
        return;
    }
    let half = rows / 2;
    split(batch.slice(0, half), bytes_max, pieces);
    split(batch.slice(half, rows - half), bytes_max, pieces);
}

/// Bytes of the rows of `batch`, not of the buffers that they may share with others.
pub(crate) fn bytes(batch: &RecordBatch) -> usize {
    batch.columns().iter().map(|column| sql_limits::bytes(column)).sum()
}

#[cfg(test)]
mod tests {
    use arrow::array::{
        Array, AsArray, Decimal64Array, DictionaryArray, Int64Array, LargeListArray, StringArray,
        StringViewArray, TimestampNanosecondArray, UInt64Array,
    };
    use arrow::datatypes::{Int32Type, Int64Type, TimestampMicrosecondType};

    use super::*;

    #[test]
    fn clients_get_only_types_that_all_of_them_read() {
        let dictionary: DictionaryArray<Int32Type> = vec!["a", "b"].into_iter().collect();
        let list = LargeListArray::from_iter_primitive::<Int64Type, _, _>(vec![
            Some(vec![Some(1)]),
            Some(vec![Some(2), Some(3)]),
        ]);
        let decimal = Decimal64Array::from(vec![150, 275]).with_precision_and_scale(5, 2);
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("view", Arc::new(StringViewArray::from(vec!["x", "a text longer than 12 bytes"]))),
            ("dictionary", Arc::new(dictionary)),
            ("list", Arc::new(list)),
            ("decimal", Arc::new(decimal.expect("decimal"))),
            ("time", Arc::new(TimestampNanosecondArray::from(vec![1_500, 2_000]))),
            ("unsigned", Arc::new(UInt64Array::from(vec![1, u64::MAX]))),
        ];
        let internal = RecordBatch::try_from_iter(columns).expect("batch");
        let wire = schema(&internal.schema());
        let types: Vec<&DataType> = wire.fields().iter().map(|f| f.data_type()).collect();
        let item = Arc::new(Field::new_list_field(DataType::Int64, true));
        let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        assert_eq!(
            types,
            [
                &DataType::Utf8,
                &DataType::Utf8,
                &DataType::List(item),
                &DataType::Decimal128(5, 2),
                &utc,
                &DataType::UInt64
            ]
        );
        let sent = batch(&internal, &wire).expect("cast");
        assert_eq!(sent.column(0).as_string::<i32>().value(1), "a text longer than 12 bytes");
        assert_eq!(sent.column(4).as_primitive::<TimestampMicrosecondType>().values(), &[1, 2]);
    }

    #[test]
    fn uneven_rows_are_split_until_each_piece_is_small() {
        let long = "x".repeat(1_000);
        let texts: Vec<&str> = (0..100).map(|i| if i < 10 { long.as_str() } else { "y" }).collect();
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("text", Arc::new(StringArray::from(texts))),
            ("number", Arc::new(Int64Array::from_iter_values(0..100))),
        ];
        let whole = RecordBatch::try_from_iter(columns).expect("batch");
        let mut pieces = Vec::new();
        split(whole.clone(), 4_000, &mut pieces);
        assert!(pieces.iter().all(|piece| bytes(piece) <= 4_000));
        let joined = arrow::compute::concat_batches(&whole.schema(), &pieces).expect("concat");
        assert_eq!(joined, whole);
        assert!(joined.column(0).is_valid(0));
    }
}
