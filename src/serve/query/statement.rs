//! A parsed statement, known to only read, and the tables that it names.

use std::ops::ControlFlow;

use datafusion::{
    common::TableReference,
    error::DataFusionError,
    sql::{
        parser::Statement,
        resolve::resolve_table_references,
        sqlparser::ast::{self, Visit, Visitor},
    },
};

use crate::{
    domain::TableName,
    lake::session::{CATALOG, DEFAULT_SCHEMA},
    serve::{
        QueryError,
        query::past::{self, Past},
    },
};

/// Shows the settings of the engine, which are nobody's business.
const SETTINGS: &str = "df_settings";

/// One statement that reads.
pub(crate) struct Parsed {
    pub(crate) statement: Statement,
    /// The relations that it names, without those of information_schema and without its own CTEs.
    pub(crate) names: Vec<TableName>,
    /// The older versions that it names.
    pub(crate) past: Vec<Past>,
}

pub(crate) fn parse(sql: &str) -> Result<Parsed, QueryError> {
    let (mut parser, past) = past::parser(sql)?;
    let mut statements = parser.parse_statements()?;
    let mut statement = match (statements.pop_front(), statements.len()) {
        (Some(statement), 0) => statement,
        (None, _) => return Err(QueryError::Sql("sql is empty".to_owned())),
        (Some(_), more) => {
            let message = format!("sql holds {} statements; send one at a time", more + 1);
            return Err(QueryError::Sql(message));
        }
    };
    refuse_writes(&statement)?;
    let (references, _) = resolve_table_references(&statement, true)?;
    let mut names = Vec::new();
    // SHOW is rewritten to a query over information_schema by the planner itself.
    for reference in references.iter().filter(|_| !is_show(&statement)) {
        names.extend(table_name(reference)?.map(|name| {
            past.iter().find(|past| past.named == name).map_or(name, |past| past.table.clone())
        }));
    }
    names.sort();
    names.dedup();
    past::call(&mut statement, &past);
    Ok(Parsed { statement, names, past })
}

fn is_show(statement: &Statement) -> bool {
    let Statement::Statement(inner) = statement else { return false };
    matches!(
        inner.as_ref(),
        ast::Statement::ShowTables { .. }
            | ast::Statement::ShowColumns { .. }
            | ast::Statement::ShowFunctions { .. }
            | ast::Statement::ShowSchemas { .. }
            | ast::Statement::ShowDatabases { .. }
            | ast::Statement::ShowCatalogs { .. }
    )
}

fn refuse_writes(statement: &Statement) -> Result<(), QueryError> {
    let refused = |statement: String| Err(QueryError::ReadOnly { statement });
    match statement {
        show if is_show(show) => Ok(()),
        Statement::Explain(explain) => refuse_writes(&explain.statement),
        Statement::Statement(inner) => match inner.as_ref() {
            ast::Statement::ExplainTable { .. } => Ok(()),
            ast::Statement::Query(query) => match query.visit(&mut Writes) {
                ControlFlow::Break(write) => refused(write),
                ControlFlow::Continue(()) => Ok(()),
            },
            ast::Statement::Explain { statement, .. } => {
                refuse_writes(&Statement::Statement(statement.clone()))
            }
            ast::Statement::ShowVariable { .. } | ast::Statement::ShowVariables { .. } => {
                let message = "settings are not shown; there are SHOW TABLES, SHOW COLUMNS and \
                               SHOW FUNCTIONS";
                Err(QueryError::Sql(message.to_owned()))
            }
            other => refused(leading_words(&other.to_string())),
        },
        Statement::CreateExternalTable(_) => refused("CREATE EXTERNAL TABLE".to_owned()),
        Statement::CopyTo(_) => refused("COPY".to_owned()),
        Statement::Reset(_) => refused("RESET".to_owned()),
    }
}

/// Finds what writes inside of a query: `WITH x AS (INSERT …)`, `SELECT … INTO`.
struct Writes;

impl Visitor for Writes {
    type Break = String;

    fn pre_visit_statement(&mut self, statement: &ast::Statement) -> ControlFlow<String> {
        match statement {
            ast::Statement::Query(_) => ControlFlow::Continue(()),
            write => ControlFlow::Break(leading_words(&write.to_string())),
        }
    }

    fn pre_visit_select(&mut self, select: &ast::Select) -> ControlFlow<String> {
        match select.into {
            Some(_) => ControlFlow::Break("SELECT INTO".to_owned()),
            None => ControlFlow::Continue(()),
        }
    }
}

/// `INSERT INTO`, `DROP TABLE`: the first words in capitals, at most two.
fn leading_words(statement: &str) -> String {
    let words = statement.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').take(2);
    let capitals =
        words.take_while(|word| !word.is_empty() && word.chars().all(|c| c.is_ascii_uppercase()));
    capitals.collect::<Vec<_>>().join(" ")
}

fn table_name(reference: &TableReference) -> Result<Option<TableName>, QueryError> {
    if reference.catalog().is_some_and(|catalog| catalog != CATALOG) {
        let message = format!("{reference} is not here: the only catalog is {CATALOG}");
        return Err(QueryError::Sql(message));
    }
    let name = TableName::new(reference.schema().unwrap_or(DEFAULT_SCHEMA), reference.table());
    if name.schema != "information_schema" {
        return Ok(Some(name));
    }
    if name.name == SETTINGS {
        let message = format!("{name} is not shown: it holds the settings of the engine");
        return Err(QueryError::Sql(message));
    }
    Ok(None)
}

/// What the parser and planner say, told as a query error.
impl Parsed {
    /// Refuses relations that do not exist; `functions` are the table functions.
    pub(crate) fn check_names<'a>(
        &self,
        is_function: impl Fn(&str) -> bool,
        known: impl Fn() -> Vec<&'a TableName>,
        exists: impl Fn(&TableName) -> bool,
    ) -> Result<(), QueryError> {
        for name in &self.names {
            let function = name.schema == DEFAULT_SCHEMA && is_function(&name.name);
            if function || exists(name) {
                continue;
            }
            let wanted = name.to_string();
            let names: Vec<String> = known().iter().map(ToString::to_string).collect();
            let same_name = names.iter().find(|n| n.rsplit('.').next() == Some(name.name.as_str()));
            let near = crate::serve::error::closest(&wanted, names.iter().map(String::as_str));
            let near = same_name.map(String::as_str).or(near);
            let hint = near.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
            return Err(QueryError::UnknownTable { name: name.clone(), hint });
        }
        Ok(())
    }
}

/// Whether `error` says that a statement writes: the second line of defence, on the plan.
pub(crate) fn read_only(error: &DataFusionError) -> QueryError {
    let text = error.strip_backtrace();
    let statement = text.rsplit("not supported: ").next().unwrap_or("this statement");
    QueryError::ReadOnly { statement: statement.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(sql: &str) -> String {
        match parse(sql) {
            Ok(_) => "accepted".to_owned(),
            Err(QueryError::ReadOnly { statement }) => statement,
            Err(other) => other.to_string(),
        }
    }

    #[test]
    fn statements_that_write_are_named_and_refused() {
        for (sql, name) in [
            ("INSERT INTO gold.t VALUES (1)", "INSERT INTO"),
            ("COPY (SELECT 1) TO '/tmp/x.csv'", "COPY"),
            ("CREATE TABLE t AS SELECT 1", "CREATE TABLE"),
            ("CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/'", "CREATE EXTERNAL TABLE"),
            ("CREATE VIEW v AS SELECT 1", "CREATE VIEW"),
            ("SET a = 1", "SET"),
            ("RESET datafusion.execution.batch_size", "RESET"),
            ("DROP TABLE t", "DROP TABLE"),
            ("UPDATE t SET a = 1", "UPDATE"),
            ("DELETE FROM t", "DELETE FROM"),
            ("EXPLAIN ANALYZE INSERT INTO t VALUES (1)", "INSERT INTO"),
            ("EXPLAIN COPY (SELECT 1) TO 'x.csv'", "COPY"),
            ("PREPARE p AS SELECT 1", "PREPARE"),
            ("BEGIN", "BEGIN"),
            ("(INSERT INTO t VALUES (1))", "INSERT INTO"),
            ("WITH x AS (INSERT INTO t VALUES (1)) SELECT * FROM x", "INSERT INTO"),
            ("SELECT * FROM (WITH x AS (DELETE FROM t) SELECT 1)", "DELETE FROM"),
            ("SELECT 1 INTO t", "SELECT INTO"),
            ("SELECT 1 UNION SELECT a INTO t FROM u", "SELECT INTO"),
            ("UNLOAD (SELECT 1) TO 's3://x'", "UNLOAD"),
        ] {
            let said = refusal(sql);
            assert!(said.starts_with(name), "{sql}: {said}");
        }
        assert_eq!(refusal("SELECT 1"), "accepted");
        assert_eq!(refusal("EXPLAIN ANALYZE SELECT 1"), "accepted");
        assert_eq!(refusal("SHOW TABLES"), "accepted");
        assert!(refusal("SHOW ALL").starts_with("settings are not shown"));
        assert_eq!(refusal("SELECT 1; SELECT 2"), "sql holds 2 statements; send one at a time");
    }

    #[test]
    fn the_tables_behind_a_statement_are_found() {
        let sql = "WITH c AS (SELECT * FROM silver.a) SELECT * FROM c JOIN b ON c.x = b.x \
                   WHERE x IN (SELECT y FROM sluice.bronze.d)";
        let names: Vec<String> =
            parse(sql).expect("parsed").names.iter().map(ToString::to_string).collect();
        assert_eq!(names, ["bronze.d", "gold.b", "silver.a"]);
        assert!(parse("SELECT * FROM information_schema.tables").expect("ok").names.is_empty());
        assert!(parse("SELECT * FROM other.gold.b").is_err());
        assert!(parse("SELECT * FROM information_schema.df_settings").is_err());
    }
}
