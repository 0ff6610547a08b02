//! Keys. None are declared yet, so the answers are empty, but typed as clients expect them.

use std::sync::Arc;

use arrow::{
    array::RecordBatch,
    datatypes::{DataType, Field, Schema},
};

pub(crate) fn primary() -> RecordBatch {
    empty(vec![
        optional("catalog_name"),
        optional("db_schema_name"),
        required("table_name", DataType::Utf8),
        required("column_name", DataType::Utf8),
        required("key_sequence", DataType::Int32),
        optional("key_name"),
    ])
}

/// Imported, exported and cross-referenced keys share one form.
pub(crate) fn foreign() -> RecordBatch {
    empty(vec![
        optional("pk_catalog_name"),
        optional("pk_db_schema_name"),
        required("pk_table_name", DataType::Utf8),
        required("pk_column_name", DataType::Utf8),
        optional("fk_catalog_name"),
        optional("fk_db_schema_name"),
        required("fk_table_name", DataType::Utf8),
        required("fk_column_name", DataType::Utf8),
        required("key_sequence", DataType::Int32),
        optional("fk_key_name"),
        optional("pk_key_name"),
        required("update_rule", DataType::UInt8),
        required("delete_rule", DataType::UInt8),
    ])
}

fn empty(fields: Vec<Field>) -> RecordBatch {
    RecordBatch::new_empty(Arc::new(Schema::new(fields)))
}

fn required(name: &str, data_type: DataType) -> Field {
    Field::new(name, data_type, false)
}

fn optional(name: &str) -> Field {
    Field::new(name, DataType::Utf8, true)
}
