//! Rows that fail a data test of severity `drop` or `quarantine` are no rows of the model.
//!
//! Such a test is part of the model's definition: its SQL goes on being what the author wrote, with
//! the rows that fail left out, so that the model is kept as it was, and equal to a recompute. The
//! test itself then selects what was left out.

use crate::project::{
    Diagnostic, Diagnostics, Model,
    data_tests::{DataTest, Severity},
};

/// Leaves out of `models` what tests take out of them.
pub(in crate::project) fn take_out(
    models: &mut [Model],
    tests: &mut [DataTest],
    found: &mut Diagnostics,
) {
    for model in models {
        let mine: Vec<&mut DataTest> = tests
            .iter_mut()
            .filter(|test| test.severity.takes_out() && test.about.as_ref() == Some(&model.name))
            .collect();
        if mine.is_empty() {
            continue;
        }
        let open = "SELECT tested.* FROM (\n";
        let all = model.clone();
        let mut kept = Vec::new();
        for test in mine {
            let severity = test.severity.as_str();
            let Some(fails) = test.by_row.clone().filter(|_| !model.asks_columns) else {
                let why = if model.asks_columns {
                    format!("{} asks for the columns of what it reads", model.name)
                } else {
                    format!("`{}` judges no row by itself", test.kind)
                };
                let message = format!("severity {severity}: {why}");
                let told = test.told(Diagnostic::file(&model.file, message));
                found.push(told.hint("use 'warn' or 'error'"));
                continue;
            };
            kept.push(format!("({fails}\n) IS NOT TRUE"));
            let query = &mut test.query;
            query.sql = format!("{open}{}\n) AS tested WHERE {fails}", all.sql);
            query.places = all.places.clone().behind(open.len());
            query.source.clone_from(&all.source);
            query.file.clone_from(&all.file);
            query.refs.clone_from(&all.refs);
            query.sources.clone_from(&all.sources);
        }
        if kept.is_empty() {
            continue;
        }
        model.sql = format!("{open}{}\n) AS tested WHERE {}", all.sql, kept.join(" AND "));
        model.places = all.places.behind(open.len());
    }
}

/// The condition of the rows that fail, if a query selects just these rows of a relation.
pub(super) fn by_row(sql: &str, filter: Option<&str>) -> Option<String> {
    let (head, condition) = sql.trim().split_once("\nwhere ")?;
    let head = head.to_lowercase();
    let is_by_row = head.starts_with("select tested.*\nfrom ") && head.ends_with(" as tested");
    let is_whole = !head.contains("(") && head.lines().count() == 2;
    (is_by_row && is_whole).then(|| match filter {
        Some(filter) => format!("(({filter}\n) AND ({condition}\n))"),
        None => format!("({condition}\n)"),
    })
}

impl Severity {
    /// Whether the rows that fail are left out.
    pub fn takes_out(self) -> bool {
        matches!(self, Self::Drop | Self::Quarantine)
    }
}

#[cfg(test)]
mod tests {
    use super::by_row;

    #[test]
    fn only_queries_of_whole_rows_judge_by_row() {
        let sql = "select tested.*\nfrom \"gold\".\"t\" as tested\nwhere a is null";
        assert_eq!(by_row(sql, None).as_deref(), Some("(a is null\n)"));
        assert_eq!(by_row(sql, Some("b > 1")).as_deref(), Some("((b > 1\n) AND (a is null\n))"));
        let grouped =
            "select a, count(*) as n\nfrom \"gold\".\"t\" as tested\nwhere a > 1\ngroup by a";
        let joined =
            "select tested.*\nfrom \"gold\".\"t\" as tested\njoin x as tested\nwhere a > 1";
        assert_eq!((by_row(grouped, None), by_row(joined, None)), (None, None));
    }
}
