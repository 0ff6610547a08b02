//! What there is to query: catalogs, schemas, tables, types, keys, and what this server can do.

mod keys;
mod sql_info;
mod tables;
mod types;

use arrow::array::RecordBatch;
use arrow_flight::{error::FlightError, sql::Command};

use crate::lake::LakeView;

/// The rows of a metadata command; `None` for every other command.
pub(crate) fn answer(
    command: &Command,
    view: &LakeView,
) -> Option<Result<RecordBatch, FlightError>> {
    Some(match command {
        Command::CommandGetCatalogs(command) => tables::catalogs(*command),
        Command::CommandGetDbSchemas(command) => tables::schemas(command.clone(), view),
        Command::CommandGetTables(command) => tables::tables(command.clone(), view),
        Command::CommandGetTableTypes(_) => tables::table_types(),
        Command::CommandGetSqlInfo(command) => sql_info::sql_info(&command.info),
        Command::CommandGetXdbcTypeInfo(command) => types::xdbc_types(*command),
        Command::CommandGetPrimaryKeys(_) => Ok(keys::primary()),
        Command::CommandGetImportedKeys(_)
        | Command::CommandGetExportedKeys(_)
        | Command::CommandGetCrossReference(_) => Ok(keys::foreign()),
        _ => return None,
    })
}
