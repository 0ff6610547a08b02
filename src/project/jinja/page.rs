//! What the templates of a project share, and the page that is being rendered.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use arrow::array::RecordBatch;
use minijinja::{
    Error, ErrorKind, State, Value,
    value::{Object, ObjectRepr, from_args},
};

use crate::{
    domain::{ACCEPTED, TableName, contract::Deletes},
    project::{
        QUARANTINE,
        config::Options,
        jinja::macros::{DBT, Macros},
        nearest,
    },
};

/// Calls of macros within each other above which a template is refused.
const DEPTH_MAX: usize = 30;

/// What a project gives its templates.
pub(in crate::project) struct Shared {
    /// The project's name, which is also that of the package of its macros.
    pub project: String,
    pub macros: Macros,
    pub names: Mutex<Names>,
    /// Blocks of documentation.
    pub docs: BTreeMap<String, String>,
    /// The tables of `sources:` in properties files, as (source, table) → the stream or seed.
    pub sources: BTreeMap<(String, String), String>,
    pub streams: BTreeSet<String>,
    /// What tells deletes, per stream that has any.
    pub deletes: BTreeMap<String, Deletes>,
    /// Rows of seeds, whose values templates can ask for.
    pub seeds: BTreeMap<String, RecordBatch>,
    /// Seeds that are switched off.
    pub seeds_off: BTreeSet<String>,
    pub vars: BTreeMap<String, Value>,
    /// Environment variables.
    pub variables: Variables,
    pub page: Mutex<Page>,
}

/// What `ref` finds.
#[derive(Default)]
pub(in crate::project) struct Names {
    /// Models and seeds, by the name that `ref` takes.
    pub tables: BTreeMap<String, TableName>,
    /// Models that are switched off.
    pub disabled: BTreeSet<String>,
}

/// Reads an environment variable.
pub type Variables = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// Columns of relations: names and SQL types.
pub type Columns = BTreeMap<TableName, Vec<(String, String)>>;

/// One rendering.
#[derive(Default)]
pub(in crate::project) struct Page {
    /// The model, and the options that it has from elsewhere.
    pub model: Option<TableName>,
    pub options: Options,
    /// Columns of the relations that the model reads; none in the first pass.
    pub columns: Option<Columns>,
    pub seen: Seen,
    /// Macros as values of this rendering, and those under way, innermost last.
    pub macros: BTreeMap<usize, Value>,
    pub calls: Vec<usize>,
}

/// What a template asked for.
#[derive(Debug, Clone, Default)]
pub(in crate::project) struct Seen {
    pub refs: Vec<TableName>,
    pub sources: Vec<TableName>,
    pub options: Options,
    /// Whether its text depends on columns of what it reads.
    pub asks_columns: bool,
    /// Whether its text names the model itself.
    pub prints_this: bool,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("project", &self.project).finish_non_exhaustive()
    }
}

/// An error of a template function, with a hint.
pub(super) fn fail(message: impl fmt::Display, hint: impl fmt::Display) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("{message}\u{1}{hint}"))
}

/// An error of a template function whose message says it all.
pub(super) fn wrong(message: impl fmt::Display) -> Error {
    fail(message, "")
}

impl Shared {
    pub(super) fn page(&self) -> MutexGuard<'_, Page> {
        self.page.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The model or seed of that name; notes that it is read.
    pub(super) fn table(&self, name: &str) -> Result<TableName, Error> {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(table) = names.tables.get(name) {
            self.page().seen.refs.push(table.clone());
            return Ok(table.clone());
        }
        if names.disabled.contains(name) {
            let hint = "it has enabled=false in its config, or its folder has";
            return Err(fail(format!("ref('{name}'): that model is switched off"), hint));
        }
        let hint = nearest(name, names.tables.keys().map(String::as_str)).unwrap_or_default();
        Err(fail(format!("ref('{name}'): no such model or seed"), hint))
    }

    /// Whether there is a model or seed of that name.
    pub(super) fn has(&self, name: &str) -> bool {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.tables.contains_key(name)
    }

    /// What feeds a source; notes that it is read.
    pub(super) fn source(&self, schema: &str, name: &str) -> Result<TableName, Error> {
        let declared = self.sources.get(&(schema.to_owned(), name.to_owned()));
        let (relation, stream) = match (declared, schema) {
            (Some(fed_by), _) => (ACCEPTED, fed_by.as_str()),
            (None, "bronze") => (ACCEPTED, name),
            (None, QUARANTINE) => (QUARANTINE, name),
            _ => return Err(self.no_source(schema, name)),
        };
        let in_schema = if relation == ACCEPTED { "bronze" } else { QUARANTINE };
        if self.streams.contains(stream) {
            self.page().seen.sources.push(TableName::new(in_schema, stream));
            return Ok(TableName::new(relation, stream));
        }
        if declared.is_some() {
            if self.seeds.contains_key(stream) {
                return self.table(stream);
            }
            let hint = if self.seeds_off.contains(stream) {
                format!(
                    "seed `{stream}` is switched off: by its `enabled`, or by a variable that decides \
                     it, which `vars:` in sluice.yml can set"
                )
            } else {
                format!("add streams/{stream}.yml with its fields, or seeds/{stream}.csv")
            };
            let message = format!("source('{schema}', '{name}'): nothing feeds it");
            return Err(fail(message, hint));
        }
        let hint = nearest(stream, self.streams.iter().map(String::as_str)).unwrap_or_default();
        Err(fail(format!("source('{schema}', '{name}'): no such stream"), hint))
    }

    fn no_source(&self, schema: &str, name: &str) -> Error {
        let of_source = self.sources.keys().filter(|(source, _)| source == schema);
        let tables: Vec<&str> = of_source.map(|(_, table)| table.as_str()).collect();
        if tables.is_empty() {
            let hint = "use source('bronze', 'my_stream'), or source('quarantine', 'my_stream'), \
                        or declare it under `sources:` in a properties file";
            return fail(format!("source('{schema}', …): no such source"), hint);
        }
        let hint = nearest(name, tables.iter().copied())
            .unwrap_or_else(|| format!("its tables are {}", tables.join(", ")));
        fail(format!("source('{schema}', '{name}'): the source has no such table"), hint)
    }

    /// The packages in which a plain name is looked for, now.
    pub(super) fn scope(&self) -> Vec<String> {
        let page = self.page();
        let own = page.calls.last().map(|at| self.macros.get(*at).package.clone());
        own.into_iter().chain([self.project.clone(), DBT.to_owned()]).collect()
    }
}

/// A macro as templates call it: by its name, in the package that it names or else those of the
/// caller, the project and dbt.
#[derive(Debug)]
pub(super) struct Callable {
    pub shared: Arc<Shared>,
    pub package: Option<String>,
    /// Names of which the first that there is is called.
    pub names: Vec<String>,
}

impl Callable {
    fn find(&self) -> Option<usize> {
        let scope = self.package.as_ref().map_or_else(|| self.shared.scope(), |p| vec![p.clone()]);
        let scope: Vec<&str> = scope.iter().map(String::as_str).collect();
        self.names.iter().find_map(|name| self.shared.macros.find(name, &scope))
    }
}

impl Object for Callable {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
        let name = self.names.last().map_or("", String::as_str);
        let no_such = || wrong(format!("there is no macro `{name}`"));
        let at = self.find().ok_or_else(no_such)?;
        let body = {
            let mut page = self.shared.page();
            if page.calls.len() >= DEPTH_MAX {
                let message = format!("macro `{name}`: more than {DEPTH_MAX} calls in each other");
                return Err(fail(message, "does it call itself without an end?"));
            }
            let body = page.macros.get(&at).cloned().ok_or_else(no_such)?;
            page.calls.push(at);
            body
        };
        let one = self.shared.macros.get(at);
        let result = match arguments(one.takes_more, &one.parameters, args) {
            Ok(args) => body.call(state, &args),
            Err(error) => Err(error),
        };
        self.shared.page().calls.pop();
        result.or_else(|error| match returned(&error) {
            Some(value) => Ok(value),
            None if is_ours(&one.package) => Err(at_call(name, &error)),
            None => Err(error),
        })
    }
}

/// Whether a package's text is Sluice's own: an error in it is told where it is called.
pub(super) fn is_ours(package: &str) -> bool {
    [DBT, "dbt_utils"].contains(&package)
}

/// An error in a macro of ours as one of its call.
fn at_call(name: &str, error: &Error) -> Error {
    let detail = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    let detail =
        if detail.contains('\u{1}') { detail } else { format!("{name}(…): {detail}\u{1}") };
    Error::new(ErrorKind::InvalidOperation, detail)
}

/// The arguments of a macro; what it has no parameters for as `varargs` and `kwargs`.
fn arguments(takes_more: bool, parameters: &[String], args: &[Value]) -> Result<Vec<Value>, Error> {
    if !takes_more {
        return Ok(args.to_vec());
    }
    let (args, named) = match args.split_last() {
        Some((last, rest)) if last.is_kwargs() => (rest, Some(last)),
        _ => (args, None),
    };
    let (known, more) = args.split_at(args.len().min(parameters.len()));
    let mut all: Vec<(String, Value)> = Vec::new();
    let mut others: Vec<(String, Value)> = Vec::new();
    for key in named.into_iter().filter_map(|named| named.try_iter().ok()).flatten() {
        let value = named.map_or(Ok(Value::UNDEFINED), |named| named.get_item(&key))?;
        let key = key.to_string();
        let to = if parameters.contains(&key) || key == "caller" { &mut all } else { &mut others };
        to.push((key, value));
    }
    all.push(("varargs".to_owned(), Value::from(more.to_vec())));
    let others: BTreeMap<String, Value> = others.into_iter().collect();
    all.push(("kwargs".to_owned(), Value::from(others)));
    let named: minijinja::value::Kwargs = all.into_iter().collect();
    Ok(known.iter().cloned().chain([Value::from(named)]).collect())
}

/// What `return(…)` ends a macro with, on its way as an error.
#[derive(Debug)]
struct Returned(Value);

impl fmt::Display for Returned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("return() stands in macros only")
    }
}

impl std::error::Error for Returned {}

/// Ends the macro under way with a value.
pub(super) fn return_from(value: Value) -> Error {
    let message = "return() stands in macros only\u{1}";
    Error::new(ErrorKind::InvalidOperation, message).with_source(Returned(value))
}

fn returned(error: &Error) -> Option<Value> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(Returned(value)) = error.downcast_ref() {
            return Some(value.clone());
        }
        cause = error.source();
    }
    None
}

/// Macros of dbt_utils that ask a database.
const ASKING: [&str; 6] = [
    "get_query_results_as_dict",
    "get_relations_by_pattern",
    "get_relations_by_prefix",
    "get_single_value",
    "get_tables_by_pattern_sql",
    "get_tables_by_prefix_sql",
];

/// Refuses what asks a database while a template is rendered.
pub(super) fn asks(name: &str) -> Error {
    let hint = "write the values that it would give as a list";
    fail(format!("{name}(): a template cannot ask for the rows of tables"), hint)
}

/// The macros of a package, as `dbt_utils.star(…)` calls them.
#[derive(Debug)]
pub(super) struct Package {
    pub shared: Arc<Shared>,
    pub name: String,
}

impl Package {
    fn callable(&self, name: &str) -> Option<Value> {
        // dbt_utils had them before dbt did.
        let packages: &[&str] =
            if self.name == "dbt_utils" { &[&self.name, DBT] } else { &[&self.name] };
        let is_there = |package: &&&str| self.shared.macros.find(name, &[**package]).is_some();
        let package = packages.iter().find(is_there)?;
        Some(Value::from_object(Callable {
            shared: Arc::clone(&self.shared),
            package: Some((*package).to_owned()),
            names: vec![name.to_owned()],
        }))
    }
}

impl Object for Package {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.callable(key.as_str()?)
    }

    fn call_method(
        self: &Arc<Self>,
        state: &mut State<'_, '_>,
        method: &str,
        args: &[Value],
    ) -> Result<Value, Error> {
        if let Some(callable) = self.callable(method) {
            return callable.call(state, args);
        }
        if self.name == "dbt_utils" && method == "get_column_values" {
            return super::column_values::column_values(&self.shared, args);
        }
        if self.name == "dbt_utils" && ASKING.contains(&method) {
            return Err(asks(method));
        }
        let names: Vec<&str> = self.shared.macros.names_in(&self.name).collect();
        let hint = nearest(method, names).unwrap_or_default();
        Err(fail(format!("package `{}` has no macro `{method}`", self.name), hint))
    }
}

/// A relation, as `ref` and `source` give it: it prints as its quoted name.
#[derive(Debug, Clone)]
pub(super) struct Relation {
    pub table: TableName,
    /// The condition of the rows of it that a test is about.
    pub filter: Option<String>,
}

impl Relation {
    pub(super) fn of(table: TableName) -> Self {
        Self { table, filter: None }
    }

    fn part(&self, key: &Value) -> Option<Value> {
        let TableName { schema, name } = &self.table;
        Some(match key.as_str()? {
            "schema" => Value::from(schema.as_str()),
            "name" | "identifier" | "table" => Value::from(name.as_str()),
            "database" => Value::from("sluice"),
            "type" => Value::from("table"),
            "is_table" => Value::from(true),
            "is_view" | "is_cte" => Value::from(false),
            _ => return None,
        })
    }
}

impl Object for Relation {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.part(key)
    }

    fn call_method(
        self: &Arc<Self>,
        _: &mut State<'_, '_>,
        method: &str,
        args: &[Value],
    ) -> Result<Value, Error> {
        match method {
            "include" | "quote" => Ok(Value::from_dyn_object(Arc::clone(self))),
            "render" => {
                let () = from_args(args)?;
                Ok(Value::from(self.to_string()))
            }
            _ => Err(Error::from(ErrorKind::UnknownMethod)),
        }
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Relation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = format!("\"{}\".\"{}\"", self.table.schema, self.table.name);
        match &self.filter {
            None => f.write_str(&name),
            Some(filter) => write!(f, "(select * from {name} where {filter}\n)"),
        }
    }
}

/// The model that is rendered, as `this`: its parts can be read, but not its rows.
#[derive(Debug)]
pub(super) struct This(pub Arc<Shared>);

impl Object for This {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let model = self.0.page().model.clone()?;
        Relation::of(model).part(key)
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut page = self.0.page();
        page.seen.prints_this = true;
        page.model.as_ref().map_or(Ok(()), |model| write!(f, "{}", Relation::of(model.clone())))
    }
}

/// Whether models' columns are known, as `execute`: it is false in the first pass.
#[derive(Debug)]
pub(super) struct Execute(pub Arc<Shared>);

impl Object for Execute {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn is_true(self: &Arc<Self>) -> bool {
        let mut page = self.0.page();
        page.seen.asks_columns = true;
        page.columns.is_some()
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_true() { "True" } else { "False" })
    }
}
