//! A checkpoint as an auditor reads it: what holds for the versions whose entries were cleaned up.
//!
//! Read as the Delta protocol lays a classic checkpoint down
//! (<https://github.com/delta-io/delta/blob/master/PROTOCOL.md#checkpoints>), not by the code that
//! wrote it.

use arrow::{
    array::{Array as _, AsArray as _, RecordBatch, StructArray},
    compute::cast,
    datatypes::{DataType, Int64Type},
    error::ArrowError,
};
use bytes::Bytes;
use parquet::arrow::{ProjectionMask, arrow_reader::ParquetRecordBatchReaderBuilder};

/// What a table is at a version.
#[derive(Debug, Default)]
pub(super) struct Checkpoint {
    /// By app id.
    pub positions: Vec<(String, i64)>,
    /// Path and statistics of each file.
    pub files: Vec<(String, Option<String>)>,
}

/// The checkpoint that `file` holds.
pub(super) fn read(file: Bytes) -> Result<Checkpoint, String> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|e| e.to_string())?;
    let wanted = ["txn.appId", "txn.version", "add.path", "add.stats"];
    let mask = ProjectionMask::columns(builder.parquet_schema(), wanted);
    let batches = builder.with_projection(mask).build().map_err(|e| e.to_string())?;
    let mut found = Checkpoint::default();
    for batch in batches {
        add(&mut found, &batch.map_err(|e| e.to_string())?).map_err(|e| e.to_string())?;
    }
    Ok(found)
}

fn add(found: &mut Checkpoint, batch: &RecordBatch) -> Result<(), ArrowError> {
    if let Some(txn) = actions(batch, "txn") {
        let app_ids = cast(field(txn, "appId")?, &DataType::Utf8)?;
        let versions = cast(field(txn, "version")?, &DataType::Int64)?;
        let (app_ids, versions) =
            (app_ids.as_string::<i32>(), versions.as_primitive::<Int64Type>());
        let there = (0..txn.len()).filter(|row| txn.is_valid(*row));
        let positions = there.map(|row| (app_ids.value(row).to_owned(), versions.value(row)));
        found.positions.extend(positions);
    }
    if let Some(files) = actions(batch, "add") {
        let paths = cast(field(files, "path")?, &DataType::Utf8)?;
        let stats = cast(field(files, "stats")?, &DataType::Utf8)?;
        let (paths, stats) = (paths.as_string::<i32>(), stats.as_string::<i32>());
        let there = (0..files.len()).filter(|row| files.is_valid(*row));
        found.files.extend(there.map(|row| {
            let stats = stats.is_valid(row).then(|| stats.value(row).to_owned());
            (paths.value(row).to_owned(), stats)
        }));
    }
    Ok(())
}

/// The column of one kind of action: null where a row is another action.
fn actions<'a>(batch: &'a RecordBatch, kind: &str) -> Option<&'a StructArray> {
    batch.column_by_name(kind)?.as_struct_opt()
}

fn field<'a>(
    actions: &'a StructArray,
    name: &str,
) -> Result<&'a arrow::array::ArrayRef, ArrowError> {
    let missing = || ArrowError::SchemaError(format!("a checkpoint without {name}"));
    actions.column_by_name(name).ok_or_else(missing)
}
