//! What is refused before the parser sees it.
//!
//! Parser, planner and optimiser recurse over the statement, and a stack that overflows ends the
//! process. So the token stream is measured first, without recursion: how deep it nests, how long
//! its chains of operators are (they become left-deep trees), how many joins and arms it has.

use std::fmt;

use datafusion::sql::sqlparser::{
    dialect::GenericDialect,
    keywords::Keyword,
    tokenizer::{Token, Tokenizer},
};

/// Parentheses, brackets and braces inside each other.
const DEPTH_MAX: usize = 48;
/// Operators in one chain.
const CHAIN_MAX: usize = 500;
/// Weight of all SELECTs and set operations (1 each) and joins (2 each) of one statement.
const ARMS_MAX: usize = 400;
/// Tokens of one statement.
const TOKENS_MAX: usize = 40_000;

/// A statement that is too large, too deep or not one statement.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GuardError {
    #[error("sql is {bytes} bytes long; at most {max} are taken")]
    TooLong { bytes: usize, max: usize },
    #[error("sql has more than {max} {what}: split it up, or join with a table of values")]
    TooMany { what: Counted, max: usize },
    #[error("sql does not parse: {0}")]
    Tokens(String),
    #[error("sql has a parameter ({0}); parameters are not supported yet: write the value itself")]
    Parameter(String),
    #[error("sql is empty")]
    Empty,
}

/// What a statement has too much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    Tokens,
    Nesting,
    Chain,
    Arms,
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tokens => "tokens",
            Self::Nesting => "levels of nesting",
            Self::Chain => "operators in one chain",
            Self::Arms => "selects, unions and joins (which count twice)",
        })
    }
}

/// Refuses SQL that could exhaust the stack, the time or the memory of whoever plans it.
pub fn check(sql: &str, bytes_max: usize) -> Result<(), GuardError> {
    if sql.len() > bytes_max {
        return Err(GuardError::TooLong { bytes: sql.len(), max: bytes_max });
    }
    let tokens = Tokenizer::new(&GenericDialect {}, sql)
        .tokenize()
        .map_err(|error| GuardError::Tokens(error.to_string()))?;
    let mut levels = vec![Level::default()];
    let (mut seen, mut arms) = (0_usize, 0_usize);
    for token in tokens.iter().filter(|token| !matches!(token, Token::Whitespace(_))) {
        seen += 1;
        limit(seen, TOKENS_MAX, Counted::Tokens)?;
        match token {
            Token::LParen | Token::LBracket | Token::LBrace => {
                top(&mut levels).operator()?;
                levels.push(Level::default());
                limit(levels.len(), DEPTH_MAX, Counted::Nesting)?;
            }
            Token::RParen | Token::RBracket | Token::RBrace => {
                levels.pop();
            }
            Token::Comma => arms += top(&mut levels).comma(),
            Token::Word(word) if word.quote_style.is_none() => {
                arms += top(&mut levels).keyword(word.keyword)?;
            }
            Token::Placeholder(text) => return Err(GuardError::Parameter(text.clone())),
            Token::Question => return Err(GuardError::Parameter("?".to_owned())),
            Token::VerticalBarRightAngleBracket => arms += 2,
            token if is_operator(token) => top(&mut levels).operator()?,
            _ => {}
        }
        limit(arms, ARMS_MAX, Counted::Arms)?;
    }
    if tokens.iter().all(|t| matches!(t, Token::Whitespace(_) | Token::SemiColon)) {
        return Err(GuardError::Empty);
    }
    Ok(())
}

/// The chains that are open between two parentheses.
#[derive(Default)]
struct Level {
    /// ANDs and ORs since the last comma or clause.
    logic: usize,
    /// Other operators since the last of those or comma or clause.
    operators: usize,
    /// Whether a comma here joins tables.
    from: bool,
}

impl Level {
    fn operator(&mut self) -> Result<(), GuardError> {
        self.operators += 1;
        limit(self.operators, CHAIN_MAX, Counted::Chain)
    }

    /// The weight of the join that a comma makes.
    fn comma(&mut self) -> usize {
        (self.logic, self.operators) = (0, 0);
        if self.from { 2 } else { 0 }
    }

    /// The weight of the arm that a keyword adds.
    fn keyword(&mut self, keyword: Keyword) -> Result<usize, GuardError> {
        match keyword {
            Keyword::AND | Keyword::OR | Keyword::XOR => {
                self.operators = 0;
                self.logic += 1;
                limit(self.logic, CHAIN_MAX, Counted::Chain)?;
            }
            Keyword::SELECT
            | Keyword::UNION
            | Keyword::INTERSECT
            | Keyword::EXCEPT
            | Keyword::VALUES => {
                *self = Self::default();
                return Ok(1);
            }
            Keyword::JOIN => {
                (self.logic, self.operators) = (0, 0);
                return Ok(2);
            }
            Keyword::FROM => *self = Self { from: true, ..Self::default() },
            Keyword::WHERE
            | Keyword::GROUP
            | Keyword::HAVING
            | Keyword::QUALIFY
            | Keyword::ORDER
            | Keyword::LIMIT => *self = Self::default(),
            Keyword::NOT
            | Keyword::IS
            | Keyword::IN
            | Keyword::LIKE
            | Keyword::ILIKE
            | Keyword::BETWEEN
            | Keyword::SIMILAR
            | Keyword::COLLATE
            | Keyword::AT
            | Keyword::DIV
            | Keyword::CASE
            | Keyword::INTERVAL
            | Keyword::EXPLAIN
            | Keyword::ARRAY
            | Keyword::PIVOT
            | Keyword::UNPIVOT
            | Keyword::TABLESAMPLE => self.operator()?,
            _ => {}
        }
        Ok(0)
    }
}

/// The innermost open level; text with too many closing parentheses reuses one.
fn top(levels: &mut Vec<Level>) -> &mut Level {
    if levels.is_empty() {
        levels.push(Level::default());
    }
    let last = levels.len() - 1;
    &mut levels[last]
}

fn limit(count: usize, max: usize, what: Counted) -> Result<(), GuardError> {
    if count > max { Err(GuardError::TooMany { what, max }) } else { Ok(()) }
}

/// Everything that is neither a literal nor a name nor a separator.
fn is_operator(token: &Token) -> bool {
    !matches!(
        token,
        Token::EOF
            | Token::Word(_)
            | Token::Number(..)
            | Token::SingleQuotedString(_)
            | Token::DoubleQuotedString(_)
            | Token::TripleSingleQuotedString(_)
            | Token::TripleDoubleQuotedString(_)
            | Token::DollarQuotedString(_)
            | Token::NationalStringLiteral(_)
            | Token::EscapedStringLiteral(_)
            | Token::UnicodeStringLiteral(_)
            | Token::HexStringLiteral(_)
            | Token::SemiColon
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(sql: &str) -> Result<(), GuardError> {
        check(sql, 1 << 20)
    }

    #[test]
    fn ordinary_statements_pass() {
        let many_columns: Vec<String> = (0..1_000).map(|i| format!("t.c{i} + 1 AS d{i}")).collect();
        let list: Vec<String> = (0..5_000).map(|i| i.to_string()).collect();
        let conditions: Vec<String> = (0..400).map(|i| format!("a.x = {i}")).collect();
        for sql in [
            format!("SELECT {} FROM t", many_columns.join(", ")),
            format!("SELECT * FROM t WHERE x IN ({})", list.join(",")),
            format!("SELECT * FROM t WHERE {}", conditions.join(" OR ")),
            "SELECT '(((((', \"((\" FROM t -- ((((".to_owned(),
            "SELECT 1;".to_owned(),
        ] {
            assert_eq!(checked(&sql), Ok(()), "{}", &sql[..60.min(sql.len())]);
        }
    }

    #[test]
    fn chains_nests_and_arms_that_are_too_long_are_refused() {
        let too_many = |what, max| Err(GuardError::TooMany { what, max });
        let chain = too_many(Counted::Chain, CHAIN_MAX);
        let arms = too_many(Counted::Arms, ARMS_MAX);
        assert_eq!(checked(&format!("SELECT 1{}", "+1".repeat(10_000))), chain);
        assert_eq!(checked(&format!("SELECT 1 WHERE a=1{}", " OR a=1".repeat(5_000))), chain);
        assert_eq!(checked(&format!("SELECT {}1", "- ".repeat(5_000))), chain);
        assert_eq!(checked(&format!("SELECT {}true", "NOT ".repeat(5_000))), chain);
        assert_eq!(checked(&format!("SELECT x{}", "::int".repeat(5_000))), chain);
        assert_eq!(checked(&format!("SELECT x{}", "[1]".repeat(5_000))), chain);
        assert_eq!(checked(&format!("SELECT 1{}", " UNION ALL SELECT 1".repeat(5_000))), arms);
        assert_eq!(checked(&format!("SELECT 1 FROM t{}", ", t".repeat(1_000))), arms);
        assert_eq!(checked(&format!("SELECT 1 FROM t{}", " JOIN t ON 1=1".repeat(900))), arms);
        assert_eq!(
            checked(&format!("SELECT {}1{}", "(".repeat(5_000), ")".repeat(5_000))),
            too_many(Counted::Nesting, DEPTH_MAX)
        );
        assert_eq!(
            checked(&format!("SELECT 1{}", ", 1".repeat(100_000))),
            too_many(Counted::Tokens, TOKENS_MAX)
        );
        assert_eq!(check("SELECT 12345", 5), Err(GuardError::TooLong { bytes: 12, max: 5 }));
    }

    #[test]
    fn parameters_and_empty_text_are_named() {
        assert_eq!(checked("SELECT $1"), Err(GuardError::Parameter("$1".to_owned())));
        assert_eq!(checked("SELECT ?"), Err(GuardError::Parameter("?".to_owned())));
        assert_eq!(checked(" ; -- nothing"), Err(GuardError::Empty));
        assert_eq!(checked(")))) 1"), Ok(()));
    }
}
