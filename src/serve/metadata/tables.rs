//! Catalogs, schemas and tables.

use std::{collections::HashMap, sync::Arc};

use arrow::{
    array::{RecordBatch, StringArray},
    datatypes::{DataType, Field, FieldRef, Schema},
};
use arrow_flight::{
    error::FlightError,
    sql::{CommandGetCatalogs, CommandGetDbSchemas, CommandGetTables},
};

use crate::{
    lake::{
        LakeView, RelationInfo,
        session::{CATALOG, DEFAULT_SCHEMA},
    },
    serve::{metadata::types, wire},
};

/// The one table type: stored or computed when read makes no difference to who reads it.
const TABLE: &str = "TABLE";
/// What clients call it.
const SYNONYMS: [&str; 3] = [TABLE, "BASE TABLE", "VIEW"];

pub(crate) fn catalogs(command: CommandGetCatalogs) -> Result<RecordBatch, FlightError> {
    let mut builder = command.into_builder();
    builder.append(CATALOG);
    builder.build()
}

pub(crate) fn schemas(
    command: CommandGetDbSchemas,
    view: &LakeView,
) -> Result<RecordBatch, FlightError> {
    let mut names: Vec<String> =
        view.relations().iter().map(|(info, _)| info.name.schema.clone()).collect();
    names.push(DEFAULT_SCHEMA.to_owned());
    names.sort();
    names.dedup();
    let mut builder = command.into_builder();
    for name in names {
        builder.append(CATALOG, name);
    }
    builder.build()
}

pub(crate) fn tables(
    mut command: CommandGetTables,
    view: &LakeView,
) -> Result<RecordBatch, FlightError> {
    command.table_types = canonical(std::mem::take(&mut command.table_types));
    let include_schema = command.include_schema;
    let mut builder = command.into_builder();
    for (info, schema) in view.relations() {
        let schema = if include_schema { described(&info, &schema) } else { Schema::empty() };
        builder.append(CATALOG, &info.name.schema, &info.name.name, TABLE, &schema)?;
    }
    builder.build()
}

pub(crate) fn table_types() -> Result<RecordBatch, FlightError> {
    let schema = Arc::new(Schema::new(vec![Field::new("table_type", DataType::Utf8, false)]));
    let types = Arc::new(StringArray::from(vec![TABLE]));
    Ok(RecordBatch::try_new(schema, vec![types])?)
}

/// Table types as asked for, each synonym as the one that there is.
fn canonical(asked: Vec<String>) -> Vec<String> {
    let is_table = |name: &str| SYNONYMS.iter().any(|known| name.eq_ignore_ascii_case(known));
    asked.into_iter().map(|name| if is_table(&name) { TABLE.to_owned() } else { name }).collect()
}

/// The schema that a query over all columns answers with, and what is known about each column.
fn described(info: &RelationInfo, schema: &Schema) -> Schema {
    let fields = wire::schema(schema);
    let fields = fields.fields().iter().map(|field| column(info, field));
    Schema::new(fields.collect::<Vec<Field>>())
}

fn column(info: &RelationInfo, field: &FieldRef) -> Field {
    let mut known: HashMap<String, String> = field.metadata().clone();
    let mut set = |key: &str, value: &str| {
        known.insert(format!("ARROW:FLIGHT:SQL:{key}"), value.to_owned());
    };
    set("CATALOG_NAME", CATALOG);
    set("SCHEMA_NAME", &info.name.schema);
    set("TABLE_NAME", &info.name.name);
    set("TYPE_NAME", types::name(field.data_type()));
    set("IS_AUTO_INCREMENT", "0");
    set("IS_CASE_SENSITIVE", if *field.data_type() == DataType::Utf8 { "1" } else { "0" });
    set("IS_READ_ONLY", "1");
    set("IS_SEARCHABLE", "1");
    if let DataType::Decimal128(precision, scale) | DataType::Decimal256(precision, scale) =
        field.data_type()
    {
        set("PRECISION", &precision.to_string());
        set("SCALE", &scale.to_string());
    }
    if let Some(description) = info.columns.get(field.name()).filter(|text| !text.is_empty()) {
        set("REMARKS", description);
    }
    Field::clone(field).with_metadata(known)
}
