//! A text of several statements, cut at its semicolons.

use datafusion::sql::sqlparser::{
    dialect::GenericDialect,
    tokenizer::{Location, Token, TokenWithSpan, Tokenizer},
};

/// One statement, without its semicolon.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Statement {
    pub(super) text: String,
    /// The line of the text that it begins on, from 1.
    pub(super) line: u64,
}

/// What a text holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Split {
    /// Those that a semicolon ends.
    pub(super) statements: Vec<Statement>,
    /// What follows the last semicolon, unless it is blank.
    pub(super) rest: Option<Statement>,
    /// Whether `rest` ends inside a string, a quoted name or a comment.
    pub(super) is_open: bool,
}

impl Split {
    /// All statements; the last one needs no semicolon.
    pub(super) fn all(self) -> Vec<Statement> {
        self.statements.into_iter().chain(self.rest).collect()
    }
}

/// Cuts `sql` as the server's parser reads it: strings, quoted names, dollar quotes and comments
/// may hold semicolons.
pub(super) fn split(sql: &str) -> Split {
    let mut tokens: Vec<TokenWithSpan> = Vec::new();
    let ended =
        Tokenizer::new(&GenericDialect {}, sql).tokenize_with_location_into_buf(&mut tokens);
    let mut split = Split::default();
    let mut places = Places::new(sql);
    let (mut from, mut first_line) = (0, None);
    for TokenWithSpan { token, span } in tokens {
        match token {
            Token::SemiColon => {
                let end = places.offset(span.start);
                split.statements.extend(statement(&sql[from..end], first_line.take()));
                from = places.offset(span.end);
            }
            Token::Whitespace(_) => {}
            _ => first_line = first_line.or(Some(span.start.line)),
        }
    }
    if let Err(error) = &ended {
        split.is_open = is_unfinished(&error.message);
        // A comment that is not closed yet is nothing to send, but more has to come.
        first_line = first_line.or(Some(error.location.line));
    }
    split.rest = statement(&sql[from..], first_line);
    split
}

/// `None` for what is blank or only a comment.
fn statement(text: &str, first_line: Option<u64>) -> Option<Statement> {
    Some(Statement { text: text.trim().to_owned(), line: first_line? })
}

/// The tokenizer's words for a text that ends too early.
fn is_unfinished(message: &str) -> bool {
    ["Unterminated", "before EOF", "Unexpected EOF"].iter().any(|words| message.contains(words))
}

/// Turns the tokenizer's places into offsets. They are asked for in order.
struct Places<'a> {
    text: &'a str,
    offset: usize,
    at: Location,
}

impl<'a> Places<'a> {
    fn new(text: &'a str) -> Self {
        Self { text, offset: 0, at: Location { line: 1, column: 1 } }
    }

    fn offset(&mut self, wanted: Location) -> usize {
        for c in self.text[self.offset..].chars() {
            if self.at >= wanted {
                break;
            }
            self.offset += c.len_utf8();
            self.at = match c {
                '\n' => Location { line: self.at.line + 1, column: 1 },
                _ => Location { line: self.at.line, column: self.at.column + 1 },
            };
        }
        self.offset
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(sql: &str) -> (Vec<String>, Option<String>, bool) {
        let split = split(sql);
        let show = |s: Statement| format!("{}: {}", s.line, s.text);
        let (statements, rest) = (split.statements.into_iter().map(show), split.rest.map(show));
        (statements.collect(), rest, split.is_open)
    }

    #[test]
    fn a_semicolon_ends_a_statement_only_where_it_is_one() {
        for (sql, expected) in [
            ("select 1;", vec!["1: select 1"]),
            ("select 1; select\n2 ;\n", vec!["1: select 1", "1: select\n2"]),
            ("select ';', 'it''s;', \";\"\"\";", vec!["1: select ';', 'it''s;', \";\"\"\""]),
            ("select $$a;b$$, $q$;$$;$q$;", vec!["1: select $$a;b$$, $q$;$$;$q$"]),
            ("\n-- a; b\nselect 1 -- c;\n;", vec!["3: -- a; b\nselect 1 -- c;"]),
            ("/* ; /* ; */ ; */ select 1;", vec!["1: /* ; /* ; */ ; */ select 1"]),
            (";; -- nothing\n;", vec![]),
            ("select 'æ;ø';\r\nselect '🚲';", vec!["1: select 'æ;ø'", "2: select '🚲'"]),
        ] {
            let expected: Vec<String> = expected.into_iter().map(str::to_owned).collect();
            assert_eq!(shown(sql), (expected, None, false), "{sql}");
        }
    }

    #[test]
    fn what_has_no_semicolon_yet_is_the_rest() {
        let rest = |sql: &str| {
            let (_, rest, is_open) = shown(sql);
            (rest, is_open)
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(rest("select 1;\n\nselect 2"), (some("3: select 2"), false));
        assert_eq!(rest("select 1; -- done"), (None, false));
        assert_eq!(rest(""), (None, false));
        for open in ["select 'a;", "select \"a;", "select $$a;", "select $q$a;$$", "select E'a;"] {
            assert_eq!(rest(open), (some(&format!("1: {open}")), true), "{open}");
        }
        assert_eq!(rest("select 1; /* a;"), (some("1: /* a;"), true));
    }

    #[test]
    fn all_statements_count_in_a_file() {
        let texts: Vec<String> =
            split("select 1;\nselect 2\n").all().into_iter().map(|s| s.text).collect();
        assert_eq!(texts, ["select 1", "select 2"]);
    }
}
