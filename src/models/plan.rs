//! The planner: how each model is kept, and why.
//!
//! It looks at the analysed plan, before optimisation (the optimiser folds `now()` into a literal),
//! never at the text. When in doubt it takes the slower way.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use arrow::datatypes::SchemaRef;
use datafusion::{
    catalog::{
        CatalogProvider as _, MemTable, MemoryCatalogProvider, MemorySchemaProvider, TableProvider,
    },
    common::{
        TableReference,
        tree_node::{TreeNode as _, TreeNodeRecursion},
    },
    datasource::ViewTable,
    error::DataFusionError,
    execution::{SessionState, SessionStateBuilder},
    logical_expr::{Expr, LogicalPlan, TableScan},
    prelude::{SessionConfig, SessionContext},
};

use crate::{
    domain::{ACCEPTED, TableName, identity::fingerprint, sql_guard, sql_limits, sql_ties},
    models::{
        KeptProgram,
        append::RowProgram,
        class::Class,
        classify::{Classified, Rows, Seen, classify},
        diagnose::{describe, refused, stores_quarantine},
        reads::columns_read,
        types::{sql_columns, storable},
    },
    project::{Columns, Diagnostics, Materialized, Model, Project, QUARANTINE, check_described},
};

/// Part of every fingerprint: raised when a change of ours changes what models compute.
const ENGINE: &str = "sluice-1 datafusion-55";
/// Longest SQL of a model, rendered.
const SQL_BYTES_MAX: usize = 1024 * 1024;
const CATALOG: &str = "sluice";
pub(super) const DEFAULT_SCHEMA: &str = "gold";

/// What computes a model from changes of its input.
#[derive(Debug, Clone)]
pub enum Program {
    /// Its SQL over the whole input does.
    None,
    Rows(Arc<RowProgram>),
    /// Of a class that is kept by changes.
    Kept(Arc<dyn KeptProgram>),
}

/// What a model reads directly, or through views.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Input {
    /// The accepted rows of a stream.
    Stream(String),
    /// A model or seed.
    Table(TableName),
}

/// A model with the way it is kept.
#[derive(Debug, Clone)]
pub struct Plan {
    pub model: Model,
    pub class: Class,
    /// Why not a faster class.
    pub reason: String,
    pub inputs: Vec<Input>,
    /// Those of these whose rows it is kept by: one, unless it is by key.
    pub driving: Vec<Input>,
    /// Streams that feed it, directly or through other models.
    pub streams: Vec<String>,
    /// Streams whose accepted rows its SQL reads, directly or through views.
    pub read_streams: Vec<String>,
    /// Stored tables that it reads, directly or through views.
    pub tables: Vec<TableName>,
    /// Visible columns as stored.
    pub schema: SchemaRef,
    /// Covers the model, its inputs' fingerprints and the engine.
    pub fingerprint: String,
    pub program: Program,
}

/// The accepted rows of a stream, as models can read them.
#[derive(Debug, Clone)]
pub struct Relation {
    pub schema: SchemaRef,
    /// The schema of its records in quarantine, which views can read.
    pub set_aside: SchemaRef,
    /// Per column, what decides its values. Only that of the columns that a model reads is part of
    /// the model's fingerprint.
    pub columns: BTreeMap<String, String>,
}

/// Plans every model of the project, in its order. `accepted` are the relations of the streams.
/// Warnings, and errors if the plans are not all there, are added to `found`.
pub fn plan_project(
    project: &Project,
    accepted: &BTreeMap<String, Relation>,
    found: &mut Diagnostics,
) -> Vec<Plan> {
    let planner = Planner::new();
    let mut known: BTreeMap<TableName, Known> = BTreeMap::new();
    let mut columns = Columns::new();
    for (stream, relation) in accepted {
        let name = TableName::new(ACCEPTED, stream);
        planner.register(&name, &relation.schema);
        columns.insert(name.clone(), sql_columns(&relation.schema));
        known.insert(name, Known::stream(stream, relation));
        let name = TableName::new(QUARANTINE, stream);
        planner.register(&name, &relation.set_aside);
        known.insert(name.clone(), Known::quarantine(&name, relation));
    }
    for seed in &project.seeds {
        planner.register(&seed.name, &seed.rows.schema());
        columns.insert(seed.name.clone(), sql_columns(&seed.rows.schema()));
        known.insert(seed.name.clone(), Known::seed(&seed.name));
    }
    let mut plans: Vec<Plan> = Vec::with_capacity(project.models.len());
    for model in &project.models {
        if model.refs.iter().any(|parent| !known.contains_key(parent)) {
            continue; // A parent could not be planned; its own error says why.
        }
        let late = model.asks_columns.then(|| project.with_columns(model, columns.clone()));
        let late = match late.transpose() {
            Ok(late) => late,
            Err(diagnostic) => {
                found.push(*diagnostic);
                continue;
            }
        };
        let model = late.as_ref().unwrap_or(model);
        match planner.plan(model, &known) {
            Ok(plan) => {
                columns.insert(model.name.clone(), sql_columns(&plan.schema));
                let is_stored = plan.class != Class::View;
                if let Some(name) = plan.tables.iter().find(|t| is_stored && t.schema == QUARANTINE)
                {
                    found.push(stores_quarantine(&plan, name));
                } else if plan.class == Class::Recompute && model.refuses_recompute {
                    found.push(refused(&plan));
                }
                let names: Vec<&str> =
                    plan.schema.fields().iter().map(|f| f.name().as_str()).collect();
                let (name, file) = (&model.name.name, model.described_in.as_deref());
                let described = model.columns.keys();
                check_described(name, described, &model.tested, file, &names, found);
                known.insert(model.name.clone(), Known::model(&plan));
                plans.push(plan);
            }
            Err(error) => {
                let read = model.sources.iter().map(|source| match source.schema.as_str() {
                    QUARANTINE => source.clone(),
                    _ => TableName::new(ACCEPTED, &source.name),
                });
                let read: Vec<TableName> = read.chain(model.refs.iter().cloned()).collect();
                let read = read.iter().filter_map(|name| known.get(name));
                let columns = read.flat_map(|known| known.columns.iter().map(String::as_str));
                found.push(describe(model, &error, &columns.collect::<Vec<_>>()));
            }
        }
    }
    plans
}

/// What the planner remembers of a relation.
struct Known {
    fingerprint: String,
    /// Whether it is part of what reads it, as if that had its SQL in it.
    is_view: bool,
    /// What decides the values of each column, where the fingerprint does not cover that.
    decided_by: BTreeMap<String, String>,
    rows: Rows,
    /// See [`Seen::is_side`].
    is_side: bool,
    streams: Vec<String>,
    columns: Vec<String>,
}

impl Known {
    fn stream(stream: &str, relation: &Relation) -> Self {
        Self {
            fingerprint: TableName::new(ACCEPTED, stream).to_string(),
            is_view: false,
            decided_by: relation.columns.clone(),
            rows: Rows::Arrive,
            is_side: false,
            streams: vec![stream.to_owned()],
            columns: names(&relation.schema),
        }
    }

    fn quarantine(name: &TableName, relation: &Relation) -> Self {
        Self {
            fingerprint: name.to_string(),
            is_view: false,
            decided_by: BTreeMap::new(),
            rows: Rows::Replaced,
            is_side: false,
            streams: vec![name.name.clone()],
            columns: names(&relation.set_aside),
        }
    }

    fn seed(name: &TableName) -> Self {
        // A seed's rows are no part of a fingerprint: a changed seed is a change like any other.
        Self {
            fingerprint: name.to_string(),
            is_view: false,
            decided_by: BTreeMap::new(),
            rows: Rows::Replaced,
            is_side: true,
            streams: Vec::new(),
            columns: Vec::new(),
        }
    }

    fn model(plan: &Plan) -> Self {
        Self {
            fingerprint: plan.fingerprint.clone(),
            is_view: plan.class == Class::View,
            decided_by: BTreeMap::new(),
            rows: match plan.class {
                Class::Append => Rows::Grow,
                Class::View | Class::Recompute => Rows::Replaced,
                _ => Rows::Change,
            },
            is_side: !plan.class.is_by_offset(),
            streams: plan.streams.clone(),
            columns: names(&plan.schema),
        }
    }

    fn seen(&self) -> Seen {
        let Self { rows, is_side, .. } = *self;
        Seen { rows, is_side, is_fed: !self.streams.is_empty() }
    }

    /// What it adds to the fingerprint of a model that reads these columns of it.
    fn fingerprint_of(&self, read: Option<&BTreeSet<String>>) -> String {
        let read =
            self.decided_by.iter().filter(|(name, _)| read.is_none_or(|r| r.contains(*name)));
        let columns: Vec<String> = read.map(|(name, by)| format!("{name} {by}")).collect();
        format!("{} {}", self.fingerprint, columns.join(","))
    }
}

fn names(schema: &SchemaRef) -> Vec<String> {
    schema.fields().iter().map(|field| field.name().clone()).collect()
}

struct Planner {
    state: SessionState,
    catalog: Arc<MemoryCatalogProvider>,
}

impl Planner {
    fn new() -> Self {
        let mut config =
            SessionConfig::new().with_default_catalog_and_schema(CATALOG, DEFAULT_SCHEMA);
        config.options_mut().sql_parser.collect_spans = true;
        let builder = SessionStateBuilder::new().with_config(config);
        let state = sql_limits::build(sql_ties::with_ties_broken(builder));
        let context = SessionContext::new_with_state(state);
        let catalog = Arc::new(MemoryCatalogProvider::new());
        context.register_catalog(CATALOG, Arc::<MemoryCatalogProvider>::clone(&catalog));
        Self { state: context.state(), catalog }
    }

    fn register(&self, name: &TableName, schema: &SchemaRef) {
        if let Ok(table) = MemTable::try_new(Arc::clone(schema), vec![vec![]]) {
            self.provide(name, Arc::new(table));
        }
    }

    fn provide(&self, name: &TableName, table: Arc<dyn TableProvider>) {
        if self.catalog.schema(&name.schema).is_none() {
            let empty = Arc::new(MemorySchemaProvider::new());
            self.catalog.register_schema(&name.schema, empty).ok();
        }
        if let Some(schema) = self.catalog.schema(&name.schema) {
            schema.register_table(name.name.clone(), table).ok();
        }
    }

    /// Plans a model and makes it known: a view as its SQL, which what reads it then has in it.
    fn plan(
        &self,
        model: &Model,
        known: &BTreeMap<TableName, Known>,
    ) -> Result<Plan, DataFusionError> {
        sql_guard::check(&model.sql, SQL_BYTES_MAX)
            .map_err(|error| DataFusionError::Plan(error.to_string()))?;
        // The relations are in memory, so planning never waits.
        let plan = futures::executor::block_on(self.state.create_logical_plan(&model.sql))?;
        if !matches!(plan, LogicalPlan::Statement(_) | LogicalPlan::Ddl(_) | LogicalPlan::Dml(_)) {
            check_columns(&plan)?;
            check_unnest(&plan)?;
        }
        let options = self.state.config_options();
        let sql = plan.clone();
        let analysed =
            self.state.analyzer().execute_and_check(plan, options.as_ref(), |_, _| {})?;
        let mut inputs = inputs(&analysed)?;
        let views = views(&analysed, known)?;
        // What is not known here is a table function such as generate_series().
        inputs.retain(|input| known.contains_key(&relation_name(input)));
        let schema = storable(analysed.schema().as_arrow());
        let seen = known.iter().map(|(name, known)| (name.clone(), known.seen())).collect();
        let Classified { class, reason, driving, program } = match model.materialized {
            Materialized::View => Classified::view(),
            Materialized::Table => classify(&analysed, &seen, &self.state, &schema)?,
        };
        let ties = sql_ties::decides(&analysed).then(|| "ties broken".to_owned());
        let read = columns_read(analysed, &self.state, DEFAULT_SCHEMA)?;
        let (mut streams, mut read_streams) = (BTreeSet::new(), BTreeSet::new());
        let mut tables = BTreeSet::new();
        let mut parts = vec![ENGINE.to_owned(), model.sql.clone(), class.to_string()];
        parts.push(format!("{schema:?}"));
        for input in &inputs {
            let name = relation_name(input);
            let Some(parent) = known.get(&name) else { continue };
            streams.extend(parent.streams.iter().cloned());
            parts.push(parent.fingerprint_of(read.get(&(name.schema.clone(), name.name.clone()))));
            match input {
                Input::Stream(stream) => drop(read_streams.insert(stream.clone())),
                Input::Table(_) => drop(tables.insert(name)),
            }
        }
        parts.extend(views.into_iter().chain(ties));
        let digest = fingerprint(parts.join("\u{1}").as_bytes());
        match model.materialized {
            Materialized::View => self.provide(&model.name, Arc::new(ViewTable::new(sql, None))),
            Materialized::Table => self.register(&model.name, &schema),
        }
        let input_of = |name: &TableName| inputs.iter().find(|input| relation_name(input) == *name);
        let driving = driving.iter().filter_map(input_of).cloned().collect();
        Ok(Plan {
            model: model.clone(),
            class,
            reason,
            driving,
            inputs,
            streams: streams.into_iter().collect(),
            read_streams: read_streams.into_iter().collect(),
            tables: tables.into_iter().collect(),
            schema,
            fingerprint: digest.iter().map(|byte| format!("{byte:02x}")).collect(),
            program,
        })
    }
}

fn relation_name(input: &Input) -> TableName {
    match input {
        Input::Stream(stream) => TableName::new(ACCEPTED, stream),
        Input::Table(name) => name.clone(),
    }
}

/// The relation that a plan of the planner scans.
pub(super) fn scanned_name(scan: &TableScan) -> TableName {
    relation_of(&scan.table_name)
}

/// The relation that SQL of a model names so.
pub fn relation_of(name: &TableReference) -> TableName {
    TableName::new(name.schema().unwrap_or(DEFAULT_SCHEMA), name.table())
}

/// `CROSS JOIN UNNEST(t.list)` is planned, but not run.
fn check_unnest(plan: &LogicalPlan) -> Result<(), DataFusionError> {
    plan.apply_with_subqueries(|node| {
        let LogicalPlan::Unnest(unnest) = node else { return Ok(TreeNodeRecursion::Continue) };
        let is_outer = |expr: &Expr| expr.contains_outer();
        let of_another =
            unnest.input.exists(|below| Ok(below.expressions().iter().any(is_outer)))?;
        if of_another {
            let text = "UNNEST over a column of another relation of the same FROM is not known: \
                        write SELECT …, unnest(list) FROM that relation";
            return Err(DataFusionError::Plan(text.to_owned()));
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(())
}

fn check_columns(plan: &LogicalPlan) -> Result<(), DataFusionError> {
    let mut seen = BTreeSet::new();
    for field in plan.schema().fields() {
        if field.name().starts_with("__") {
            let text = format!("column `{}`: names beginning with __ are Sluice's", field.name());
            return Err(DataFusionError::Plan(text));
        }
        if !seen.insert(field.name().to_lowercase()) {
            let text = format!("column `{}` stands twice in the result", field.name());
            return Err(DataFusionError::Plan(text));
        }
        if field.name().contains([' ', ',', ';', '{', '}', '(', ')', '\n', '\t', '=']) {
            let text = format!("column `{}` needs a plain name: add `AS name`", field.name());
            return Err(DataFusionError::Plan(text));
        }
    }
    Ok(())
}

/// The relations that a plan scans, subqueries included.
fn inputs(plan: &LogicalPlan) -> Result<Vec<Input>, DataFusionError> {
    let mut inputs = BTreeSet::new();
    plan.apply_with_subqueries(|node| {
        match node {
            LogicalPlan::TableScan(scan) => {
                let name = scanned_name(scan);
                inputs.insert(if name.schema == ACCEPTED {
                    Input::Stream(name.name)
                } else {
                    Input::Table(name)
                });
            }
            LogicalPlan::Ddl(_)
            | LogicalPlan::Dml(_)
            | LogicalPlan::Copy(_)
            | LogicalPlan::Statement(_)
            | LogicalPlan::Explain(_)
            | LogicalPlan::Analyze(_) => {
                let text = "a model is one SELECT".to_owned();
                return Err(DataFusionError::Plan(text));
            }
            _ => {}
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(inputs.into_iter().collect())
}

/// The fingerprints of the views that a plan has in it, subqueries included.
fn views(
    plan: &LogicalPlan,
    known: &BTreeMap<TableName, Known>,
) -> Result<BTreeSet<String>, DataFusionError> {
    let mut found = BTreeSet::new();
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::SubqueryAlias(alias) = node {
            let view = known.get(&relation_of(&alias.alias)).filter(|known| known.is_view);
            found.extend(view.map(|view| view.fingerprint.clone()));
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(found)
}
