//! How data files are written.

use arrow::datatypes::{DataType, Schema};
use deltalake::{DeltaTable, DeltaTableError, writer::RecordBatchWriter};
use parquet::{
    basic::{Compression, Encoding},
    file::properties::{EnabledStatistics, WriterProperties},
    schema::types::ColumnPath,
};

/// Files are cut at this size.
const FILE_BYTES: u64 = 128 * 1024 * 1024;
/// Row groups are cut at about this size, encoded: the writer keeps one in memory.
const ROW_GROUP_BYTES: usize = 8 * 1024 * 1024;
/// A column whose distinct values take more is not worth a dictionary, which shows the sooner the
/// smaller this is.
const DICTIONARY_BYTES: usize = 128 * 1024;

/// Columns of ours that hardly ever repeat a value.
const UNIQUE: [&str; 3] = ["_event_id", "_payload", "__identity"];
/// Columns of ours that grow from row to row.
const GROWING: [&str; 3] = ["_offset", "_ts", "_ingested_at"];
/// Columns that nobody looks for by range.
const OPAQUE: [&str; 2] = ["_payload", "__identity"];

/// Writes files of the form that the table has.
pub(super) fn writer(table: &DeltaTable) -> Result<RecordBatchWriter, DeltaTableError> {
    let writer = RecordBatchWriter::for_table(table)?;
    let properties = properties(&writer.arrow_schema());
    Ok(writer.with_target_file_size(FILE_BYTES).with_writer_properties(properties))
}

/// A model may give the names of our columns to values of any type: not every encoding takes them.
fn properties(schema: &Schema) -> WriterProperties {
    let grows = |name: &&str| {
        let kind = schema.field_with_name(name).map(|field| field.data_type());
        matches!(kind, Ok(DataType::Int64 | DataType::Timestamp(_, _)))
    };
    let mut properties = WriterProperties::builder()
        .set_created_by(format!("sluice version {}", env!("CARGO_PKG_VERSION")))
        .set_compression(Compression::SNAPPY)
        .set_max_row_group_bytes(Some(ROW_GROUP_BYTES))
        .set_dictionary_page_size_limit(DICTIONARY_BYTES);
    for name in UNIQUE {
        properties = properties.set_column_dictionary_enabled(ColumnPath::from(name), false);
    }
    for name in GROWING.into_iter().filter(grows) {
        properties = properties
            .set_column_dictionary_enabled(ColumnPath::from(name), false)
            .set_column_encoding(ColumnPath::from(name), Encoding::DELTA_BINARY_PACKED);
    }
    for name in OPAQUE {
        let none = EnabledStatistics::None;
        properties = properties.set_column_statistics_enabled(ColumnPath::from(name), none);
    }
    properties.build()
}
