//! The table that is queried: in memory, as the rows that no Delta commit has yet.

use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::{
        ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
    },
    datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit},
    error::ArrowError,
};

use crate::{
    domain::{Positions, TableName},
    lake::{LakeView, Overlay, RelationInfo, RelationKind, TableState},
};

const BATCH_ROWS: u64 = 65_536;
const KINDS: [&str; 4] = ["view", "search", "buy", "leave"];
/// 2026-01-01T00:00:00Z.
const FIRST_MICROS: i64 = 1_767_225_600_000_000;

/// A view whose only table is `gold.sales` of `rows` rows.
pub(super) fn view(rows: u64) -> Result<LakeView, ArrowError> {
    let schema = schema();
    let mut batches = Vec::new();
    let mut first = 0;
    while first < rows {
        let after = (first + BATCH_ROWS).min(rows);
        batches.push(batch(&schema, first..after)?);
        first = after;
    }
    let name = TableName::new("gold", "sales");
    let info = RelationInfo {
        name: name.clone(),
        kind: RelationKind::Model,
        description: String::new(),
        columns: BTreeMap::new(),
    };
    let table = TableState {
        info: Arc::new(info),
        schema,
        committed: None,
        overlay: Overlay::Append(batches),
        streams: Vec::new(),
        positions: Positions::default(),
    };
    let tables = BTreeMap::from([(name, Arc::new(table))]);
    Ok(LakeView { tables, ..LakeView::default() })
}

fn schema() -> SchemaRef {
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("at", time, false),
        Field::new("user_id", DataType::Int64, false),
        Field::new("kind", DataType::Utf8, false),
        Field::new("amount", DataType::Float64, false),
    ]))
}

fn batch(schema: &SchemaRef, numbers: std::ops::Range<u64>) -> Result<RecordBatch, ArrowError> {
    let signed = || numbers.clone().map(u64::cast_signed);
    let kind = |number: u64| KINDS[usize::try_from(number % 4).unwrap_or_default()];
    let at =
        TimestampMicrosecondArray::from_iter_values(signed().map(|n| FIRST_MICROS + n * 1_000));
    let amount = |n: u64| f64::from(u32::try_from(n % 10_000).unwrap_or_default()) / 100.0;
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(signed())),
        Arc::new(at.with_timezone("UTC")),
        Arc::new(Int64Array::from_iter_values(signed().map(|n| n % 10_007))),
        Arc::new(StringArray::from_iter_values(numbers.clone().map(kind))),
        Arc::new(Float64Array::from_iter_values(numbers.clone().map(amount))),
    ];
    RecordBatch::try_new(Arc::clone(schema), columns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_has_as_many_rows_as_asked_for() {
        let view = view(BATCH_ROWS + 1).expect("view");
        let table = &view.tables[&TableName::new("gold", "sales")];
        let Overlay::Append(batches) = &table.overlay else { panic!("not in memory") };
        let rows: Vec<usize> = batches.iter().map(RecordBatch::num_rows).collect();
        assert_eq!(rows, [65_536, 1]);
    }
}
