//! Functions of the engine that take what people who write SQL for PostgreSQL or dbt hand them.

use std::sync::Arc;

use arrow::datatypes::{DataType, FieldRef};
use datafusion::{
    common::internal_err,
    error::Result,
    execution::{FunctionRegistry as _, SessionState},
    functions::{core::coalesce::CoalesceFunc, datetime},
    logical_expr::{
        ColumnarValue, Documentation, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF,
        ScalarUDFImpl, Signature,
        simplify::{ExprSimplifyResult, SimplifyContext},
    },
};

/// Puts the functions of this module in the place of those of the engine.
pub fn register(state: &mut SessionState) {
    let to_date = datetime::to_date();
    let date = ScalarUDF::clone(&to_date).with_aliases(["date"]);
    for function in [ScalarUDF::new_from_impl(Coalesce::default()), date] {
        // A registry in memory takes everything.
        state.register_udf(Arc::new(function)).ok();
    }
}

/// `coalesce`, in which a text beside dates or timestamps is one of these: as in
/// `coalesce(ended_on, '2099-01-01')`.
#[derive(Debug, Default, PartialEq, Eq, Hash)]
struct Coalesce(CoalesceFunc);

impl ScalarUDFImpl for Coalesce {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn signature(&self) -> &Signature {
        self.0.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.0.return_type(types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        self.0.return_field_from_args(args)
    }

    fn simplify(&self, args: Vec<Expr>, info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        self.0.simplify(args, info)
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        internal_err!("coalesce is run as CASE")
    }

    fn conditional_arguments<'a>(
        &self,
        args: &'a [Expr],
    ) -> Option<(Vec<&'a Expr>, Vec<&'a Expr>)> {
        self.0.conditional_arguments(args)
    }

    fn short_circuits(&self) -> bool {
        self.0.short_circuits()
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let mut known = types.iter().filter(|of_type| !is_text(of_type) && !of_type.is_null());
        let is_time = known.clone().next().is_some() && known.all(DataType::is_temporal);
        if !is_time {
            return self.0.coerce_types(types);
        }
        let others: Vec<DataType> =
            types.iter().filter(|of_type| !is_text(of_type)).cloned().collect();
        let together = self.0.coerce_types(&others)?;
        let Some(time) = together.into_iter().next() else { return self.0.coerce_types(types) };
        Ok(vec![time; types.len()])
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.0.documentation()
    }
}

fn is_text(of_type: &DataType) -> bool {
    matches!(of_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

#[cfg(test)]
mod tests {
    use datafusion::{
        arrow::util::pretty::pretty_format_batches, execution::SessionStateBuilder,
        prelude::SessionContext,
    };

    use crate::domain::sql_limits;

    async fn shown(sql: String) -> String {
        let state = sql_limits::build(SessionStateBuilder::new());
        let context = SessionContext::new_with_state(state);
        let rows = context.sql(&sql).await.expect("planned").collect().await.expect("run");
        let text = pretty_format_batches(&rows).expect("shown").to_string();
        text.lines().nth(3).unwrap_or_default().to_owned()
    }

    #[tokio::test]
    async fn a_text_beside_dates_is_a_date() {
        let values = "FROM (VALUES (CAST(NULL AS date), CAST(NULL AS timestamp))) AS t(d, ts)";
        let row = shown(format!(
            "SELECT coalesce(d, '2099-01-02') + INTERVAL '1 day' AS d, coalesce(ts, '2099-01-01 10:00:00') \
             AS ts, coalesce(NULL, d, NULL) IS NULL AS n, coalesce('a', 'b') AS a, \
             date(coalesce(ts, '2026-01-01 23:00:00')) AS day {values}"
        ));
        let row = row.await;
        assert_eq!(row, "| 2099-01-03 | 2099-01-01T10:00:00 | true | a | 2026-01-01 |");
    }
}
