//! Macros: those of the project, of its packages, and ours. Each is a template of its own, so that
//! it can `return` a value and call others by name, in whatever file they stand.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use minijinja::{Error, machinery::Token};

use crate::project::jinja::rewrite::{Edit, Placed, Rewritten, rewrite, tokens};

/// The package whose macros every template can call by their plain name.
pub(super) const DBT: &str = "dbt";

/// What each macro is called in its template.
pub(super) const BODY: &str = "body_of_macro";

/// One macro.
#[derive(Debug, Clone)]
pub(super) struct Macro {
    pub package: String,
    pub name: String,
    /// Relative to the project.
    pub file: PathBuf,
    /// The text of that file, and at which byte of it the macro begins.
    pub text: Arc<str>,
    pub start: usize,
    pub template: Rewritten,
    pub parameters: Vec<String>,
    /// Whether it takes more than its parameters, as `varargs` and `kwargs`.
    pub takes_more: bool,
}

impl Macro {
    /// Under which its template is known.
    pub(super) fn key(&self) -> String {
        format!("macro:{}.{}", self.package, self.name)
    }
}

/// The macros of a file of macros.
pub(super) fn split(package: &str, file: &Path, text: &Arc<str>) -> Result<Vec<Macro>, Error> {
    let placed = tokens(text)?;
    let mut macros = Vec::new();
    let mut next = 0;
    while let Some(begin) = (next..placed.len()).find(|i| begins(&placed[*i..]).is_some()) {
        let Some((kind, name)) = begins(&placed[begin..]) else { break };
        let end = end_of(&placed[begin..], kind).map(|end| begin + end);
        let Some(end) = end else {
            let message = format!("{kind} `{name}` has no {{% end{kind} %}}");
            let at = placed[begin].1.start_offset as usize;
            let error = Error::new(minijinja::ErrorKind::SyntaxError, message);
            return Err(error.with_source(At(at)));
        };
        let span = |i: usize| (placed[i].1.start_offset as usize, placed[i].1.end_offset as usize);
        let (start, stop) = (span(begin).0, span(end).1);
        let name = if kind == "macro" { name.to_owned() } else { format!("test_{name}") };
        macros.push(one(package, file, text, name, start, stop)?);
        next = end;
    }
    Ok(macros)
}

/// The byte of a text at which an error is found before minijinja has seen it.
#[derive(Debug)]
pub(super) struct At(pub usize);

impl std::fmt::Display for At {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "at byte {}", self.0)
    }
}

impl std::error::Error for At {}

/// The kind and name of the macro that begins with these tokens.
fn begins<'a>(placed: &[Placed<'a>]) -> Option<(&'a str, &'a str)> {
    let [(Token::BlockStart, _), (Token::Ident(kind), _), (Token::Ident(name), _), ..] = placed
    else {
        return None;
    };
    ["macro", "test", "data_test"].contains(kind).then_some((*kind, *name))
}

/// Where the block ends that begins with these tokens.
fn end_of(placed: &[Placed<'_>], kind: &str) -> Option<usize> {
    let end = format!("end{kind}");
    let mut depth = 0_usize;
    for (i, window) in placed.windows(2).enumerate() {
        let [(Token::BlockStart, _), (Token::Ident(word), _)] = window else { continue };
        if *word == kind {
            depth += 1;
        } else if *word == end {
            depth -= 1;
            if depth == 0 {
                let close = placed[i..].iter().position(|(t, _)| matches!(t, Token::BlockEnd));
                return close.map(|close| i + close);
            }
        }
    }
    None
}

/// The macro that stands in the bytes `start..stop` of the file.
fn one(
    package: &str,
    file: &Path,
    text: &Arc<str>,
    name: String,
    start: usize,
    stop: usize,
) -> Result<Macro, Error> {
    let source = &text[start..stop];
    let placed = tokens(source)?;
    let mut edits = Vec::new();
    // Its name in its own template is another: a module hides names that begin with `_`.
    for i in 0..placed.len().saturating_sub(2) {
        let (Token::BlockStart, (Token::Ident(word), span)) = (&placed[i].0, &placed[i + 1]) else {
            continue;
        };
        let is_end = word.starts_with("end");
        let kind = word.trim_start_matches("end");
        if !["macro", "test", "data_test"].contains(&kind) {
            continue;
        }
        let text = if is_end { "endmacro" } else { "macro" };
        edits.push(Edit::replace(span, text));
        if i == 0 {
            edits.push(Edit::replace(&placed[2].1, BODY));
        }
    }
    let (parameters, close) = parameters(&placed);
    let uses = |word: &str| placed.iter().any(|(t, _)| matches!(t, Token::Ident(w) if *w == word));
    let declares = |word: &str| parameters.iter().any(|p| p == word);
    let more: Vec<&str> =
        ["varargs", "kwargs"].into_iter().filter(|word| uses(word) && !declares(word)).collect();
    if let (false, Some(at)) = (more.is_empty(), close) {
        let comma = if parameters.is_empty() { "" } else { ", " };
        let text = format!("{comma}varargs=__list([]), kwargs=__map({{}})");
        edits.push(Edit { at, removed: 0, text });
    }
    Ok(Macro {
        package: package.to_owned(),
        name,
        file: file.to_path_buf(),
        text: Arc::clone(text),
        start,
        template: rewrite(source, &placed, false, edits),
        takes_more: !more.is_empty(),
        parameters,
    })
}

/// The names of a macro's parameters, and the byte of the parenthesis behind them.
fn parameters(placed: &[Placed<'_>]) -> (Vec<String>, Option<usize>) {
    let mut names = Vec::new();
    let mut depth = 0_usize;
    let mut is_name = false;
    for (token, span) in placed.iter().skip(3) {
        match token {
            Token::ParenOpen | Token::BracketOpen | Token::BraceOpen => {
                depth += 1;
                is_name = depth == 1;
            }
            Token::ParenClose | Token::BracketClose | Token::BraceClose => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return (names, Some(span.start_offset as usize));
                }
            }
            Token::Comma => is_name = depth == 1,
            Token::Ident(name) if is_name => {
                names.push((*name).to_owned());
                is_name = false;
            }
            Token::BlockEnd => break,
            _ => is_name = false,
        }
    }
    (names, None)
}

/// All macros that a project's templates can call.
#[derive(Debug, Default)]
pub(in crate::project) struct Macros {
    all: Vec<Macro>,
    by_name: BTreeMap<String, Vec<usize>>,
}

impl Macros {
    /// Adds a macro; one of the same package and name gives way, and is returned.
    pub(super) fn add(&mut self, new: Macro) -> Option<Macro> {
        let places = self.by_name.entry(new.name.clone()).or_default();
        if let Some(at) = places.iter().find(|at| self.all[**at].package == new.package) {
            return Some(std::mem::replace(&mut self.all[*at], new));
        }
        places.push(self.all.len());
        self.all.push(new);
        None
    }

    pub(super) fn get(&self, at: usize) -> &Macro {
        &self.all[at]
    }

    pub(super) fn of_key(&self, key: &str) -> Option<&Macro> {
        self.all.iter().find(|one| one.key() == key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Macro> {
        self.all.iter()
    }

    /// The names that a package's macros have.
    pub(super) fn names_in<'a>(&'a self, package: &'a str) -> impl Iterator<Item = &'a str> {
        self.all.iter().filter(move |one| one.package == package).map(|one| one.name.as_str())
    }

    pub(super) fn packages(&self) -> BTreeSet<&str> {
        self.all.iter().map(|one| one.package.as_str()).collect()
    }

    /// The macro of that name in the first of these packages that has one.
    pub(super) fn find(&self, name: &str, packages: &[&str]) -> Option<usize> {
        let places = self.by_name.get(name)?;
        packages.iter().find_map(|package| {
            places.iter().copied().find(|at| self.all[*at].package == **package)
        })
    }

    /// The macros that a template with these words may call, and those that these may.
    pub(super) fn reached(&self, words: &[String]) -> BTreeSet<usize> {
        let mut reached = BTreeSet::new();
        let mut pending: Vec<&str> = words.iter().map(String::as_str).collect();
        let mut seen: BTreeSet<&str> = BTreeSet::new();
        while let Some(word) = pending.pop() {
            if !seen.insert(word) {
                continue;
            }
            // A name that is dispatched stands for its forms for other engines.
            let forms = PREFIXES.iter().map(|prefix| format!("{prefix}{word}"));
            for name in forms.chain([word.to_owned()]) {
                for at in self.by_name.get(&name).into_iter().flatten() {
                    if reached.insert(*at) {
                        pending.extend(self.all[*at].template.words.iter().map(String::as_str));
                    }
                }
            }
        }
        reached
    }
}

/// What `adapter.dispatch` puts before a name, the best first. The dialect is that of PostgreSQL, in
/// which integers are divided as integers: what is written for it goes before what is for all.
pub(super) const PREFIXES: [&str; 4] = ["sluice__", "postgres__", "default__", "duckdb__"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_split_into_its_macros() {
        let text: Arc<str> = Arc::from(
            "{% macro a(x, y=[1, 2]) -%}{{ x }}{%- endmacro %}\nnothing\n{% test b(model) %}\n\
             select {{ kwargs }}{% endtest %}",
        );
        let macros = split("p", Path::new("macros/m.sql"), &text).expect("macros");
        let names: Vec<&str> = macros.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names, ["a", "test_b"]);
        assert_eq!(macros[0].parameters, ["x", "y"]);
        let second = "{% macro body_of_macro(model, varargs=__list([]), kwargs=__map({})) %}\nselect {{ \
                      kwargs }}{% endmacro %}";
        assert_eq!(macros[1].template.text, second);
        assert!(macros[1].takes_more && !macros[0].takes_more);
    }

    #[test]
    fn a_macro_without_an_end_is_placed() {
        let text: Arc<str> = Arc::from("\n{% macro a() %}");
        let error = split("p", Path::new("m.sql"), &text).expect_err("no end");
        assert_eq!(error.detail(), Some("macro `a` has no {% endmacro %}"));
    }
}
