//! `count(DISTINCT (a, b))` over encoded rows.
//!
//! The engine keeps every distinct struct or list as a slice of the batch that it came in, and
//! accounts the whole batch for each: some thousand rows use up the memory of all queries. Encoded
//! as bytes, a value is as large as it is.

use std::sync::Arc;

use arrow::{
    array::{Array as _, BinaryArray},
    datatypes::DataType,
    row::{RowConverter, SortField},
};
use datafusion::{
    common::DFSchema,
    error::Result,
    logical_expr::{
        ColumnarValue, Expr, ExprSchemable as _, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
        Signature, Volatility,
        expr::{AggregateFunction, ScalarFunction},
    },
};

/// Encodes the argument of a `count(DISTINCT …)` of structs or lists; `None`: there is nothing to
/// do.
pub(super) fn encoded(call: &AggregateFunction, schema: &DFSchema) -> Option<AggregateFunction> {
    let [value] = call.params.args.as_slice() else { return None };
    if call.func.name() != "count" || !call.params.distinct {
        return None;
    }
    let data_type = value.get_type(schema).ok()?;
    let is_nested = matches!(data_type, DataType::Struct(_) | DataType::List(_));
    if !is_nested || !RowConverter::supports_fields(&[SortField::new(data_type)]) {
        return None;
    }
    let func = Arc::new(ScalarUDF::new_from_impl(Encoded::default()));
    let mut call = call.clone();
    call.params.args = vec![Expr::ScalarFunction(ScalarFunction {
        func,
        args: std::mem::take(&mut call.params.args),
    })];
    Some(call)
}

/// Bytes that are equal where the values are; null where the value is.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Encoded {
    signature: Signature,
}

impl Default for Encoded {
    fn default() -> Self {
        Self { signature: Signature::any(1, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for Encoded {
    fn name(&self) -> &str {
        "encoded"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Binary)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let values = ColumnarValue::values_to_arrays(&args.args)?;
        let fields = values.iter().map(|v| SortField::new(v.data_type().clone())).collect();
        let rows = RowConverter::new(fields)?.convert_columns(&values)?;
        let is_null = |row: usize| values.iter().any(|values| values.is_null(row));
        let bytes =
            rows.iter().enumerate().map(|(i, row)| (!is_null(i)).then(|| row.data().to_vec()));
        Ok(ColumnarValue::Array(Arc::new(bytes.collect::<BinaryArray>())))
    }
}
