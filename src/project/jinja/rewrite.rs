//! What a template needs changed before minijinja can render it as dbt's Jinja would.
//!
//! - Lists and maps written in a template are Python's: they can be appended to. So each literal is
//!   handed to a function that makes such an object of it.
//! - Text at the top level of a model is marked with its place, so that an error in the rendered
//!   SQL can be told at its place in the user's file.
//!
//! Changes stay within a line; where each stands is kept, to map places back.

use minijinja::{
    Error,
    machinery::{Span, Token, tokenize},
};

use crate::project::jinja::place;

/// Names of the functions that make a list or a map of a literal.
pub(super) const LIST: &str = "__list";
pub(super) const MAP: &str = "__map";

/// A template as minijinja renders it.
#[derive(Debug, Clone, Default)]
pub(super) struct Rewritten {
    pub text: String,
    /// Where edits end, in `text` and in the source.
    edited: Vec<(usize, usize)>,
    /// Names and texts that stand in its tags: macros that it may call are among them.
    pub words: Vec<String>,
}

impl Rewritten {
    /// The byte of the source that stands at byte `at` of the text.
    pub(in crate::project) fn source_byte(&self, at: usize) -> usize {
        let before = self.edited.partition_point(|(end, _)| *end <= at);
        let (end, source) = before.checked_sub(1).map_or((0, 0), |i| self.edited[i]);
        source + (at - end)
    }
}

/// A token with its place in the source.
pub(super) type Placed<'a> = (Token<'a>, Span);

/// The tokens of a template.
pub(super) fn tokens(source: &str) -> Result<Vec<Placed<'_>>, Error> {
    tokenize(source, false, minijinja::syntax::SyntaxConfig::default()).collect()
}

/// Bytes of a source that give way to a text.
#[derive(Debug, Clone)]
pub(super) struct Edit {
    pub at: usize,
    pub removed: usize,
    pub text: String,
}

impl Edit {
    fn insert(at: usize, text: impl Into<String>) -> Self {
        Self { at, removed: 0, text: text.into() }
    }

    pub(super) fn replace(span: &Span, text: &str) -> Self {
        let (at, end) = (span.start_offset as usize, span.end_offset as usize);
        Self { at, removed: end - at, text: text.to_owned() }
    }
}

/// Rewrites `source`, of which these are the tokens. `is_model`: marks places.
pub(super) fn rewrite(
    source: &str,
    tokens: &[Placed<'_>],
    is_model: bool,
    mut edits: Vec<Edit>,
) -> Rewritten {
    edits.extend(literals(tokens));
    if is_model && !source.contains([place::OPEN, place::CLOSE]) {
        edits.extend(places(source, tokens));
    }
    edits.sort_by_key(|edit| edit.at);
    let mut out = Rewritten { words: words(tokens), ..Rewritten::default() };
    let mut done = 0;
    for Edit { at, removed, text } in edits {
        out.text.push_str(&source[done..at]);
        out.text.push_str(&text);
        done = at + removed;
        out.edited.push((out.text.len(), done));
    }
    out.text.push_str(&source[done..]);
    out
}

fn words(tokens: &[Placed<'_>]) -> Vec<String> {
    let word = |(token, _): &Placed<'_>| match token {
        Token::Ident(word) | Token::Str(word) => Some((*word).to_owned()),
        Token::String(word) => Some(word.to_string()),
        _ => None,
    };
    tokens.iter().filter_map(word).collect()
}

/// Calls around the literals of lists and maps.
fn literals(tokens: &[Placed<'_>]) -> Vec<Edit> {
    let mut edits = Vec::new();
    let mut open: Vec<bool> = Vec::new();
    for (i, (token, span)) in tokens.iter().enumerate() {
        let before = i.checked_sub(1).map(|i| &tokens[i].0);
        match token {
            Token::BracketOpen | Token::BraceOpen => {
                let is_literal = !before.is_some_and(is_value);
                if is_literal {
                    let name = if matches!(token, Token::BraceOpen) { MAP } else { LIST };
                    edits.push(Edit::insert(span.start_offset as usize, format!("{name}(")));
                }
                open.push(is_literal);
            }
            Token::BracketClose | Token::BraceClose if open.pop() == Some(true) => {
                edits.push(Edit::insert(span.end_offset as usize, ")"));
            }
            _ => {}
        }
    }
    edits
}

/// Whether a bracket behind the token reads an item of it.
fn is_value(token: &Token<'_>) -> bool {
    match token {
        Token::Ident(word) => {
            !["in", "if", "elif", "else", "not", "and", "or", "is", "do"].contains(word)
        }
        Token::Str(_)
        | Token::String(_)
        | Token::ParenClose
        | Token::BracketClose
        | Token::BraceClose => true,
        _ => false,
    }
}

/// Marks of the places of text and of expressions, where these are not captured by a block.
fn places(source: &str, tokens: &[Placed<'_>]) -> Vec<Edit> {
    let mut marks = Vec::new();
    let mut captured = 0_usize;
    for (i, (token, span)) in tokens.iter().enumerate() {
        match token {
            Token::TemplateData(text) if captured == 0 => {
                let start = text.as_ptr() as usize - source.as_ptr() as usize;
                let mut line = start;
                for part in text.split_inclusive('\n') {
                    let blank = part.len() - part.trim_start().len();
                    if blank < part.len() {
                        let at = line + blank;
                        marks.push(Edit::insert(at, place::mark(at, part.len() - blank)));
                    }
                    line += part.len();
                }
            }
            Token::VariableStart if captured == 0 => {
                let at = span.start_offset as usize;
                if !source[at..].starts_with("{{-") {
                    marks.push(Edit::insert(at, place::mark(at, 0)));
                }
            }
            Token::BlockStart => match captures(&tokens[i + 1..]) {
                Some(true) => captured += 1,
                Some(false) => captured = captured.saturating_sub(1),
                None => {}
            },
            _ => {}
        }
    }
    marks
}

/// Whether a tag begins a block whose text goes elsewhere, or ends one.
fn captures(tag: &[Placed<'_>]) -> Option<bool> {
    let Some((Token::Ident(name), _)) = tag.first() else { return None };
    match *name {
        "macro" | "call" | "filter" => Some(true),
        "set" => {
            let mut inside = tag.iter().map(|(token, _)| token);
            let end = inside.find(|t| matches!(t, Token::Assign | Token::BlockEnd | Token::Pipe));
            (!matches!(end, Some(Token::Assign))).then_some(true)
        }
        "endmacro" | "endcall" | "endfilter" | "endset" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(source: &str, is_model: bool) -> Rewritten {
        rewrite(source, &tokens(source).expect("tokens"), is_model, Vec::new())
    }

    #[test]
    fn literals_become_objects_and_subscripts_stay() {
        for (source, text) in [
            ("{% set a = [1, [2]] %}", "{% set a = __list([1, __list([2])]) %}"),
            ("{{ a[0] }}{{ f()[1:2] }}", "{{ a[0] }}{{ f()[1:2] }}"),
            ("{% for x in [1] %}{% endfor %}", "{% for x in __list([1]) %}{% endfor %}"),
            ("{{ f({'a': [1]}['a']) }}", "{{ f(__map({'a': __list([1])})['a']) }}"),
            ("a [1] {# [2] #} {{ '[3]' }}", "a [1] {# [2] #} {{ '[3]' }}"),
        ] {
            assert_eq!(rewritten(source, false).text, text);
        }
    }

    #[test]
    fn a_place_in_the_text_is_one_in_the_source() {
        let source = "{% set a = [1, [2]] %}{{ a }} rest";
        let rewritten = rewritten(source, false);
        for word in ["set", "a =", "1", "2", "}} rest"] {
            let at = rewritten.text.find(word).expect("a word");
            assert_eq!(Some(rewritten.source_byte(at)), source.find(word), "{word}");
        }
    }
}
