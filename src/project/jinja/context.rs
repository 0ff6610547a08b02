//! The functions and objects that templates find, as dbt gives them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use minijinja::{
    Environment, Error, ErrorKind, State, Value,
    value::{Kwargs, Object, Rest, from_args},
};

use crate::project::{
    Variables,
    config::Options,
    jinja::{
        macros::{DBT, PREFIXES},
        page::{
            Callable, Execute, Package, Relation, Shared, This, asks, fail, return_from, wrong,
        },
        rewrite, values,
    },
    nearest,
};

/// The function that makes a relation of those rows of another that meet a condition.
pub(in crate::project) const ROWS_OF: &str = "__rows_of";

/// Adds all that templates find to an environment.
pub(super) fn add(environment: &mut Environment<'static>, shared: &Arc<Shared>) {
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function(rewrite::LIST, |value: &Value| values::list(value));
    environment.add_function(rewrite::MAP, |value: &Value| values::map(value));
    environment.add_filter("list", |value: &Value| values::list(value));
    add_relations(environment, shared);
    add_settings(environment, shared);
    add_plain(environment);
    add_macros(environment, shared);
    let shared = || Arc::clone(shared);
    environment.add_global("this", Value::from_object(This(shared())));
    environment.add_global("execute", Value::from_object(Execute(shared())));
    environment.add_global("adapter", Value::from_object(Adapter(shared())));
    environment.add_global("exceptions", Value::from_object(Exceptions));
}

fn add_relations(environment: &mut Environment<'static>, shared: &Arc<Shared>) {
    let all = Arc::clone(shared);
    environment.add_function("ref", move |first: String, rest: Rest<Value>| {
        // `ref('package', 'model')`
        let second = rest.iter().find_map(|value| value.as_str());
        let name = second.unwrap_or(&first);
        let options = rest.last().filter(|last| last.is_kwargs());
        let version = ["v", "version"].iter().find_map(|key| options?.get_attr(key).ok());
        let version = version.filter(|version| !version.is_undefined() && !version.is_none());
        // Version 2 of a model stands in a file of its own.
        let of_version = version.map(|version| format!("{name}_v{version}"));
        let name = of_version.as_deref().filter(|name| all.has(name)).unwrap_or(name);
        all.table(name).map(|table| Value::from_object(Relation::of(table)))
    });
    let all = Arc::clone(shared);
    environment.add_function("source", move |schema: String, name: String| {
        all.source(&schema, &name).map(|table| Value::from_object(Relation::of(table)))
    });
    environment.add_function("is_incremental", || false);
    environment.add_function(ROWS_OF, |relation: Value, filter: String| {
        let relation = relation.downcast_object_ref::<Relation>().cloned();
        let relation = relation.ok_or_else(|| wrong("`where` needs a relation"))?;
        Ok(Value::from_object(Relation { filter: Some(filter), ..relation }))
    });
    let all = Arc::clone(shared);
    environment.add_function("doc", move |first: String, second: Option<String>| {
        // `doc('package', 'name')`
        let name = second.unwrap_or(first);
        let hint = nearest(&name, all.docs.keys().map(String::as_str)).unwrap_or_default();
        let missing = || fail(format!("doc('{name}'): no such docs block"), hint);
        all.docs.get(&name).map(String::as_str).map(Value::from).ok_or_else(missing)
    });
}

fn add_settings(environment: &mut Environment<'static>, shared: &Arc<Shared>) {
    environment.add_global("config", Value::from_object(Config(Arc::clone(shared))));
    add_variables(environment, shared.vars.clone(), &shared.variables);
    environment.add_global("dbt_version", "1.11.0");
    environment.add_global("project_name", shared.project.as_str());
    let flags =
        ["FULL_REFRESH", "STORE_FAILURES"].map(|flag| (flag.to_owned(), Value::from(false)));
    environment.add_global("flags", Value::from(BTreeMap::from(flags)));
}

/// What templates of options find too: variables, and what is run.
pub(super) fn add_variables(
    environment: &mut Environment<'static>,
    vars: BTreeMap<String, Value>,
    variables: &Variables,
) {
    environment.add_global("var", Value::from_object(Var(vars)));
    let variables = Arc::clone(variables);
    environment.add_function("env_var", move |name: String, default: Option<Value>| {
        let hint = "set it, or give a default: env_var('NAME', 'default')";
        let missing = || fail(format!("env_var('{name}') is not set"), hint);
        variables(&name).map(Value::from).or(default).ok_or_else(missing)
    });
    let target = [
        ("name", "sluice"),
        ("type", "sluice"),
        ("profile_name", "sluice"),
        ("database", "sluice"),
        ("dbname", "sluice"),
        ("schema", "gold"),
    ];
    let target: BTreeMap<String, Value> =
        target.into_iter().map(|(key, value)| (key.to_owned(), Value::from(value))).collect();
    environment.add_global("target", Value::from(target));
}

/// What says or reads nothing.
fn add_plain(environment: &mut Environment<'static>) {
    environment.add_function("return", |value: Option<Value>| -> Result<Value, Error> {
        Err(return_from(value.unwrap_or_else(|| Value::from(()))))
    });
    environment.add_function("log", |_: Rest<Value>| "");
    environment.add_function("print", |_: Rest<Value>| "");
    environment.add_function("tojson", |value: Value, _: Rest<Value>| {
        serde_json::to_string(&value).map_err(|error| wrong(format!("tojson: {error}")))
    });
    environment.add_function("fromjson", |text: String, _: Rest<Value>| {
        let value: Result<Value, _> = serde_json::from_str(&text);
        values::deep(&value.map_err(|error| wrong(format!("fromjson: {error}")))?)
    });
    environment.add_function("fromyaml", |text: String, _: Rest<Value>| {
        let value: Result<Value, _> = serde_yaml_ng::from_str(&text);
        values::deep(&value.map_err(|error| wrong(format!("fromyaml: {error}")))?)
    });
    environment.add_function("toyaml", |value: Value, _: Rest<Value>| {
        serde_yaml_ng::to_string(&value).map_err(|error| wrong(format!("toyaml: {error}")))
    });
    environment.add_function("set", |value: &Value| -> Result<Value, Error> {
        let unique: BTreeSet<Value> = value.try_iter()?.collect();
        values::list(&unique.into_iter().collect())
    });
    environment.add_function("zip", |lists: Rest<Value>| -> Result<Value, Error> {
        let lists: Result<Vec<Vec<Value>>, Error> =
            lists.iter().map(|list| list.try_iter().map(Iterator::collect)).collect();
        let lists = lists?;
        let shortest = lists.iter().map(Vec::len).min().unwrap_or(0);
        let row =
            |i: usize| Value::from_iter(lists.iter().map(|list: &Vec<Value>| list[i].clone()));
        Ok((0..shortest).map(row).collect())
    });
    environment.add_filter("as_text", |value: Value| value.to_string());
    environment.add_filter("as_native", |value: Value| value);
    environment.add_filter("as_bool", |value: Value| value.is_true());
    environment.add_filter("as_number", |value: Value| value);
    for name in ["run_query", "statement", "load_result", "load_relation"] {
        let asks = move |_: Rest<Value>, _: Kwargs| -> Result<Value, Error> { Err(asks(name)) };
        environment.add_function(name, asks);
    }
}

/// Macros by their plain names and by their packages.
fn add_macros(environment: &mut Environment<'static>, shared: &Arc<Shared>) {
    let names: BTreeSet<&str> = shared.macros.iter().map(|one| one.name.as_str()).collect();
    for name in names {
        let callable =
            Callable { shared: Arc::clone(shared), package: None, names: vec![name.to_owned()] };
        environment.add_global(name.to_owned(), Value::from_object(callable));
    }
    for name in shared.macros.packages() {
        let package = Package { shared: Arc::clone(shared), name: name.to_owned() };
        environment.add_global(name.to_owned(), Value::from_object(package));
    }
    let all = Arc::clone(shared);
    environment.add_function("__keep", move |at: usize, body: Value| {
        all.page().macros.insert(at, body);
        ""
    });
}

/// `config(…)`, `config.get(…)`.
#[derive(Debug)]
struct Config(Arc<Shared>);

impl Object for Config {
    fn call(self: &Arc<Self>, _: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
        let (given, options): (Option<Value>, Kwargs) = from_args(args)?;
        let of = self.0.page().options.of;
        let mut taken = Options { of, ..Options::default() };
        let of_map = given.iter().flat_map(|map| map.try_iter().into_iter().flatten());
        for key in of_map {
            let value = given.as_ref().map_or(Ok(Value::UNDEFINED), |map| map.get_item(&key))?;
            take(&mut taken, &key.to_string(), &value)?;
        }
        for key in options.args() {
            take(&mut taken, key, &options.peek::<Value>(key)?)?;
        }
        let mut page = self.0.page();
        page.seen.options = taken.over(&page.seen.options);
        Ok(Value::from(""))
    }

    fn call_method(
        self: &Arc<Self>,
        _: &mut State<'_, '_>,
        method: &str,
        args: &[Value],
    ) -> Result<Value, Error> {
        let (key, default, _): (String, Option<Value>, Kwargs) = match method {
            "get" | "require" | "meta_get" | "meta_require" => from_args(args)?,
            "set" | "persist_relation_docs" | "persist_column_docs" => return Ok(Value::from("")),
            _ => return Err(Error::from(ErrorKind::UnknownMethod)),
        };
        let page = self.0.page();
        let found = page.seen.options.all.get(&key).or_else(|| page.options.all.get(&key));
        let found = found.map(super::value);
        match (found.or(default), method.ends_with("require")) {
            (Some(value), _) => Ok(value),
            (None, true) => Err(wrong(format!("config.{method}('{key}'): it is not configured"))),
            (None, false) => Ok(Value::from(())),
        }
    }
}

fn take(options: &mut Options, key: &str, value: &Value) -> Result<(), Error> {
    let value = serde_yaml_ng::to_value(value).map_err(|error| wrong(format!("{key}: {error}")))?;
    options.take(key, &value).map_err(|message| {
        Error::new(ErrorKind::InvalidOperation, format!("{message}\u{1}\u{1}{key}"))
    })
}

/// `var(…)`, `var.has_var(…)`.
#[derive(Debug)]
struct Var(BTreeMap<String, Value>);

impl Object for Var {
    fn call(self: &Arc<Self>, _: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
        let (name, default): (String, Option<Value>) = from_args(args)?;
        let vars = &self.0;
        let value = vars.get(&name).map_or(Ok(None), |value| values::deep(value).map(Some))?;
        value.or(default).ok_or_else(|| {
            let hint = nearest(&name, vars.keys().map(String::as_str)).unwrap_or_else(|| {
                "add it under `vars:` in sluice.yml or dbt_project.yml, or give a default".into()
            });
            fail(format!("var('{name}') is not set"), hint)
        })
    }

    fn call_method(
        self: &Arc<Self>,
        state: &mut State<'_, '_>,
        method: &str,
        args: &[Value],
    ) -> Result<Value, Error> {
        match method {
            "has_var" => {
                let (name,): (String,) = from_args(args)?;
                Ok(Value::from(self.0.contains_key(&name)))
            }
            "get" => self.call(state, args),
            _ => Err(Error::from(ErrorKind::UnknownMethod)),
        }
    }
}

/// `adapter.…`
#[derive(Debug)]
struct Adapter(Arc<Shared>);

impl Object for Adapter {
    fn call_method(
        self: &Arc<Self>,
        _: &mut State<'_, '_>,
        method: &str,
        args: &[Value],
    ) -> Result<Value, Error> {
        match method {
            "dispatch" => {
                let (name, package, named): (String, Option<String>, Kwargs) = from_args(args)?;
                let package = package.or(named.get("macro_namespace")?);
                Ok(self.dispatch(&name, package))
            }
            "quote" => {
                let (name,): (String,) = from_args(args)?;
                Ok(Value::from(format!("\"{}\"", name.replace('"', "\"\""))))
            }
            "type" => Ok(Value::from("sluice")),
            "get_columns_in_relation" => {
                let (relation,): (Value,) = from_args(args)?;
                self.columns(&relation)
            }
            "get_relation" | "check_schema_exists" | "execute" | "get_missing_columns" => {
                let hint = "a template knows the columns of models, not what a database holds";
                Err(fail(format!("adapter.{method}(): there is no such thing"), hint))
            }
            _ => Err(Error::from(ErrorKind::UnknownMethod)),
        }
    }
}

impl Adapter {
    /// The macro `name` for Sluice, or the one for all, of a package or of the project.
    fn dispatch(&self, name: &str, package: Option<String>) -> Value {
        let forms = PREFIXES.iter().map(|prefix| format!("{prefix}{name}"));
        let names: Vec<String> = forms.chain([name.to_owned()]).collect();
        let scope = [Some(self.0.project.clone()), package, Some(DBT.to_owned())];
        let package = scope.into_iter().flatten().find(|package| {
            names.iter().any(|name| self.0.macros.find(name, &[package]).is_some())
        });
        Value::from_object(Callable { shared: Arc::clone(&self.0), package, names })
    }

    fn columns(&self, relation: &Value) -> Result<Value, Error> {
        let mut page = self.0.page();
        page.seen.asks_columns = true;
        let Some(Relation { table, .. }) = relation.downcast_object_ref::<Relation>() else {
            return Ok(Value::from(Vec::<Value>::new()));
        };
        let Some(known) = &page.columns else { return Ok(Value::from(Vec::<Value>::new())) };
        let Some(columns) = known.get(table) else {
            let hint = "write `-- depends_on: {{ ref('the_model') }}` above what asks for it";
            return Err(fail(format!("the columns of {table} are not known here"), hint));
        };
        let column = |(name, sql_type): &(String, String)| {
            Value::from_object(Column { name: name.clone(), sql_type: sql_type.clone() })
        };
        values::list(&columns.iter().map(column).collect())
    }
}

/// A column, as `adapter.get_columns_in_relation` gives it.
#[derive(Debug)]
struct Column {
    name: String,
    sql_type: String,
}

impl Object for Column {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        Some(match key.as_str()? {
            "name" | "column" => Value::from(self.name.as_str()),
            "quoted" => Value::from(format!("\"{}\"", self.name.replace('"', "\"\""))),
            "data_type" | "dtype" => Value::from(self.sql_type.as_str()),
            _ => return None,
        })
    }

    fn call_method(
        self: &Arc<Self>,
        _: &mut State<'_, '_>,
        method: &str,
        _: &[Value],
    ) -> Result<Value, Error> {
        let is = |types: &[&str]| types.iter().any(|one| self.sql_type.starts_with(one));
        let (integers, floats) = (["BIGINT", "INT", "SMALLINT", "TINYINT"], ["DOUBLE", "FLOAT"]);
        Ok(Value::from(match method {
            "is_string" => is(&["VARCHAR"]),
            "is_integer" => is(&integers),
            "is_float" => is(&floats),
            "is_numeric" => is(&["DECIMAL"]),
            "is_number" => is(&integers) || is(&floats) || is(&["DECIMAL"]),
            _ => return Err(Error::from(ErrorKind::UnknownMethod)),
        }))
    }
}

/// `exceptions.…`
#[derive(Debug)]
struct Exceptions;

impl Object for Exceptions {
    fn call_method(
        self: &Arc<Self>,
        _: &mut State<'_, '_>,
        method: &str,
        args: &[Value],
    ) -> Result<Value, Error> {
        match method {
            "raise_compiler_error" | "raise_not_implemented" => {
                let (message, _): (String, Rest<Value>) = from_args(args)?;
                Err(wrong(message))
            }
            "warn" => {
                let (message,): (String,) = from_args(args)?;
                tracing::warn!(%message, "a template warns");
                Ok(Value::from(""))
            }
            _ => Err(Error::from(ErrorKind::UnknownMethod)),
        }
    }
}
