//! From a checked project to what runs: the relations of its streams, and its models by the way
//! they are kept.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    bronze::{Judge, WARNINGS, accepted_schema},
    domain::{
        TableName,
        contract::{Contract, Field, Severity},
    },
    models::{Input, Plan, Plans, Relation, RowProgram, TestPlan, UnitPlan, plain, plan_project},
    process::{offset_table::OffsetTable, quarantine::open_schema},
    project::{Diagnostic, Diagnostics, Project},
};

/// A project with compiled rules and planned models.
pub struct Planned {
    pub project: Project,
    /// Per stream, in the project's order.
    pub judges: Vec<Arc<Judge>>,
    pub plans: Vec<Plan>,
    pub tests: Vec<TestPlan>,
    pub unit_tests: Vec<UnitPlan>,
}

/// A row-wise model that is running.
pub(super) struct RowModel {
    pub name: TableName,
    pub input: Input,
    pub program: Arc<RowProgram>,
    pub table: OffsetTable,
    /// 0, or one above that of the model that it reads.
    pub level: usize,
    /// Why it stopped while running. Its table stays as it is, until a restart after mending.
    pub failure: Option<String>,
}

impl RowModel {
    /// Stops the model: its table keeps what it has.
    pub(super) fn stop(&mut self, reason: String) {
        tracing::error!(model = %self.name, %reason, "model stopped");
        self.failure = Some(reason);
    }
}

/// Compiles every rule and plans every model; reports everything that is wrong.
pub fn plan(project: Project) -> Result<Planned, Diagnostics> {
    let planned = plan_partly(project);
    let found = &planned.project.warnings;
    if found.has_errors() { Err(found.clone()) } else { Ok(planned) }
}

/// Plans what can be planned: what is wrong stands among the project's warnings.
pub fn plan_partly(mut project: Project) -> Planned {
    let mut found = std::mem::take(&mut project.warnings);
    let mut judges = Vec::new();
    for contract in &project.streams {
        match Judge::new(Arc::new(contract.clone())) {
            Ok(judge) => judges.push(Arc::new(judge)),
            Err(error) => {
                let file = std::path::PathBuf::from(format!("streams/{}.yml", error.stream));
                let text = std::fs::read_to_string(project.root.join(&file)).unwrap_or_default();
                let reason = plain(error.reason.lines().next().unwrap_or_default());
                let message = format!("rule `{}`: {reason}", error.rule);
                let diagnostic = Diagnostic::file(&file, message);
                let diagnostic = diagnostic.find_after(&text, "rules:", &error.rule);
                found.push(diagnostic.maybe_hint(error.hint.map(str::to_owned)));
            }
        }
    }
    let accepted = relations(&project.streams);
    let Plans { models: plans, tests, unit_tests } = plan_project(&project, &accepted, &mut found);
    project.warnings = found;
    // Some SQL is known only now.
    project.models = plans.iter().map(|plan| plan.model.clone()).collect();
    Planned { project, judges, plans, tests, unit_tests }
}

/// What models see of each stream. Rules that set aside are no part of what decides a column: what
/// is decided stays decided.
fn relations(streams: &[Contract]) -> BTreeMap<String, Relation> {
    let relation = |contract: &Contract| {
        let read = |f: &Field| read_as(f) + &deleted_by(contract, f);
        let columns = contract.fields.iter().map(|f| (f.name.clone(), read(f)));
        let warnings = contract.warns().then(|| (WARNINGS.to_owned(), warned_by(contract)));
        Relation {
            schema: accepted_schema(contract),
            set_aside: open_schema(contract),
            columns: columns.chain(warnings).collect(),
        }
    };
    streams.iter().map(|contract| (contract.name.clone(), relation(contract))).collect()
}

/// What decides the values of a field.
fn read_as(field: &Field) -> String {
    let read = [&field.source, &field.format].into_iter().flatten();
    read.fold(field.data_type.name(), |all, part| format!("{all} {part:?}"))
}

/// What records without a value decide about a field: that of their key, and what they do.
fn deleted_by(contract: &Contract, field: &Field) -> String {
    let deletes = contract.deletes.as_ref().filter(|deletes| deletes.tombstones);
    let does = deletes.filter(|deletes| deletes.field == field.name);
    let does = does.and_then(|deletes| deletes.values.first());
    does.map_or_else(String::new, |value| format!(" deletes {value:?}"))
}

/// What decides the warnings about a record: the rules, and the fields that they name.
fn warned_by(contract: &Contract) -> String {
    let rules = contract.rules.iter().filter(|rule| rule.severity == Severity::Warn);
    let rules: Vec<_> = rules.map(|rule| format!("{} {}", rule.name, rule.sql)).collect();
    let named = |field: &&Field| {
        // Names of columns are of small letters; one that stands in another word does no harm.
        rules.iter().any(|rule| rule.to_ascii_lowercase().contains(&field.name))
    };
    let fields = contract.fields.iter().filter(named);
    let fields: BTreeSet<_> = fields.map(|f| format!("{} {}", f.name, read_as(f))).collect();
    format!("{rules:?} {fields:?}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{models::Class, project};

    const STREAM: &str = "name: clicks\nfields:\n  - {name: a, type: int}\n";

    fn planned(files: &[(&str, &str)]) -> Result<Planned, Diagnostics> {
        let dir = tempfile::tempdir().expect("folder");
        let base = [("sluice.yml", "name: test\n"), ("streams/clicks.yml", STREAM)];
        for (name, text) in base.iter().chain(files) {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().expect("parent")).expect("folder");
            std::fs::write(path, text).expect("file");
        }
        plan(project::load(dir.path())?)
    }

    /// The one error of a project: its place and its whole text.
    fn error(files: &[(&str, &str)]) -> (String, String) {
        let Err(errors) = planned(files) else { panic!("no error") };
        let all: Vec<&Diagnostic> = errors.iter().collect();
        assert_eq!(all.len(), 1, "{errors}");
        let line = all[0].line.map(|line| line.to_string()).unwrap_or_default();
        (format!("{}:{line}", all[0].file.display()), all[0].to_string())
    }

    #[test]
    fn a_rule_that_answers_differently_each_time_is_refused() {
        for (rule, function) in [
            ("a < 0 or random() < 0.5", "random"),
            ("now() > TIMESTAMP '2020-01-01'", "now"),
            ("current_date > DATE '2020-01-01'", "current_date"),
            ("a > 0 and length(uuid()) = 36", "uuid"),
        ] {
            let stream = format!("{STREAM}rules:\n  fine: a > 0\n  a_rule: \"{rule}\"\n");
            let (place, text) = error(&[("streams/clicks.yml", &stream)]);
            assert_eq!(place, "streams/clicks.yml:6", "{text}");
            let message = format!("rule `a_rule`: {function}() may answer differently each time");
            assert!(text.contains(&message), "{text}");
            assert!(text.contains("hint: a record is judged more than once"), "{text}");
        }
    }

    #[test]
    fn a_comparison_with_a_subquery_is_kept_by_recomputing() {
        for condition in ["a >= ALL (SELECT 1)", "a = ANY (SELECT 1)", "a > (SELECT 1)"] {
            let sql =
                format!("SELECT a FROM {{{{ source('bronze', 'clicks') }}}} WHERE {condition}");
            let planned = planned(&[("models/silver/m.sql", &sql)]);
            let planned = planned.unwrap_or_else(|errors| panic!("{errors}"));
            assert_eq!(planned.plans[0].class, Class::Recompute, "{condition}");
            assert_eq!(planned.plans[0].reason, "contains a subquery", "{condition}");
        }
    }

    #[test]
    fn a_description_of_a_column_that_is_not_there_is_placed() {
        let yml = "models:\n  - name: m\n    columns:\n      - name: a\n      - {name: ab, tests: [unique]}\n";
        let (place, text) = error(&[
            ("models/silver/m.sql", "SELECT a FROM {{ source('bronze', 'clicks') }}"),
            ("models/silver/m.yml", yml),
        ]);
        assert_eq!(place, "models/silver/m.yml:5", "{text}");
        assert!(text.contains("`m` has no column `ab`"), "{text}");
        assert!(text.contains("did you mean `a`?"), "{text}");
    }

    /// The contract with other fields, and the models whose fingerprint that changes.
    fn changed_by(fields: &str) -> Vec<String> {
        let with = |fields: &str| {
            let stream = format!("name: clicks\nfields:\n{fields}");
            let source = "{{ source('bronze', 'clicks') }}";
            let from = |columns: &str| format!("SELECT {columns} FROM {source}");
            let texts = [
                ("streams/clicks.yml", stream),
                ("models/silver/all.sql", from("*")),
                ("models/silver/one.sql", from("a")),
                ("models/silver/filtered.sql", from("a") + " WHERE b <> 'x'"),
                ("models/silver/nested.sql", format!("WITH s AS ({}) SELECT a FROM s", from("*"))),
                ("models/silver/child.sql", "SELECT a FROM {{ ref('all') }}".to_owned()),
                ("models/gold/counted.sql", from("count(*) AS n")),
                ("models/gold/grouped.sql", from("b, max(a) AS m") + " GROUP BY b"),
                ("models/gold/sub.sql", from("a") + &format!(" WHERE a IN ({})", from("c"))),
            ];
            let texts: Vec<(&str, &str)> = texts.iter().map(|(n, t)| (*n, t.as_str())).collect();
            let planned = planned(&texts).unwrap_or_else(|errors| panic!("{errors}"));
            let plans = planned.plans.into_iter();
            plans.map(|p| (p.model.name.name, p.fingerprint)).collect::<BTreeMap<_, _>>()
        };
        let (before, after) = (with(FIELDS), with(fields));
        let changed = before.into_iter().filter(|(name, print)| after[name] != *print);
        changed.map(|(name, _)| name).collect()
    }

    const FIELDS: &str = "  - {name: a, type: int, required: true}\n  - {name: b, type: text}\n  - \
                          {name: c, type: int}\n";

    #[test]
    fn what_reads_a_view_has_its_sql_in_it() {
        let planned_with = |condition: &str| {
            let source = "{{ source('bronze', 'clicks') }}";
            let view = |from: &str| format!("{{{{ config(materialized='view') }}}}\n{from}");
            let texts = [
                ("streams/clicks.yml", format!("name: clicks\nfields:\n{FIELDS}")),
                ("models/silver/v.sql", view(&format!("SELECT * FROM {source} WHERE {condition}"))),
                ("models/silver/w.sql", view("SELECT a, b FROM {{ ref('v') }}")),
                ("models/gold/plain.sql", "SELECT a FROM {{ ref('v') }}".to_owned()),
                ("models/gold/aliased.sql", "SELECT x.a FROM {{ ref('w') }} AS x".to_owned()),
                (
                    "models/gold/sums.sql",
                    "SELECT b, sum(a) AS s FROM {{ ref('w') }} GROUP BY b".into(),
                ),
                (
                    "models/gold/sub.sql",
                    format!("SELECT a FROM {source} WHERE a IN (SELECT a FROM {{{{ ref('v') }}}})"),
                ),
                ("models/gold/other.sql", format!("SELECT a FROM {source}")),
            ];
            let texts: Vec<(&str, &str)> = texts.iter().map(|(n, t)| (*n, t.as_str())).collect();
            let planned = planned(&texts).unwrap_or_else(|errors| panic!("{errors}"));
            let plans = planned.plans.into_iter().map(|plan| (plan.model.name.name.clone(), plan));
            plans.collect::<BTreeMap<_, _>>()
        };
        let (before, after) = (planned_with("a > 0"), planned_with("a > 1"));
        let classes = ["aliased", "other", "plain", "sub", "sums"].map(|name| before[name].class);
        let row_wise = Class::Append;
        let wanted = [row_wise, row_wise, row_wise, Class::ByKey, Class::Aggregate];
        assert_eq!(classes, wanted);
        let stream = [Input::Stream("clicks".to_owned())];
        assert!(before.values().all(|plan| plan.inputs == stream));
        let changed =
            before.iter().filter(|(name, plan)| after[*name].fingerprint != plan.fingerprint);
        let changed: Vec<&str> = changed.map(|(name, _)| name.as_str()).collect();
        assert_eq!(changed, ["aliased", "plain", "sub", "sums", "v", "w"]);
    }

    #[test]
    fn a_fingerprint_covers_the_columns_that_are_read() {
        let field =
            |name: &str, data_type: &str| format!("  - {{name: {name}, type: {data_type}}}\n");
        assert_eq!(changed_by(FIELDS), [""; 0]);
        let wide = |extra: &str| format!("{FIELDS}{extra}");
        assert_eq!(changed_by(&wide(&field("d", "text"))), ["all", "child"]);
        let ruled = "  - {name: a, type: int, range: {min: 3}}\n  - {name: b, type: text, \
                     accepted_values: [x]}\n  - {name: c, type: int, description: third}\n";
        assert_eq!(changed_by(ruled), [""; 0]);
        let b_first = format!("{}{}{}", field("b", "text"), field("a", "int"), field("c", "int"));
        assert_eq!(changed_by(&b_first), ["all", "child"]);
        let other_c = FIELDS.replace("c, type: int", "c, type: float");
        assert_eq!(changed_by(&other_c), ["all", "child", "sub"]);
        let other_a = FIELDS.replace("a, type: int", "a, type: \"decimal(20,0)\"");
        let readers = ["all", "child", "filtered", "grouped", "nested", "one", "sub"];
        assert_eq!(changed_by(&other_a), readers);
    }
}
