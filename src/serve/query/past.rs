//! Older versions of tables in SQL: `FROM t VERSION AS OF 3`, `FROM t TIMESTAMP AS OF '…'`,
//! `FROM t FOR SYSTEM_TIME AS OF …`.
//!
//! Such a relation gets a name of its own, and the view that the query is pinned to gets a table of
//! that name: the rows as they were.

use std::{ops::ControlFlow, sync::Arc};

use arrow::{array::AsArray as _, datatypes::TimestampMicrosecondType};
use datafusion::{
    error::DataFusionError,
    prelude::SessionContext,
    sql::{
        parser::{DFParser, DFParserBuilder, Statement},
        sqlparser::{
            ast::{self, TableFactor, VisitMut as _, VisitorMut},
            dialect::GenericDialect,
            keywords::Keyword,
            parser::Parser,
            tokenizer::{Token, TokenWithSpan, Tokenizer, Word},
        },
    },
};

use crate::{
    domain::TableName,
    lake::{Committed, LakeError, LakeView, Overlay, TableState, session::DEFAULT_SCHEMA},
    serve::QueryError,
};

/// What is written, as a hint.
const FORMS: &str = "VERSION AS OF 3, TIMESTAMP AS OF '2026-01-31 12:00:00' or FOR SYSTEM_TIME AS \
                     OF now() - INTERVAL '1 hour'";

/// A table as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Past {
    /// The table.
    pub(crate) table: TableName,
    /// What the statement calls it.
    pub(crate) named: TableName,
    at: At,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum At {
    Version(u64),
    /// SQL of a point in time; without a zone, UTC.
    Time(String),
}

/// The parser of a statement, and the older versions that it names. Each of these has a name of its
/// own in what is parsed.
pub(crate) fn parser(sql: &str) -> Result<(DFParser<'_>, Vec<Past>), QueryError> {
    let mut tokens = Vec::new();
    // What is no token is told by the parser, as everywhere.
    if Tokenizer::new(&GenericDialect {}, sql).tokenize_with_location_into_buf(&mut tokens).is_err()
    {
        return Ok((DFParserBuilder::new(sql).build()?, Vec::new()));
    }
    let mut past = Vec::new();
    let mut index = 0;
    while index < tokens.len() {
        if let Some(clause) = Clause::at(&tokens, index)? {
            let name = tokens.get(clause.name).map(|token| token.token.clone());
            let Some(Token::Word(name)) = name else { break };
            let key = format!("{} {}", name.value, clause.text);
            let schema = clause.schema.unwrap_or_else(|| DEFAULT_SCHEMA.to_owned());
            let table = TableName::new(&schema, folded(&name));
            past.push(Past { table, named: TableName::new(&schema, &key), at: clause.at });
            if let Some(token) = tokens.get_mut(clause.name) {
                let word = Word { value: key, quote_style: Some('"'), keyword: Keyword::NoKeyword };
                token.token = Token::Word(word);
            }
            tokens.drain(index..clause.end);
        }
        index += 1;
    }
    if past.is_empty() {
        return Ok((DFParserBuilder::new(sql).build()?, past));
    }
    Ok((DFParserBuilder::new(tokens).build()?, past))
}

/// A name as the engine reads it: lower case unless quoted.
fn folded(word: &Word) -> String {
    if word.quote_style.is_some() { word.value.clone() } else { word.value.to_ascii_lowercase() }
}

/// `VERSION AS OF 3` behind the name of a relation.
struct Clause {
    /// Where the last part of the name stands.
    name: usize,
    schema: Option<String>,
    /// Behind the last token of it.
    end: usize,
    at: At,
    /// As it names the relation.
    text: String,
}

impl Clause {
    /// The clause that begins at `index`, if one does.
    fn at(tokens: &[TokenWithSpan], index: usize) -> Result<Option<Self>, QueryError> {
        let Some((behind, is_version)) = opened(tokens, index) else { return Ok(None) };
        let Some((name, schema)) = relation(tokens, index) else { return Ok(None) };
        let refused = |reason: String| QueryError::Sql(format!("{reason}; as in {FORMS}"));
        let rest = tokens.get(behind..).unwrap_or_default().to_vec();
        let mut parser = Parser::new(&GenericDialect {}).with_tokens_with_locations(rest);
        let value = parser.parse_expr().map_err(|e| refused(format!("AS OF: {e}")))?;
        let text = value.to_string();
        let at = if is_version {
            let number = text.parse();
            At::Version(number.map_err(|_| refused(format!("VERSION AS OF {text} is no version")))?)
        } else {
            At::Time(text.clone())
        };
        let kind = if is_version { "VERSION" } else { "TIMESTAMP" };
        let end = behind + parser.index();
        Ok(Some(Self { name, schema, end, at, text: format!("{kind} AS OF {text}") }))
    }
}

/// Where the words end that begin a clause at `index`, and whether they ask for a number.
fn opened(tokens: &[TokenWithSpan], index: usize) -> Option<(usize, bool)> {
    const FORMS: [(&[&str], bool); 3] = [
        (&["VERSION", "AS", "OF"], true),
        (&["TIMESTAMP", "AS", "OF"], false),
        (&["FOR", "SYSTEM_TIME", "AS", "OF"], false),
    ];
    FORMS.iter().find_map(|(words, is_version)| {
        let mut behind = index;
        for wanted in *words {
            let at = next(tokens, behind)?;
            let Token::Word(word) = &tokens.get(at)?.token else { return None };
            if word.quote_style.is_some() || !word.value.eq_ignore_ascii_case(wanted) {
                return None;
            }
            behind = at + 1;
        }
        Some((behind, *is_version))
    })
}

/// The relation before `index`: where the last part of its name stands, and its schema. `None` where
/// what stands there is no relation.
fn relation(tokens: &[TokenWithSpan], index: usize) -> Option<(usize, Option<String>)> {
    let name = previous(tokens, index)?;
    let mut parts = Vec::new();
    let mut at = name;
    let before = loop {
        let Token::Word(word) = &tokens.get(at)?.token else { return None };
        parts.push(folded(word));
        let before = previous(tokens, at)?;
        if tokens.get(before)?.token != Token::Period {
            break before;
        }
        at = previous(tokens, before)?;
    };
    let is_from = match &tokens.get(before)?.token {
        Token::Word(word) => matches!(word.keyword, Keyword::FROM | Keyword::JOIN),
        Token::Comma | Token::LParen => true,
        _ => false,
    };
    is_from.then(|| (name, parts.get(1).cloned()))
}

/// The first token from `index` on that is no space.
fn next(tokens: &[TokenWithSpan], index: usize) -> Option<usize> {
    (index..tokens.len()).find(|at| is_word(tokens, *at))
}

/// The last token before `index` that is no space.
fn previous(tokens: &[TokenWithSpan], index: usize) -> Option<usize> {
    (0..index).rev().find(|at| is_word(tokens, *at))
}

fn is_word(tokens: &[TokenWithSpan], at: usize) -> bool {
    tokens.get(at).is_some_and(|token| !matches!(token.token, Token::Whitespace(_)))
}

/// Calls every older version in `statement` as the table is called, where it has no other name.
pub(crate) fn call(statement: &mut Statement, past: &[Past]) {
    match statement {
        Statement::Statement(inner) => {
            let ControlFlow::Continue(()) = inner.visit(&mut Named(past));
        }
        Statement::Explain(explain) => call(&mut explain.statement, past),
        _ => {}
    }
}

struct Named<'a>(&'a [Past]);

impl VisitorMut for Named<'_> {
    type Break = std::convert::Infallible;

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Self::Break> {
        if let TableFactor::Table { name, alias: alias @ None, .. } = factor {
            let last = name.0.last().and_then(ast::ObjectNamePart::as_ident);
            let past = last.and_then(|last| self.0.iter().find(|p| p.named.name == last.value));
            if let Some(past) = past {
                let name = ast::Ident::with_quote('"', past.table.name.clone());
                *alias =
                    Some(ast::TableAlias { explicit: false, name, columns: Vec::new(), at: None });
            }
        }
        ControlFlow::Continue(())
    }
}

/// `view` with the older versions beside the tables.
pub(crate) async fn with_versions(
    view: Arc<LakeView>,
    past: &[Past],
) -> Result<Arc<LakeView>, QueryError> {
    if past.is_empty() {
        return Ok(view);
    }
    let mut with = LakeView::clone(&view);
    for past in past {
        let Some(table) = view.tables.get(&past.table).filter(|_| !view.is_internal(&past.table))
        else {
            if view.views.contains_key(&past.table) {
                let message = format!("{} is a view; only stored tables have versions", past.table);
                return Err(QueryError::Sql(message));
            }
            // Told as every relation that is not there.
            continue;
        };
        with.tables.insert(past.named.clone(), Arc::new(at(table, past).await?));
    }
    Ok(Arc::new(with))
}

async fn at(table: &TableState, past: &Past) -> Result<TableState, QueryError> {
    let history = table.committed.as_ref().and_then(|committed| committed.history.as_ref());
    let Some(history) = history else {
        return Err(QueryError::Sql(format!("{} keeps no versions", past.table)));
    };
    let unread = |error: LakeError| match error {
        LakeError::NotKept { .. } => QueryError::Sql(error.to_string()),
        other => QueryError::Lake(crate::domain::chain(&other)),
    };
    let version = match &past.at {
        At::Version(version) => *version,
        At::Time(sql) => history.version_at(point_in_time(sql).await?).await.map_err(unread)?,
    };
    let (found, provider) = history.rows_at(version).await.map_err(unread)?;
    let has_all =
        table.schema.fields().iter().all(|field| found.field_with_name(field.name()).is_ok());
    let schema = if has_all { Arc::clone(&table.schema) } else { found };
    let committed = Committed { version, provider, history: None, rows: 0, files: 0, bytes: 0 };
    Ok(TableState {
        schema,
        committed: Some(committed),
        overlay: Overlay::None,
        ..TableState::clone(table)
    })
}

/// The value of a constant expression, in microseconds since 1970.
async fn point_in_time(sql: &str) -> Result<i64, QueryError> {
    let refused = |reason: String| {
        QueryError::Sql(format!("AS OF {sql} is no point in time: {reason}; as in {FORMS}"))
    };
    let told = |error: DataFusionError| refused(QueryError::from(error).to_string());
    let cast = format!("SELECT arrow_cast({sql}, 'Timestamp(Microsecond, Some(\"UTC\"))')");
    let context = SessionContext::new();
    let rows = async { context.sql(&cast).await?.collect().await };
    let rows = rows.await.map_err(told)?;
    let value = rows.first().and_then(|batch| {
        let column = batch.column(0).as_primitive_opt::<TimestampMicrosecondType>()?;
        column.iter().next().flatten()
    });
    value.ok_or_else(|| refused("it is NULL".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::query::statement::parse;

    #[test]
    fn versions_are_taken_out_and_their_tables_named_apart() {
        let sql = "SELECT a.x, orders.x FROM orders VERSION AS OF 3 JOIN silver.a TIMESTAMP AS OF \
                   '2026-01-01' AS a ON a.x = orders.x JOIN orders AS now ON now.x = a.x";
        let parsed = parse(sql).expect("it parses");
        let told: Vec<(String, String)> = parsed
            .past
            .iter()
            .map(|past| (past.table.to_string(), past.named.to_string()))
            .collect();
        let expected = [
            ("gold.orders", "gold.orders VERSION AS OF 3"),
            ("silver.a", "silver.a TIMESTAMP AS OF '2026-01-01'"),
        ];
        assert_eq!(told, expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
        let text = parsed.statement.to_string();
        assert!(text.contains("\"orders VERSION AS OF 3\" \"orders\""), "{text}");
        assert!(parse("SELECT at.x FROM orders at").expect("a name as any other").past.is_empty());
        let error = parse("SELECT 1 FROM t VERSION AS OF 1.5").err().expect("refused").to_string();
        assert!(error.contains("VERSION AS OF 1.5 is no version"), "{error}");
        for sql in ["SELECT version AS of FROM t", "SELECT 'FROM t VERSION AS OF 3'"] {
            assert!(parse(sql).expect("no clause").past.is_empty(), "{sql}");
        }
    }

    #[tokio::test]
    async fn points_in_time_are_constant_expressions_in_utc() {
        let noon = 1_767_268_800_000_000;
        for sql in [
            "'2026-01-01 12:00:00'",
            "TIMESTAMP '2026-01-01T12:00:00Z'",
            "'2026-01-01T13:00:00+01:00'",
            "TIMESTAMP '2026-01-01 13:00:00' - INTERVAL '1 hour'",
        ] {
            assert_eq!(point_in_time(sql).await.expect(sql), noon, "{sql}");
        }
        let error = point_in_time("'soon'").await.expect_err("no time").to_string();
        assert!(error.contains("AS OF 'soon' is no point in time"), "{error}");
        assert!(point_in_time("(SELECT max(t) FROM orders)").await.is_err());
    }
}
