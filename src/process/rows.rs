//! Rows of a stream as its models read them, and as the models' tables store what they make of
//! them.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use arrow::{
    array::{
        ArrayRef, AsArray as _, BinaryArray, BooleanArray, Int32Array, Int64Array, RecordBatch,
        StringArray,
    },
    compute::filter_record_batch,
    datatypes::{DataType, Field, Int32Type, Int64Type, Schema, SchemaRef},
    error::ArrowError,
};

use crate::{
    domain::{Offset, Partition},
    lake::{OFFSET, PARTITION, STREAM},
    models::{ProgramError, RowProgram},
    process::{Error, offset_table::OffsetTable},
};

/// The place of an event in a row-wise model's input.
pub(super) const INDEX: &str = "__index";

/// The position columns of a Bronze batch.
pub(super) struct Places<'a> {
    partition: &'a Int32Array,
    offset: &'a Int64Array,
    index: &'a Int32Array,
}

impl<'a> Places<'a> {
    pub(super) fn of(rows: &'a RecordBatch) -> Result<Self, Error> {
        Ok(Self {
            partition: column(rows, "_partition")?.as_primitive::<Int32Type>(),
            offset: column(rows, "_offset")?.as_primitive::<Int64Type>(),
            index: column(rows, "_index")?.as_primitive::<Int32Type>(),
        })
    }

    pub(super) fn at(&self, row: usize) -> (Partition, Offset) {
        let partition = Partition::try_from(self.partition.value(row)).unwrap_or_default();
        (partition, self.offset.value(row))
    }

    pub(super) fn key(&self, row: usize) -> (i32, Offset, i32) {
        (self.partition.value(row), self.offset.value(row), self.index.value(row))
    }

    /// The last offset of every partition.
    pub(super) fn ends(&self) -> BTreeMap<Partition, Offset> {
        let mut ends = BTreeMap::new();
        for row in 0..self.offset.len() {
            let (partition, offset) = self.at(row);
            let end = ends.entry(partition).or_insert(offset);
            *end = offset.max(*end);
        }
        ends
    }
}

/// The rows of a model's output beyond the table's position, as stored: place, then columns.
pub(super) fn wanted(
    table: &OffsetTable,
    rows: &RecordBatch,
    carried: &RecordBatch,
) -> Result<RecordBatch, Error> {
    let partitions = column(carried, PARTITION)?.as_primitive::<Int32Type>();
    let offsets = column(carried, OFFSET)?.as_primitive::<Int64Type>();
    let keep: BooleanArray = partitions
        .values()
        .iter()
        .zip(offsets.values())
        .map(|(p, offset)| Some(table.wants(Partition::try_from(*p).unwrap_or_default(), *offset)))
        .collect();
    let columns = carried.columns().iter().chain(rows.columns()).cloned().collect();
    let all = RecordBatch::try_new(Arc::clone(table.schema()), columns)?;
    Ok(filter_record_batch(&all, &keep)?)
}

/// What a row-wise model makes of rows at the places `carried`, and the places of that. Rows that
/// were one are numbered, so that each has a place of its own; all of a record are in `input`.
pub(super) fn ran(
    program: &RowProgram,
    input: &RecordBatch,
    carried: &RecordBatch,
) -> Result<(RecordBatch, RecordBatch), ProgramError> {
    let (rows, carried) = program.run(input, carried)?;
    if !program.unnests() {
        return Ok((rows, carried));
    }
    let partitions = column(&carried, PARTITION)?.as_primitive::<Int32Type>().values();
    let offsets = column(&carried, OFFSET)?.as_primitive::<Int64Type>().values();
    let mut seen = HashMap::new();
    let numbers = partitions.iter().zip(offsets).map(|place| {
        let next = seen.entry(place).or_insert(0);
        *next += 1;
        *next - 1
    });
    let numbers: Int32Array = numbers.collect();
    let mut columns = carried.columns().to_vec();
    columns[carried.schema().index_of(INDEX)?] = Arc::new(numbers);
    Ok((rows, RecordBatch::try_new(carried.schema(), columns)?))
}

/// The stored schema of a row-wise model: the place of its input row, then its columns.
pub(super) fn placed_schema(visible: &SchemaRef) -> SchemaRef {
    let mut fields = place_fields();
    fields.extend(visible.fields().iter().map(|field| field.as_ref().clone()));
    Arc::new(Schema::new(fields))
}

fn place_fields() -> Vec<Field> {
    vec![
        Field::new(STREAM, DataType::Utf8, true),
        Field::new(PARTITION, DataType::Int32, true),
        Field::new(OFFSET, DataType::Int64, true),
        Field::new(INDEX, DataType::Int32, true),
    ]
}

pub(super) fn carried_rows(stream: &str, rows: &RecordBatch) -> Result<RecordBatch, Error> {
    let streams = StringArray::from_iter_values(std::iter::repeat_n(stream, rows.num_rows()));
    let columns = vec![
        Arc::new(streams) as ArrayRef,
        Arc::clone(column(rows, "_partition")?),
        Arc::clone(column(rows, "_offset")?),
        Arc::clone(column(rows, "_index")?),
    ];
    Ok(RecordBatch::try_new(Arc::new(Schema::new(place_fields())), columns)?)
}

/// Keys made of places: partition, offset and index, in this order the first columns but for the
/// stream. They are in the order of the places.
pub(super) fn place_keys(places: &RecordBatch) -> Result<BinaryArray, Error> {
    let [partitions, offsets, indexes] = match places.num_columns() {
        3 => [0, 1, 2],
        _ => [1, 2, 3],
    }
    .map(|column| places.column(column));
    let (partitions, indexes) =
        (partitions.as_primitive::<Int32Type>(), indexes.as_primitive::<Int32Type>());
    let places = partitions.values().iter().zip(offsets.as_primitive::<Int64Type>().values());
    let keys = places.zip(indexes.values()).map(|((partition, offset), index)| {
        let mut key = [0; 16];
        key[..4].copy_from_slice(&partition.to_be_bytes());
        key[4..12].copy_from_slice(&offset.to_be_bytes());
        key[12..].copy_from_slice(&index.to_be_bytes());
        key
    });
    Ok(BinaryArray::from_iter_values(keys))
}

pub(super) fn column<'a>(rows: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef, ArrowError> {
    rows.column_by_name(name).ok_or_else(|| ArrowError::SchemaError(format!("no column {name}")))
}
