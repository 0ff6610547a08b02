//! Bronze as SQL sees it: payloads decoded on read by a function of the contract.

use std::sync::Arc;

use arrow::{
    array::{Array as _, ArrayRef, RecordBatch, StringBuilder, StructArray},
    datatypes::{DataType, Field, Fields, Schema, SchemaRef},
    error::ArrowError,
};
use datafusion::{
    common::{cast::as_binary_array, exec_err},
    error::Result,
    logical_expr::{
        ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
    },
};

use crate::{
    bronze::{
        Judge, bronze_schema,
        decode::{DecodedBatch, names_type},
    },
    domain::{
        META_COLUMNS,
        contract::{Contract, Severity},
    },
};

/// Columns of `bronze.<stream>` beside the fields and `META_COLUMNS`.
const RAW_COLUMNS: [&str; 2] = ["_headers", "_payload"];
const RESCUED: &str = "_rescued";
const VERDICT: &str = "_verdict";
/// Of contracts with rules that only warn.
pub const WARNINGS: &str = "_warnings";

/// `sluice_decode_<stream>(payload, key, time)`: a struct of the typed fields, `_warnings` where the
/// contract has any, `_rescued` and `_verdict`.
pub fn decode_udf(judge: Arc<Judge>) -> ScalarUDF {
    let name = function_name(judge.contract());
    let contract = Arc::clone(judge.contract());
    let fields = told_schema(&contract);
    // The optimiser may put the column itself, as Parquet gives it, in the place of its cast.
    let signature = Signature::any(3, Volatility::Immutable);
    ScalarUDF::from(Decode { name, judge, fields, signature })
}

fn function_name(contract: &Contract) -> String {
    format!("sluice_decode_{}", contract.name)
}

#[derive(Debug)]
struct Decode {
    name: String,
    judge: Arc<Judge>,
    fields: Fields,
    signature: Signature,
}

impl PartialEq for Decode {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.judge.contract() == other.judge.contract()
    }
}

impl Eq for Decode {}

impl std::hash::Hash for Decode {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl ScalarUDFImpl for Decode {
    fn name(&self) -> &str {
        &self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Struct(self.fields.clone()))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [payload, key, times] = args.args.as_slice() else {
            return exec_err!("{} takes three arguments", self.name);
        };
        let binary = |value: &ColumnarValue| -> Result<ArrayRef> {
            Ok(arrow::compute::cast(&value.to_array(args.number_rows)?, &DataType::Binary)?)
        };
        let (payload, key) = (binary(payload)?, binary(key)?);
        let times = times.to_array(args.number_rows)?;
        let decoded =
            self.judge.decode(as_binary_array(&payload)?, as_binary_array(&key)?, &times)?;
        let verdict = verdicts(&decoded);
        let mut columns: Vec<ArrayRef> = decoded.fields.columns().to_vec();
        columns.extend(decoded.warnings());
        columns.push(Arc::new(decoded.rescued));
        columns.push(verdict);
        let is_event = self.judge.contract().takes_tombstones();
        let nulls = if is_event { None } else { payload.logical_nulls() };
        let decoded = StructArray::try_new(self.fields.clone(), columns, nulls)?;
        Ok(ColumnarValue::Array(Arc::new(decoded)))
    }
}

fn verdicts(decoded: &DecodedBatch) -> ArrayRef {
    let mut verdict = StringBuilder::new();
    for row in 0..decoded.breaches.len() {
        let rules = decoded.rules(row, Some(Severity::Error));
        verdict.append_value(if rules.is_empty() { "ok".to_owned() } else { rules.join(",") });
    }
    Arc::new(verdict.finish())
}

/// SQL of `bronze.<stream>`: every one of `events`, decoded.
pub fn bronze_view_sql(contract: &Contract, events: &str) -> String {
    let columns = RAW_COLUMNS.iter().chain(&META_COLUMNS).map(|name| format!("\"{name}\""));
    let decoded = fields(contract).chain([RESCUED.to_owned(), VERDICT.to_owned()]);
    let decoded = decoded.map(|name| format!("d['{name}'] AS \"{name}\""));
    let list: Vec<String> = decoded.chain(columns).collect();
    format!(
        "SELECT {} FROM (SELECT *, {}(\"_payload\", \"_key\", \"_ts\") AS d FROM {events})",
        list.join(", "),
        function_name(contract)
    )
}

/// SQL of what a model sees of a stream: the accepted ones of `events`, decoded.
pub fn accepted_sql(contract: &Contract, events: &str, acceptance: &str) -> String {
    let decoded = fields(contract).map(|name| format!("d['{name}'] AS \"{name}\""));
    let meta = META_COLUMNS.iter().map(|name| format!("\"{name}\""));
    let list: Vec<String> = decoded.chain(meta).collect();
    format!(
        "SELECT {} FROM (SELECT b.*, {}(b.\"_payload\", b.\"_key\", b.\"_ts\") AS d FROM {events} AS b \
         JOIN {acceptance} AS a ON b.\"_partition\" = a.\"_partition\" AND b.\"_offset\" = \
         a.\"_offset\" AND b.\"_index\" = a.\"_index\" WHERE a.verdict = 'accepted')",
        list.join(", "),
        function_name(contract)
    )
}

/// The columns that models see of a payload.
fn decoded_fields(contract: &Contract) -> Vec<Field> {
    let schema = contract.schema();
    let warnings = contract.warns().then(|| Field::new(WARNINGS, names_type(), true));
    schema.fields().iter().map(|field| field.as_ref().clone()).chain(warnings).collect()
}

/// What `sluice_decode_<stream>` tells.
fn told_schema(contract: &Contract) -> Fields {
    let about = [RESCUED, VERDICT].map(|name| Field::new(name, DataType::Utf8, true));
    decoded_fields(contract).into_iter().chain(about).collect()
}

/// SQL of what the contract makes of the record in the row `row`.
pub fn decoded_sql(contract: &Contract, row: &str) -> String {
    format!("{}({row}.\"_payload\", {row}.\"_key\", {row}.\"_ts\")", function_name(contract))
}

/// The type of that.
pub fn decoded_type(contract: &Contract) -> DataType {
    DataType::Struct(told_schema(contract))
}

fn fields(contract: &Contract) -> impl Iterator<Item = String> {
    decoded_fields(contract).into_iter().map(|field| field.name().clone())
}

/// The rows of a Bronze batch as `accepted.<stream>` has them, rejected ones included.
pub fn accepted_rows(
    contract: &Contract,
    rows: &RecordBatch,
    decoded: &DecodedBatch,
) -> Result<RecordBatch, ArrowError> {
    let mut columns = decoded.fields.columns().to_vec();
    columns.extend(decoded.warnings());
    for name in META_COLUMNS {
        let column = rows.column_by_name(name);
        let missing = || ArrowError::SchemaError(format!("no column {name}"));
        columns.push(Arc::clone(column.ok_or_else(missing)?));
    }
    RecordBatch::try_new(accepted_schema(contract), columns)
}

/// The schema of `accepted.<stream>`: the fields, then `META_COLUMNS`.
pub fn accepted_schema(contract: &Contract) -> SchemaRef {
    let mut all = decoded_fields(contract);
    all.extend(bronze_columns(&META_COLUMNS));
    Arc::new(Schema::new(all))
}

/// The schema of `bronze.<stream>`.
pub fn bronze_view_schema(contract: &Contract) -> SchemaRef {
    let mut all: Vec<Field> =
        told_schema(contract).iter().map(|field| field.as_ref().clone()).collect();
    all.extend(bronze_columns(&RAW_COLUMNS));
    all.extend(bronze_columns(&META_COLUMNS));
    Arc::new(Schema::new(all))
}

fn bronze_columns(names: &[&str]) -> Vec<Field> {
    let schema = bronze_schema();
    names.iter().filter_map(|name| schema.field_with_name(name).ok().cloned()).collect()
}
