//! Jinja as dbt projects write it, rendered by minijinja.
//!
//! A model is rendered twice if it asks for columns of what it reads: once to learn what that is,
//! and again, when these columns are known.

mod column_values;
mod context;
mod macros;
mod page;
mod place;
mod rewrite;
#[cfg(test)]
mod tests;
mod values;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Arc, PoisonError},
};

pub(super) use context::ROWS_OF;
use minijinja::{Environment, Error, UndefinedBehavior};
pub use page::{Columns, Variables};
pub(super) use page::{Names, Page, Seen, Shared};
pub use place::{Places, byte_at};

use crate::{
    domain::{ACCEPTED, TableName, contract::Deletes},
    project::{
        Diagnostic, Diagnostics, QUARANTINE,
        config::Options,
        jinja::{
            macros::{At, BODY, DBT, Macros},
            rewrite::Rewritten,
        },
        nearest,
    },
};

/// Steps that a template may take, its macros included.
const FUEL: u64 = 10_000_000;

/// The macros that come with Sluice: package, file, text.
const PACKAGES: [(&str, &str, &str); 4] = [
    (DBT, "dbt.sql", include_str!("packages/dbt.sql")),
    (DBT, "tests.sql", include_str!("packages/tests.sql")),
    ("dbt_utils", "dbt_utils.sql", include_str!("packages/dbt_utils.sql")),
    ("dbt_utils", "dbt_utils_tests.sql", include_str!("packages/dbt_utils_tests.sql")),
];

/// A file of macros: its package, its place in the project, its text.
pub(super) struct MacroFile {
    pub package: String,
    pub file: PathBuf,
    pub text: String,
}

/// All macros: ours, those of packages, and the project's. Of two with one name in one package the
/// later is reported.
pub(super) fn macros(files: Vec<MacroFile>, found: &mut Diagnostics) -> Macros {
    let mut macros = Macros::default();
    let ours = PACKAGES.iter().map(|(package, file, text)| MacroFile {
        package: (*package).to_owned(),
        file: PathBuf::from(file),
        text: (*text).to_owned(),
    });
    for MacroFile { package, file, text } in ours.chain(files) {
        let text: Arc<str> = Arc::from(text);
        match macros::split(&package, &file, &text) {
            Ok(all) => {
                for one in all {
                    let (name, start) = (one.name.clone(), one.start);
                    if let Some(other) = macros.add(one) {
                        let message = format!("macro `{name}` is also in {}", other.file.display());
                        found.push(Diagnostic::file(&file, message).at_byte(&text, start));
                    }
                }
            }
            Err(error) => found.push(told(&file, &text, &error, |at| at)),
        }
    }
    macros
}

/// The templates of a project.
#[derive(Debug)]
pub struct Templates {
    environment: Environment<'static>,
    shared: Arc<Shared>,
}

/// A template as rendered.
#[derive(Debug)]
pub(super) struct Rendered {
    pub sql: String,
    pub places: Places,
    pub seen: Seen,
}

impl Templates {
    pub(super) fn new(shared: Shared, found: &mut Diagnostics) -> Self {
        let shared = Arc::new(shared);
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::SemiStrict);
        environment.set_fuel(Some(FUEL));
        let all = Arc::clone(&shared);
        environment.set_loader(move |name| {
            Ok(all.macros.of_key(name).map(|one| one.template.text.clone()))
        });
        context::add(&mut environment, &shared);
        let templates = Self { environment, shared };
        for one in templates.shared.macros.iter().filter(|one| !page::is_ours(&one.package)) {
            if let Err(error) = templates.environment.get_template(&one.key()) {
                found.push(templates.error(None, &error));
            }
        }
        templates
    }

    /// Renders `source`, the text of a model or a description. `columns`: of all that it reads, in
    /// the second pass.
    pub(super) fn render(
        &self,
        file: &Path,
        source: &str,
        model: Option<&TableName>,
        options: &Options,
        columns: Option<Columns>,
    ) -> Result<Rendered, Box<Diagnostic>> {
        let boxed = |error: &Error, from: Option<&Text<'_>>| match from {
            Some(from) => Box::new(self.error(Some(from), error)),
            None => Box::new(told(file, source, error, |at| at)),
        };
        let tokens = rewrite::tokens(source).map_err(|error| boxed(&error, None))?;
        let rewritten = rewrite::rewrite(source, &tokens, true, Vec::new());
        let prelude = self.prelude(&rewritten.words);
        let whole = format!("{prelude}{}", rewritten.text);
        let from = Text { file, source, rewritten: &rewritten, prelude: prelude.len() };
        *self.shared.page() =
            Page { model: model.cloned(), options: options.clone(), columns, ..Page::default() };
        let rendered = self.environment.render_named_str(MODEL, &whole, ());
        let page = std::mem::take(&mut *self.shared.page());
        let rendered = rendered.map_err(|error| boxed(&error, Some(&from)))?;
        let (sql, places) = Places::take(&rendered);
        if page.seen.prints_this {
            let diagnostic = Diagnostic::file(file, "a model cannot read itself");
            let hint = "what is new is found without `this`: leave the filter out";
            return Err(Box::new(diagnostic.find(source, "this").hint(hint)));
        }
        Ok(Rendered { sql, places, seen: page.seen })
    }

    /// What makes the macros that a template may call values of its rendering.
    fn prelude(&self, words: &[String]) -> String {
        let import = |at: usize| {
            let key = self.shared.macros.get(at).key();
            format!("{{% from '{key}' import {BODY} %}}{{% do __keep({at}, {BODY}) %}}")
        };
        self.shared.macros.reached(words).into_iter().map(import).collect()
    }

    /// An error of a template, at its place in the user's file, with what may be meant.
    fn error(&self, model: Option<&Text<'_>>, error: &Error) -> Diagnostic {
        let error = innermost(error);
        let diagnostic = self.placed(model, error);
        let unknown =
            diagnostic.message.split_once('`').filter(|(_, rest)| rest.contains("` is undefined"));
        if let Some(name) = unknown.and_then(|(_, rest)| rest.split(['`', '.']).next()) {
            let hint = not_here(name, error.kind());
            return diagnostic.maybe_hint(hint);
        }
        if error.kind() != minijinja::ErrorKind::UnknownFunction || diagnostic.hint.is_some() {
            return diagnostic;
        }
        let name = error.detail().and_then(|detail| detail.split(' ').next()).unwrap_or_default();
        let Shared { macros, project, .. } = &*self.shared;
        let known =
            [project.as_str(), DBT].into_iter().flat_map(|package| macros.names_in(package));
        let hint = nearest(name, known).unwrap_or_else(|| {
            format!("write {{% macro {name}() %}} in macros/, or say of which package it is")
        });
        diagnostic.hint(hint)
    }

    fn placed(&self, model: Option<&Text<'_>>, error: &Error) -> Diagnostic {
        let name = error.name().unwrap_or(MODEL);
        if let Some(one) = self.shared.macros.of_key(name) {
            return told(&one.file, &one.text, error, |at| {
                one.start + one.template.source_byte(at)
            });
        }
        match model {
            Some(Text { file, source, rewritten, prelude }) => {
                told(file, source, error, |at| rewritten.source_byte(at.saturating_sub(*prelude)))
            }
            None => Diagnostic::file(Path::new("macros"), error.to_string()),
        }
    }

    /// Tells what `ref` finds: tables by name, and models that are switched off.
    pub(super) fn name(&self, tables: BTreeMap<String, TableName>, disabled: BTreeSet<String>) {
        let names = &self.shared.names;
        *names.lock().unwrap_or_else(PoisonError::into_inner) = Names { tables, disabled };
    }

    /// The relation that a call such as `ref('x')` gives.
    pub(super) fn relation(&self, call: &str) -> Result<TableName, String> {
        let call = format!("{{{{ {call} }}}}");
        let rendered = self.render(Path::new("input"), &call, None, &Options::default(), None);
        let seen = rendered.map_err(|diagnostic| match diagnostic.hint {
            Some(hint) => format!("{}\u{1}{hint}", diagnostic.message),
            None => diagnostic.message,
        })?;
        let (tables, mut streams) = (seen.seen.refs.into_iter(), seen.seen.sources.into_iter());
        let stream = streams.next().map(|name| match name.schema.as_str() {
            QUARANTINE => name,
            _ => TableName::new(ACCEPTED, &name.name),
        });
        let hint = "such as ref('orders') or source('bronze', 'orders')";
        let found = tables.chain(stream).next();
        found.ok_or_else(|| format!("`{call}` is no relation\u{1}{hint}"))
    }

    /// What tells deletes in these streams.
    pub(super) fn deletes(&self, streams: &[TableName]) -> Vec<&Deletes> {
        let accepted = streams.iter().filter(|stream| stream.schema != QUARANTINE);
        accepted.filter_map(|stream| self.shared.deletes.get(&stream.name)).collect()
    }

    /// The model or seed that `ref` finds.
    pub(super) fn table(&self, name: &str) -> Option<TableName> {
        let names = self.shared.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.tables.get(name).cloned()
    }

    /// The generic tests that there are, as properties files name them: those of the project and
    /// dbt's by their name, others behind that of their package.
    pub(super) fn tests(&self) -> Vec<String> {
        let Shared { macros, project, .. } = &*self.shared;
        let test = |one: &macros::Macro| {
            let name = one.name.strip_prefix("test_")?;
            let is_plain = one.package == *project || one.package == DBT;
            Some(if is_plain { name.to_owned() } else { format!("{}.{name}", one.package) })
        };
        macros.iter().filter_map(test).collect()
    }

    /// The arguments of a generic test beside the relation that it is about.
    pub(super) fn arguments(&self, test: &str) -> Vec<String> {
        let Shared { macros, project, .. } = &*self.shared;
        let found = match test.rsplit_once('.') {
            Some((package, test)) => macros.find(&format!("test_{test}"), &[package]),
            None => macros.find(&format!("test_{test}"), &[project.as_str(), DBT]),
        };
        let of_macro = |at| macros.get(at).parameters.clone();
        found.map_or_else(Vec::new, of_macro).into_iter().filter(|name| name != "model").collect()
    }

    /// A description, with the blocks of documentation that it quotes.
    pub(super) fn describe(&self, text: &str) -> Result<String, String> {
        if !text.contains("{{") {
            return Ok(text.to_owned());
        }
        let file = Path::new("description");
        let rendered = self.render(file, text, None, &Options::default(), None);
        rendered.map(|rendered| rendered.sql).map_err(|diagnostic| diagnostic.message)
    }
}

/// The name of the template that is rendered.
const MODEL: &str = "model";

/// A text as written and as rewritten behind a prelude.
struct Text<'a> {
    file: &'a Path,
    source: &'a str,
    rewritten: &'a Rewritten,
    prelude: usize,
}

/// Why a name that dbt knows, or a package, is not there.
fn not_here(name: &str, kind: minijinja::ErrorKind) -> Option<String> {
    let why = match name {
        "run_started_at" | "invocation_id" | "modules" => {
            "a model is rendered once and kept up to date: use a column of the events, or current_date"
        }
        "graph" | "builtins" | "selected_resources" => {
            "a template knows what it reads, not the project"
        }
        "model" => "write {{ this }}.name",
        _ if kind == minijinja::ErrorKind::UnknownMethod => {
            return Some(format!(
                "if `{name}` is a package, its macros are read from dbt_packages/{name}: run `dbt deps`"
            ));
        }
        _ => return None,
    };
    Some(why.to_owned())
}

/// The error that caused an error of a template.
fn innermost(mut error: &Error) -> &Error {
    use std::error::Error as _;
    while let Some(cause) = error.source().and_then(|source| source.downcast_ref()) {
        error = cause;
    }
    error
}

/// An error in the text of `file`; `place` makes a byte of the template one of the text.
fn told(file: &Path, text: &str, error: &Error, place: impl Fn(usize) -> usize) -> Diagnostic {
    let detail = error.detail().unwrap_or_default();
    let mut parts = detail.split('\u{1}');
    let message = parts.next().unwrap_or_default();
    let message = if message.is_empty() { error.kind().to_string() } else { message.to_owned() };
    let hint = parts.next().filter(|hint| !hint.is_empty()).map(str::to_owned);
    let word = parts.nth(1);
    let diagnostic = Diagnostic::file(file, message.clone()).maybe_hint(hint);
    let at = std::error::Error::source(error).and_then(|e| e.downcast_ref::<At>());
    let start = match (at, error.range()) {
        (Some(At(at)), _) => Some(*at),
        (None, Some(range)) => Some(place(range.start).min(text.len())),
        (None, None) => None,
    };
    // A call is told where its name stands, an option where it is given.
    let called = message.split_once("('").and_then(|(call, rest)| {
        let argument = rest.split('\'').next()?;
        Some(['\'', '"'].map(|quote| format!("{call}({quote}{argument}{quote}")))
    });
    let from = start.unwrap_or(0);
    let line = text[..from].rfind('\n').map_or(0, |at| at + 1);
    let near = |needle: &str| text[line..].find(needle).map(|at| line + at);
    let found = called.into_iter().flatten().find_map(|needle| near(&needle));
    let found = found.or_else(|| word.and_then(near));
    match (found.or(start), error.line()) {
        (Some(at), _) => diagnostic.at_byte(text, at),
        (None, Some(line)) => diagnostic.at(text, line, None),
        (None, None) => diagnostic,
    }
}

/// Values of `vars:`, as templates read them.
pub(super) fn vars(
    all: &BTreeMap<String, serde_yaml_ng::Value>,
) -> BTreeMap<String, minijinja::Value> {
    all.iter().map(|(name, of)| (name.clone(), value(of))).collect()
}

/// The value of an option that is a template over variables alone; an error has its hint behind
/// U+0001.
pub(super) fn evaluated(
    text: &str,
    vars: &BTreeMap<String, minijinja::Value>,
    variables: &Variables,
) -> Result<serde_yaml_ng::Value, String> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    context::add_variables(&mut environment, vars.clone(), variables);
    let told = |error: Error| {
        let detail = innermost(&error).detail().map(str::to_owned);
        detail.unwrap_or_else(|| error.kind().to_string())
    };
    let result = environment.render_str(text, ()).map_err(told)?;
    // As text it would not be what it says: `True` is true.
    let native = match result.trim() {
        "True" => "true",
        "False" => "false",
        "None" | "none" => "null",
        other => other,
    };
    Ok(serde_yaml_ng::from_str(native).unwrap_or(serde_yaml_ng::Value::String(result)))
}

/// A value of YAML as templates read it.
fn value(yaml: &serde_yaml_ng::Value) -> minijinja::Value {
    serde_yaml_ng::from_value(yaml.clone()).unwrap_or_default()
}
