//! What this server can do, as GetSqlInfo tells it.
//!
//! Every code of the enum is answered: a driver that misses one fails where it is used. The flags
//! say what is true (read-only, no transactions, no cancel action). The union is built here because
//! arrow-flight's own names the map entries differently from the reference.

use std::sync::Arc;

use arrow::{
    array::{
        ArrayRef, BooleanArray, Int32Array, Int32Builder, Int64Array, ListArray, ListBuilder,
        MapArray, MapBuilder, MapFieldNames, RecordBatch, StringArray, StringBuilder, UInt32Array,
        UnionArray,
    },
    buffer::ScalarBuffer,
    datatypes::{DataType, Field, Schema, UnionFields},
};
use arrow_flight::{error::FlightError, sql::SqlInfo};

/// A value of the union.
enum Value {
    Text(&'static str),
    Bool(bool),
    Long(i64),
    Int(i32),
    Texts(&'static [&'static str]),
    /// Type converted from → types converted to.
    Conversions,
}

const NUMERIC: &[&str] = &[
    "abs", "acos", "asin", "atan", "atan2", "cbrt", "ceil", "cos", "degrees", "exp", "floor",
    "gcd", "lcm", "ln", "log", "log10", "log2", "nanvl", "pi", "power", "radians", "random",
    "round", "signum", "sin", "sqrt", "tan", "trunc",
];
const STRING: &[&str] = &[
    "ascii",
    "bit_length",
    "btrim",
    "character_length",
    "chr",
    "concat",
    "concat_ws",
    "contains",
    "ends_with",
    "initcap",
    "left",
    "length",
    "lower",
    "lpad",
    "ltrim",
    "octet_length",
    "regexp_like",
    "regexp_match",
    "regexp_replace",
    "repeat",
    "replace",
    "reverse",
    "right",
    "rpad",
    "rtrim",
    "split_part",
    "starts_with",
    "strpos",
    "substr",
    "substring",
    "translate",
    "trim",
    "upper",
];
const DATETIME: &[&str] = &[
    "current_date",
    "current_time",
    "current_timestamp",
    "date_bin",
    "date_part",
    "date_trunc",
    "from_unixtime",
    "make_date",
    "now",
    "to_date",
    "to_timestamp",
    "to_unixtime",
];
const SYSTEM: &[&str] = &["arrow_typeof", "coalesce", "nullif", "version"];
const KEYWORDS: &[&str] =
    &["ANTI", "EXPLAIN", "ILIKE", "LIMIT", "OFFSET", "QUALIFY", "SEMI", "SHOW", "TRY_CAST"];

/// Codes of SqlSupportsConvert: bigint, date, decimal, float, integer, numeric, real, smallint,
/// timestamp, tinyint, varchar.
const NUMBERS: [i32; 8] = [0, 5, 6, 7, 12, 13, 14, 17];
const DATE: i32 = 4;
const TIMESTAMP: i32 = 16;
const VARCHAR: i32 = 19;

/// Bit masks with one, two, four and so on of the values of an enum set.
const fn bits(count: u32) -> i32 {
    (1 << count) - 1
}

/// The answer for `codes`; none means all.
pub(crate) fn sql_info(codes: &[u32]) -> Result<RecordBatch, FlightError> {
    let wanted = |info: SqlInfo| {
        let code = u32::try_from(info as i32).unwrap_or_default();
        (codes.is_empty() || codes.contains(&code)).then_some(code)
    };
    let mut union = Union::default();
    let mut names = Vec::new();
    for (info, value) in all() {
        if let Some(code) = wanted(info) {
            names.push(code);
            union.push(&value)?;
        }
    }
    let values = union.finish()?;
    let schema = Schema::new(vec![
        Field::new("info_name", DataType::UInt32, false),
        Field::new("value", values.data_type().clone(), false),
    ]);
    let columns = vec![Arc::new(UInt32Array::from(names)) as ArrayRef, values];
    Ok(RecordBatch::try_new(Arc::new(schema), columns)?)
}

fn all() -> Vec<(SqlInfo, Value)> {
    let mut all = server();
    all.extend(language());
    all.extend(limits());
    all.extend(transactions());
    all.sort_by_key(|(info, _)| *info as i32);
    all
}

fn server() -> Vec<(SqlInfo, Value)> {
    use SqlInfo as I;
    use Value::{Bool, Int, Text};
    vec![
        (I::FlightSqlServerName, Text("Sluice")),
        (I::FlightSqlServerVersion, Text(env!("CARGO_PKG_VERSION"))),
        (I::FlightSqlServerArrowVersion, Text(arrow::ARROW_VERSION)),
        (I::FlightSqlServerReadOnly, Bool(true)),
        (I::FlightSqlServerSql, Bool(true)),
        (I::FlightSqlServerSubstrait, Bool(false)),
        (I::FlightSqlServerSubstraitMinVersion, Text("")),
        (I::FlightSqlServerSubstraitMaxVersion, Text("")),
        (I::FlightSqlServerTransaction, Int(0)),
        (I::FlightSqlServerCancel, Bool(false)),
        (I::FlightSqlServerBulkIngestion, Bool(false)),
        (I::FlightSqlServerIngestTransactionsSupported, Bool(false)),
        (I::FlightSqlServerStatementTimeout, Int(0)),
        (I::FlightSqlServerTransactionTimeout, Int(0)),
    ]
}

fn language() -> Vec<(SqlInfo, Value)> {
    use SqlInfo as I;
    use Value::{Bool, Conversions, Int, Text, Texts};
    vec![
        (I::SqlDdlCatalog, Bool(false)),
        (I::SqlDdlSchema, Bool(false)),
        (I::SqlDdlTable, Bool(false)),
        // Unquoted names are folded to lower case, quoted ones are kept.
        (I::SqlIdentifierCase, Int(3)),
        (I::SqlIdentifierQuoteChar, Text("\"")),
        (I::SqlQuotedIdentifierCase, Int(0)),
        (I::SqlAllTablesAreSelectable, Bool(true)),
        // As if a null were the highest value.
        (I::SqlNullOrdering, Int(0)),
        (I::SqlKeywords, Texts(KEYWORDS)),
        (I::SqlNumericFunctions, Texts(NUMERIC)),
        (I::SqlStringFunctions, Texts(STRING)),
        (I::SqlSystemFunctions, Texts(SYSTEM)),
        (I::SqlDatetimeFunctions, Texts(DATETIME)),
        (I::SqlSearchStringEscape, Text("\\")),
        (I::SqlExtraNameCharacters, Text("")),
        (I::SqlSupportsColumnAliasing, Bool(true)),
        (I::SqlNullPlusNullIsNull, Bool(true)),
        (I::SqlSupportsConvert, Conversions),
        (I::SqlSupportsTableCorrelationNames, Bool(true)),
        (I::SqlSupportsDifferentTableCorrelationNames, Bool(false)),
        (I::SqlSupportsExpressionsInOrderBy, Bool(true)),
        (I::SqlSupportsOrderByUnrelated, Bool(true)),
        (I::SqlSupportedGroupBy, Int(bits(2))),
        (I::SqlSupportsLikeEscapeClause, Bool(true)),
        (I::SqlSupportsNonNullableColumns, Bool(true)),
        (I::SqlSupportedGrammar, Int(bits(2))),
        (I::SqlAnsi92SupportedLevel, Int(bits(1))),
        (I::SqlSupportsIntegrityEnhancementFacility, Bool(false)),
        (I::SqlOuterJoinsSupportLevel, Int(bits(3) - 1)),
        (I::SqlSchemaTerm, Text("schema")),
        (I::SqlProcedureTerm, Text("procedure")),
        (I::SqlCatalogTerm, Text("catalog")),
        (I::SqlCatalogAtStart, Bool(true)),
        (I::SqlSchemasSupportedActions, Int(0)),
        (I::SqlCatalogsSupportedActions, Int(0)),
        (I::SqlSupportedPositionedCommands, Int(0)),
        (I::SqlSelectForUpdateSupported, Bool(false)),
        (I::SqlStoredProceduresSupported, Bool(false)),
        (I::SqlSupportedSubqueries, Int(bits(3))),
        (I::SqlCorrelatedSubqueriesSupported, Bool(true)),
        (I::SqlSupportedUnions, Int(bits(2))),
    ]
}

/// 0 means no limit, or none that is known.
fn limits() -> Vec<(SqlInfo, Value)> {
    use SqlInfo as I;
    let unlimited = [
        I::SqlMaxBinaryLiteralLength,
        I::SqlMaxCharLiteralLength,
        I::SqlMaxColumnNameLength,
        I::SqlMaxColumnsInGroupBy,
        I::SqlMaxColumnsInIndex,
        I::SqlMaxColumnsInOrderBy,
        I::SqlMaxColumnsInSelect,
        I::SqlMaxColumnsInTable,
        I::SqlMaxConnections,
        I::SqlMaxCursorNameLength,
        I::SqlMaxIndexLength,
        I::SqlDbSchemaNameLength,
        I::SqlMaxProcedureNameLength,
        I::SqlMaxCatalogNameLength,
        I::SqlMaxRowSize,
        I::SqlMaxStatementLength,
        I::SqlMaxStatements,
        I::SqlMaxTableNameLength,
        I::SqlMaxTablesInSelect,
        I::SqlMaxUsernameLength,
    ];
    let mut limits: Vec<_> = unlimited.into_iter().map(|info| (info, Value::Long(0))).collect();
    limits.push((I::SqlMaxRowSizeIncludesBlobs, Value::Bool(true)));
    limits
}

fn transactions() -> Vec<(SqlInfo, Value)> {
    use SqlInfo as I;
    use Value::{Bool, Int, Long};
    let forward_only_read_only = Int(1 << 1);
    vec![
        // The JDBC driver reads this one as a long.
        (I::SqlDefaultTransactionIsolation, Long(0)),
        (I::SqlTransactionsSupported, Bool(false)),
        (I::SqlSupportedTransactionsIsolationLevels, Int(bits(1))),
        (I::SqlDataDefinitionCausesTransactionCommit, Bool(false)),
        (I::SqlDataDefinitionsInTransactionsIgnored, Bool(false)),
        (I::SqlSupportedResultSetTypes, Int(1 << 1)),
        (I::SqlSupportedConcurrenciesForResultSetUnspecified, Int(0)),
        (I::SqlSupportedConcurrenciesForResultSetForwardOnly, forward_only_read_only),
        (I::SqlSupportedConcurrenciesForResultSetScrollSensitive, Int(0)),
        (I::SqlSupportedConcurrenciesForResultSetScrollInsensitive, Int(0)),
        (I::SqlBatchUpdatesSupported, Bool(false)),
        (I::SqlSavepointsSupported, Bool(false)),
        (I::SqlNamedParametersSupported, Bool(false)),
        (I::SqlLocatorsUpdateCopy, Bool(false)),
        (I::SqlStoredFunctionsUsingCallSyntaxSupported, Bool(false)),
    ]
}

/// Builds the dense union of the reference.
struct Union {
    types: Vec<i8>,
    offsets: Vec<i32>,
    texts: Vec<&'static str>,
    bools: Vec<bool>,
    longs: Vec<i64>,
    ints: Vec<i32>,
    lists: ListBuilder<StringBuilder>,
    maps: MapBuilder<Int32Builder, ListBuilder<Int32Builder>>,
    list_count: usize,
    map_count: usize,
}

impl Default for Union {
    fn default() -> Self {
        let names = MapFieldNames {
            entry: "entries".to_owned(),
            key: "key".to_owned(),
            value: "value".to_owned(),
        };
        let lists = ListBuilder::new(Int32Builder::new());
        Self {
            types: Vec::new(),
            offsets: Vec::new(),
            texts: Vec::new(),
            bools: Vec::new(),
            longs: Vec::new(),
            ints: Vec::new(),
            lists: ListBuilder::new(StringBuilder::new()),
            maps: MapBuilder::new(Some(names), Int32Builder::new(), lists),
            list_count: 0,
            map_count: 0,
        }
    }
}

impl Union {
    fn push(&mut self, value: &Value) -> Result<(), FlightError> {
        let (kind, offset) = match value {
            Value::Text(text) => (0, push(&mut self.texts, text)),
            Value::Bool(flag) => (1, push(&mut self.bools, *flag)),
            Value::Long(number) => (2, push(&mut self.longs, *number)),
            Value::Int(number) => (3, push(&mut self.ints, *number)),
            Value::Texts(texts) => {
                for text in *texts {
                    self.lists.values().append_value(text);
                }
                self.lists.append(true);
                self.list_count += 1;
                (4, self.list_count - 1)
            }
            Value::Conversions => {
                self.push_conversions()?;
                self.map_count += 1;
                (5, self.map_count - 1)
            }
        };
        self.types.push(kind);
        self.offsets.push(i32::try_from(offset).unwrap_or_default());
        Ok(())
    }

    fn push_conversions(&mut self) -> Result<(), FlightError> {
        let mut numbers_and_text = NUMBERS.to_vec();
        numbers_and_text.push(VARCHAR);
        let mut all = numbers_and_text.clone();
        all.extend([DATE, TIMESTAMP]);
        let mut conversions: Vec<(i32, Vec<i32>)> =
            NUMBERS.iter().map(|number| (*number, numbers_and_text.clone())).collect();
        conversions.push((DATE, vec![DATE, TIMESTAMP, VARCHAR]));
        conversions.push((TIMESTAMP, vec![DATE, TIMESTAMP, VARCHAR]));
        conversions.push((VARCHAR, all));
        conversions.sort();
        for (from, to) in conversions {
            self.maps.keys().append_value(from);
            self.maps.values().append_value(to.into_iter().map(Some));
        }
        self.maps.append(true)?;
        Ok(())
    }

    fn finish(mut self) -> Result<ArrayRef, FlightError> {
        let lists: ListArray = self.lists.finish();
        let maps: MapArray = self.maps.finish();
        let children: Vec<(&str, ArrayRef)> = vec![
            ("string_value", Arc::new(StringArray::from(self.texts))),
            ("bool_value", Arc::new(BooleanArray::from(self.bools))),
            ("bigint_value", Arc::new(Int64Array::from(self.longs))),
            ("int32_bitmask", Arc::new(Int32Array::from(self.ints))),
            ("string_list", Arc::new(lists)),
            ("int32_to_int32_list_map", Arc::new(maps)),
        ];
        let fields = children
            .iter()
            .map(|(name, child)| Field::new(*name, child.data_type().clone(), false));
        let fields = UnionFields::from_fields(fields.collect::<Vec<_>>());
        let children = children.into_iter().map(|(_, child)| child).collect();
        let offsets = Some(ScalarBuffer::from(self.offsets));
        let union = UnionArray::try_new(fields, ScalarBuffer::from(self.types), offsets, children)?;
        Ok(Arc::new(union))
    }
}

/// Appends `value` and returns where it is.
fn push<T>(values: &mut Vec<T>, value: T) -> usize {
    values.push(value);
    values.len() - 1
}
