//! `models/**/*.sql`: rendered, linked, put in order.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use minijinja::{Environment, ErrorKind, UndefinedBehavior, Value, value::Kwargs};

use crate::{
    domain::{ACCEPTED, TableName, contract::Contract},
    project::{
        Diagnostic, Diagnostics, Materialized, Model, QUARANTINE, Seed, files, is_identifier,
        nearest, properties::Properties, yaml,
    },
};

/// Folders below `models/`, which are the schemas of the tables.
const SCHEMAS: [&str; 2] = ["silver", "gold"];

/// Steps that a template may take.
const TEMPLATE_FUEL: u64 = 1_000_000;

/// All models, parents before children.
pub(super) fn read(
    root: &Path,
    vars: &BTreeMap<String, serde_yaml_ng::Value>,
    streams: &[Contract],
    seeds: &[Seed],
    properties: &BTreeMap<String, Properties>,
    found: &mut Diagnostics,
) -> Vec<Model> {
    let mut names: BTreeMap<String, TableName> =
        seeds.iter().map(|seed| (seed.name.name.clone(), seed.name.clone())).collect();
    let mut sources: Vec<(PathBuf, TableName, String)> = Vec::new();
    for file in files(root, "models", &[".sql"], found) {
        let Some(name) = model_name(&file, found) else { continue };
        if let Some(other) = names.insert(name.name.clone(), name.clone()) {
            let message = format!("model `{}` has the same name as {other}", name.name);
            found.push(Diagnostic::file(&file, message).hint("names are unique in a project"));
            continue;
        }
        if let Some(text) = yaml::text(root, &file, found) {
            sources.push((file, name, text));
        }
    }
    let context = Context {
        names: Arc::new(names),
        streams: Arc::new(streams.iter().map(|s| s.name.clone()).collect()),
        vars: Arc::new(vars.iter().map(|(k, v)| (k.clone(), Value::from_serialize(v))).collect()),
    };
    let mut models = Vec::new();
    for (file, name, source) in sources {
        match render(&context, &file, name, source, properties) {
            Ok(model) => models.push(model),
            Err(diagnostic) => found.push(*diagnostic),
        }
    }
    in_order(models, found)
}

fn model_name(file: &Path, found: &mut Diagnostics) -> Option<TableName> {
    let schema = file.components().nth(1)?.as_os_str().to_string_lossy().into_owned();
    let name = file.file_stem()?.to_string_lossy().into_owned();
    if !SCHEMAS.contains(&schema.as_str()) {
        let message = "a model stands in models/silver or models/gold".to_owned();
        found.push(Diagnostic::file(file, message).hint("move the file"));
        return None;
    }
    if !is_identifier(&name) {
        let message = format!("`{name}` cannot be a model name");
        found.push(Diagnostic::file(file, message).hint("use a-z, 0-9 and _"));
        return None;
    }
    Some(TableName::new(schema, name))
}

#[derive(Clone)]
struct Context {
    names: Arc<BTreeMap<String, TableName>>,
    streams: Arc<Vec<String>>,
    vars: Arc<BTreeMap<String, Value>>,
}

/// What the template functions were called with.
#[derive(Default)]
struct Seen {
    refs: Vec<TableName>,
    sources: Vec<TableName>,
    materialized: Materialized,
    refuses_recompute: bool,
}

fn render(
    context: &Context,
    file: &Path,
    name: TableName,
    source: String,
    properties: &BTreeMap<String, Properties>,
) -> Result<Model, Box<Diagnostic>> {
    let seen = Arc::new(Mutex::new(Seen::default()));
    let environment = environment(context, &seen);
    let sql = environment
        .render_str(&keep_lines(&source), ())
        .map_err(|error| Box::new(template_error(file, &source, &error)))?;
    let seen = seen.lock().map(|mut seen| std::mem::take(&mut *seen)).unwrap_or_default();
    let described = properties.get(&name.name).cloned().unwrap_or_default();
    Ok(Model {
        name,
        file: file.to_path_buf(),
        source,
        sql: sql.trim_end().trim_end_matches(';').to_owned(),
        materialized: seen.materialized,
        refuses_recompute: seen.refuses_recompute,
        refs: unique(seen.refs),
        sources: unique(seen.sources),
        description: described.description,
        columns: described.columns,
        described_in: described.file,
    })
}

fn unique<T: Ord>(items: Vec<T>) -> Vec<T> {
    items.into_iter().collect::<BTreeSet<_>>().into_iter().collect()
}

fn environment(context: &Context, seen: &Arc<Mutex<Seen>>) -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_fuel(Some(TEMPLATE_FUEL));
    let fail = |message: String| minijinja::Error::new(ErrorKind::InvalidOperation, message);
    let (names, notes) = (Arc::clone(&context.names), Arc::clone(seen));
    environment.add_function("ref", move |name: String| {
        let Some(table) = names.get(&name) else {
            let hint = nearest(&name, names.keys().map(String::as_str)).unwrap_or_default();
            return Err(fail(format!("ref('{name}'): no such model or seed\u{1}{hint}")));
        };
        if let Ok(mut seen) = notes.lock() {
            seen.refs.push(table.clone());
        }
        Ok(Value::from_safe_string(format!("\"{}\".\"{}\"", table.schema, table.name)))
    });
    let (streams, notes) = (Arc::clone(&context.streams), Arc::clone(seen));
    environment.add_function("source", move |schema: String, name: String| {
        let relation = match schema.as_str() {
            "bronze" => ACCEPTED,
            QUARANTINE => QUARANTINE,
            _ => {
                let hint =
                    "use source('bronze', 'my_stream'), or source('quarantine', 'my_stream')";
                return Err(fail(format!("source('{schema}', …): no such source\u{1}{hint}")));
            }
        };
        if !streams.contains(&name) {
            let hint = nearest(&name, streams.iter().map(String::as_str)).unwrap_or_default();
            return Err(fail(format!("source('{schema}', '{name}'): no such stream\u{1}{hint}")));
        }
        if let Ok(mut seen) = notes.lock() {
            seen.sources.push(TableName::new(&schema, &name));
        }
        Ok(Value::from_safe_string(format!("\"{relation}\".\"{name}\"")))
    });
    let notes = Arc::clone(seen);
    environment.add_function("config", move |options: Kwargs| {
        let known = materialized(options.get("materialized")?).map_err(fail)?;
        let refuses_recompute =
            refuses_recompute(options.get("on_incremental_change")?).map_err(fail)?;
        for ignored in ["tags", "unique_key", "meta"] {
            let _: Option<Value> = options.get(ignored)?;
        }
        options.assert_all_used()?;
        if let Ok(mut seen) = notes.lock() {
            (seen.materialized, seen.refuses_recompute) = (known, refuses_recompute);
        }
        Ok(Value::from(""))
    });
    let vars = Arc::clone(&context.vars);
    environment.add_function("var", move |name: String, default: Option<Value>| {
        vars.get(&name).cloned().or(default).ok_or_else(|| {
            let hint = nearest(&name, vars.keys().map(String::as_str))
                .unwrap_or_else(|| "add it under `vars:` in sluice.yml, or give a default".into());
            fail(format!("var('{name}') is not set\u{1}{hint}"))
        })
    });
    environment.add_function("is_incremental", || false);
    environment
}

/// The option `materialized`; an error has its hint behind U+0001.
fn materialized(option: Option<String>) -> Result<Materialized, String> {
    match option.as_deref() {
        None | Some("table" | "incremental") => Ok(Materialized::Table),
        Some("view" | "ephemeral") => Ok(Materialized::View),
        Some(other) => {
            Err(format!("materialized='{other}' is not known\u{1}use 'table' or 'view'"))
        }
    }
}

/// The option `on_incremental_change`.
fn refuses_recompute(option: Option<String>) -> Result<bool, String> {
    match option.as_deref() {
        None | Some("fallback") => Ok(false),
        Some("fail") => Ok(true),
        Some(other) => {
            let hint = "use 'fail' or 'fallback'";
            Err(format!("on_incremental_change='{other}' is not known\u{1}{hint}"))
        }
    }
}

/// Moves line breaks from inside a template tag to behind it, so that a line of the rendered SQL
/// has the number that it has in the user's file.
fn keep_lines(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = ["{{", "{%", "{#"].iter().filter_map(|tag| rest.find(tag)).min() {
        let close = match &rest[start..start + 2] {
            "{{" => "}}",
            "{%" => "%}",
            _ => "#}",
        };
        let Some(length) = rest[start..].find(close) else { break };
        let end = start + length + close.len();
        let tag = &rest[start..end];
        out.push_str(&rest[..start]);
        out.push_str(&tag.replace('\n', " "));
        out.extend(std::iter::repeat_n('\n', tag.matches('\n').count()));
        rest = &rest[end..];
    }
    out.push_str(rest);
    out
}

fn template_error(file: &Path, source: &str, error: &minijinja::Error) -> Diagnostic {
    let detail = error.detail().unwrap_or_default();
    let (message, hint) = detail.split_once('\u{1}').unwrap_or((detail, ""));
    let message = if message.is_empty() { error.kind().to_string() } else { message.to_owned() };
    let hint = (!hint.is_empty()).then(|| hint.to_owned());
    let diagnostic = Diagnostic::file(file, message.clone()).maybe_hint(hint);
    let named = message.split_once("('").and_then(|(call, rest)| {
        let argument = rest.split('\'').next()?;
        Some(format!("{call}('{argument}'"))
    });
    match (named.filter(|needle| source.contains(needle)), error.line()) {
        (Some(needle), _) => diagnostic.find(source, &needle),
        (None, Some(line)) => diagnostic.at(source, line, None),
        (None, None) => diagnostic,
    }
}

/// Parents before children; reports cycles.
fn in_order(models: Vec<Model>, found: &mut Diagnostics) -> Vec<Model> {
    let mut waiting: BTreeMap<TableName, Model> =
        models.into_iter().map(|model| (model.name.clone(), model)).collect();
    let mut ordered = Vec::with_capacity(waiting.len());
    while !waiting.is_empty() {
        let ready: Vec<TableName> = waiting
            .values()
            .filter(|model| model.refs.iter().all(|name| !waiting.contains_key(name)))
            .map(|model| model.name.clone())
            .collect();
        if ready.is_empty() {
            found.push(cycle_error(&waiting));
            break;
        }
        ordered.extend(ready.iter().filter_map(|name| waiting.remove(name)));
    }
    ordered
}

fn cycle_error(waiting: &BTreeMap<TableName, Model>) -> Diagnostic {
    let cycle = cycle(waiting);
    let text: Vec<String> = cycle.iter().map(ToString::to_string).collect();
    let message = format!("models form a cycle: {}", text.join(" → "));
    let (Some(model), Some(next)) =
        (cycle.first().and_then(|name| waiting.get(name)), cycle.get(1))
    else {
        return Diagnostic::file(Path::new("models"), message);
    };
    let reference = ['\'', '"'].map(|quote| format!("{quote}{}{quote}", next.name));
    let reference = reference.iter().find(|text| model.source.contains(*text));
    let diagnostic = Diagnostic::file(&model.file, message).hint("remove one of these refs");
    match reference {
        Some(text) => diagnostic.find(&model.source, text),
        None => diagnostic,
    }
}

fn cycle(waiting: &BTreeMap<TableName, Model>) -> Vec<TableName> {
    let mut path: Vec<TableName> = waiting.keys().take(1).cloned().collect();
    while let Some(model) = path.last().and_then(|name| waiting.get(name)) {
        let Some(next) = model.refs.iter().find(|name| waiting.contains_key(name)) else { break };
        if let Some(start) = path.iter().position(|name| name == next) {
            path.push(next.clone());
            return path.split_off(start);
        }
        path.push(next.clone());
    }
    path
}
