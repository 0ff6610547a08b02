//! The types of columns by their SQL names, and the XDBC type list that ODBC asks for.

use arrow::{array::RecordBatch, datatypes::DataType};
use arrow_flight::{
    error::FlightError,
    sql::{
        CommandGetXdbcTypeInfo, Nullable, Searchable, XdbcDataType, XdbcDatetimeSubcode,
        metadata::{XdbcTypeInfo, XdbcTypeInfoDataBuilder},
    },
};

/// The SQL name of a type, as it is also written in a CAST.
pub(crate) fn name(data_type: &DataType) -> &'static str {
    match data_type {
        DataType::Boolean => "BOOLEAN",
        DataType::Int8 | DataType::UInt8 => "TINYINT",
        DataType::Int16 | DataType::UInt16 => "SMALLINT",
        DataType::Int32 | DataType::UInt32 => "INTEGER",
        DataType::Int64 | DataType::UInt64 => "BIGINT",
        DataType::Float16 | DataType::Float32 => "REAL",
        DataType::Float64 => "DOUBLE",
        DataType::Decimal128(..) | DataType::Decimal256(..) => "DECIMAL",
        DataType::Utf8 => "VARCHAR",
        DataType::Binary | DataType::FixedSizeBinary(_) => "VARBINARY",
        DataType::Date32 | DataType::Date64 => "DATE",
        DataType::Time32(_) | DataType::Time64(_) => "TIME",
        DataType::Timestamp(..) => "TIMESTAMP",
        DataType::Duration(_) | DataType::Interval(_) => "INTERVAL",
        DataType::List(_) | DataType::FixedSizeList(..) => "ARRAY",
        DataType::Struct(_) => "STRUCT",
        DataType::Map(..) => "MAP",
        _ => "OTHER",
    }
}

/// Name, code, size, radix of the size.
type Row = (&'static str, XdbcDataType, Option<i32>, Option<i32>);

const TYPES: [Row; 13] = [
    ("BOOLEAN", XdbcDataType::XdbcBit, Some(1), None),
    ("TINYINT", XdbcDataType::XdbcTinyint, Some(8), Some(2)),
    ("SMALLINT", XdbcDataType::XdbcSmallint, Some(16), Some(2)),
    ("INTEGER", XdbcDataType::XdbcInteger, Some(32), Some(2)),
    ("BIGINT", XdbcDataType::XdbcBigint, Some(64), Some(2)),
    ("REAL", XdbcDataType::XdbcReal, Some(24), Some(2)),
    ("DOUBLE", XdbcDataType::XdbcDouble, Some(53), Some(2)),
    ("DECIMAL", XdbcDataType::XdbcDecimal, Some(38), Some(10)),
    ("VARCHAR", XdbcDataType::XdbcVarchar, None, None),
    ("VARBINARY", XdbcDataType::XdbcVarbinary, None, None),
    ("DATE", XdbcDataType::XdbcDate, Some(10), None),
    ("TIME", XdbcDataType::XdbcTime, Some(15), None),
    ("TIMESTAMP", XdbcDataType::XdbcTimestamp, Some(26), None),
];

pub(crate) fn xdbc_types(command: CommandGetXdbcTypeInfo) -> Result<RecordBatch, FlightError> {
    let mut builder = XdbcTypeInfoDataBuilder::new();
    for row in TYPES {
        builder.append(info(row));
    }
    let data = builder.build()?;
    command.into_builder(&data).build()
}

fn info((name, code, size, radix): Row) -> XdbcTypeInfo {
    let quoted = |text: &str| Some(text.to_owned());
    let (prefix, suffix) = match code {
        XdbcDataType::XdbcVarchar => (quoted("'"), quoted("'")),
        XdbcDataType::XdbcVarbinary => (quoted("X'"), quoted("'")),
        XdbcDataType::XdbcDate => (quoted("DATE '"), quoted("'")),
        XdbcDataType::XdbcTime => (quoted("TIME '"), quoted("'")),
        XdbcDataType::XdbcTimestamp => (quoted("TIMESTAMP '"), quoted("'")),
        _ => (None, None),
    };
    let datetime = match code {
        XdbcDataType::XdbcDate => Some(XdbcDatetimeSubcode::XdbcSubcodeYear),
        XdbcDataType::XdbcTime => Some(XdbcDatetimeSubcode::XdbcSubcodeTime),
        XdbcDataType::XdbcTimestamp => Some(XdbcDatetimeSubcode::XdbcSubcodeTimestamp),
        _ => None,
    };
    let is_number = radix.is_some();
    let is_decimal = code == XdbcDataType::XdbcDecimal;
    let params = is_decimal.then(|| vec!["precision".to_owned(), "scale".to_owned()]);
    XdbcTypeInfo {
        type_name: name.to_owned(),
        data_type: code,
        column_size: size,
        literal_prefix: prefix,
        literal_suffix: suffix,
        create_params: params,
        nullable: Nullable::NullabilityNullable,
        case_sensitive: code == XdbcDataType::XdbcVarchar,
        searchable: Searchable::Full,
        unsigned_attribute: is_number.then_some(false),
        fixed_prec_scale: false,
        auto_increment: is_number.then_some(false),
        local_type_name: Some(name.to_owned()),
        minimum_scale: is_decimal.then_some(0),
        maximum_scale: is_decimal.then_some(38),
        // A date or time is told apart by its subcode.
        sql_data_type: if datetime.is_some() { XdbcDataType::XdbcDatetime } else { code },
        datetime_subcode: datetime,
        num_prec_radix: radix,
        interval_precision: None,
    }
}
