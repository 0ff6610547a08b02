//! Data tests, planned: their queries are checked as models are.

use datafusion::error::DataFusionError;

use crate::{
    domain::ACCEPTED,
    models::{Plan, diagnose::plain, plan::Planning},
    project::{DataTest, Diagnostic, Diagnostics},
};

/// A data test with the plan of its query.
#[derive(Debug, Clone)]
pub struct TestPlan {
    pub test: DataTest,
    /// That of its query, as of a view.
    pub plan: Plan,
}

impl TestPlan {
    /// SQL whose one row judges: what `fail_calc` makes of the rows that fail, and whether that is
    /// worth a warning, and an error.
    pub fn verdict_sql(&self) -> String {
        verdict_sql(&self.test, &self.plan.model.sql)
    }
}

fn verdict_sql(test: &DataTest, sql: &str) -> String {
    let DataTest { fail_calc, warn_if, error_if, .. } = test;
    let limit = test.limit.map(|limit| format!("LIMIT {limit}\n")).unwrap_or_default();
    // The line ends bear comments at the end of what users write.
    format!(
        "SELECT {fail_calc}\nAS failures, ({fail_calc}\n) {warn_if}\nAS warns, ({fail_calc}\n) \
         {error_if}\nAS errs FROM (\n{sql}\n{limit}) AS failing"
    )
}

impl Planning<'_> {
    /// The plan of a data test; `None` where it or what it reads is wrong.
    pub(super) fn test(&mut self, test: &DataTest, found: &mut Diagnostics) -> Option<TestPlan> {
        if self.is_told(test) {
            return None;
        }
        let plan = match self.query(&test.query)? {
            Ok(plan) => plan,
            Err(diagnostic) => {
                found.push(test.told(*diagnostic));
                return None;
            }
        };
        let planned = TestPlan { test: test.clone(), plan };
        if let Err(error) = self.planner.logical(&planned.verdict_sql()) {
            found.push(test.told(self.wrong_verdict(test, &error)));
            return None;
        }
        Some(planned)
    }

    /// Whether it is about a column that there is not, which is told where the column is described.
    fn is_told(&self, test: &DataTest) -> bool {
        let (Some(about), Some(column)) = (&test.about, &test.column) else { return false };
        let is_described = about.schema != ACCEPTED && about.schema != "bronze";
        let known = self.known.get(about);
        is_described && known.is_some_and(|known| known.columns().all(|name| name != column))
    }

    /// What is wrong with the thresholds of a test, or with what they judge.
    fn wrong_verdict(&self, test: &DataTest, error: &DataFusionError) -> Diagnostic {
        let text = error.strip_backtrace();
        let reason = plain(text.lines().next().unwrap_or_default());
        let names = ["fail_calc", "warn_if", "error_if"];
        let given = [&test.fail_calc, &test.warn_if, &test.error_if];
        let said: Vec<String> =
            names.iter().zip(given).map(|(name, sql)| format!("{name} `{sql}`")).collect();
        let hint = "fail_calc is an aggregate of the rows that fail, the others compare it: `> 10`";
        let message = format!("{} cannot be judged: {reason}", said.join(", "));
        Diagnostic::file(&test.query.file, message).hint(hint)
    }
}
