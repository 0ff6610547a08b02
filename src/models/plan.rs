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
        KeptProgram, TestPlan, UnitPlan,
        append::RowProgram,
        class::Class,
        classify::{Classified, classify},
        constants::check_constants,
        diagnose::{describe, refused, stores_quarantine},
        known::Known,
        lineage::{Origin, lineage},
        reads::columns_read,
        types::{sql_columns, storable},
    },
    project::{
        Columns, Diagnostic, Diagnostics, FAILURES, Materialized, Model, Project, QUARANTINE,
        check_described,
    },
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
    /// Per column, the columns that its values are made of.
    pub lineage: BTreeMap<String, BTreeSet<Origin>>,
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

/// The plans of a project.
#[derive(Default)]
pub struct Plans {
    /// In the project's order.
    pub models: Vec<Plan>,
    pub tests: Vec<TestPlan>,
    pub unit_tests: Vec<UnitPlan>,
}

/// Plans every model and data test of the project. `accepted` are the relations of the streams.
/// Warnings, and errors if the plans are not all there, are added to `found`.
pub fn plan_project(
    project: &Project,
    accepted: &BTreeMap<String, Relation>,
    found: &mut Diagnostics,
) -> Plans {
    let mut planning = Planning::new(project, accepted);
    let models = project.models.iter().filter_map(|model| planning.model(model, found)).collect();
    let tests = project.tests.iter().filter_map(|test| planning.test(test, found)).collect();
    let units = project.unit_tests.iter();
    let unit_tests = units.filter_map(|test| planning.unit(test, found)).collect();
    Plans { models, tests, unit_tests }
}

/// Planning under way.
pub(super) struct Planning<'a> {
    pub project: &'a Project,
    pub planner: Planner,
    /// Relations by name, those that could be planned.
    pub known: BTreeMap<TableName, Known>,
    /// Their columns, as templates ask for them.
    columns: Columns,
}

impl<'a> Planning<'a> {
    fn new(project: &'a Project, accepted: &BTreeMap<String, Relation>) -> Self {
        let planner = Planner::new();
        let (mut known, mut columns) = (BTreeMap::new(), Columns::new());
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
            known.insert(seed.name.clone(), Known::seed(seed));
        }
        Self { project, planner, known, columns }
    }

    /// The plan of a model, which is known from then on.
    fn model(&mut self, model: &Model, found: &mut Diagnostics) -> Option<Plan> {
        let plan = match self.query(model)? {
            Ok(plan) => plan,
            Err(diagnostic) => {
                found.push(*diagnostic);
                return None;
            }
        };
        let model = &plan.model;
        self.columns.insert(model.name.clone(), sql_columns(&plan.schema));
        let is_stored = plan.class != Class::View;
        if let Some(name) = plan.tables.iter().find(|t| is_stored && t.schema == QUARANTINE) {
            found.push(stores_quarantine(&plan, name));
        } else if plan.class == Class::Recompute && model.refuses_recompute {
            found.push(refused(&plan));
        }
        let names: Vec<&str> = plan.schema.fields().iter().map(|f| f.name().as_str()).collect();
        let (name, file) = (&model.name.name, model.described_in.as_deref());
        check_described(name, model.columns.keys(), &model.tested, file, &names, found);
        self.planner.provide_model(&plan);
        self.known.insert(model.name.clone(), Known::model(&plan));
        Some(plan)
    }

    /// The plan of a query of the project; `None` where a parent could not be planned, whose own error
    /// says why.
    pub(super) fn query(&self, model: &Model) -> Option<Result<Plan, Box<Diagnostic>>> {
        if model.reads().any(|parent| !self.known.contains_key(&parent)) {
            return None;
        }
        let late = model.asks_columns.then(|| self.late(model));
        let late = match late.transpose() {
            Ok(late) => late,
            Err(diagnostic) => return Some(Err(diagnostic)),
        };
        let model = late.as_ref().unwrap_or(model);
        let plan = self.planner.plan(model, &self.known);
        Some(plan.map_err(|error| Box::new(self.described(model, &error))))
    }

    /// A model whose SQL depends on columns: those of what it reads, and its query's own.
    fn late(&self, model: &Model) -> Result<Model, Box<Diagnostic>> {
        let model = self.project.with_columns(model, self.columns.clone())?;
        if !model.is_open {
            return Ok(model);
        }
        let query = self.planner.logical(&model.sql);
        let query = query.map_err(|error| Box::new(self.described(&model, &error)))?;
        let columns: Vec<String> =
            query.schema().fields().iter().map(|field| field.name().clone()).collect();
        self.project.with_own_columns(&model, &columns)
    }

    /// An error of the engine about a query, placed in its text.
    fn described(&self, model: &Model, error: &DataFusionError) -> Diagnostic {
        let read: Vec<TableName> = model.reads().collect();
        let read = read.iter().filter_map(|name| self.known.get(name));
        let columns = read.flat_map(Known::columns);
        describe(model, error, &columns.collect::<Vec<_>>())
    }
}

pub(super) struct Planner {
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

    /// Makes a model known: a view as its SQL, which what reads it then has in it.
    fn provide_model(&self, plan: &Plan) {
        let Plan { model, schema, .. } = plan;
        match model.materialized {
            Materialized::Table => self.register(&model.name, schema),
            // It was planned just now.
            Materialized::View => {
                if let Ok(plan) = self.logical(&model.sql) {
                    self.provide(&model.name, Arc::new(ViewTable::new(plan, None)));
                }
            }
        }
    }

    /// The plan of SQL as it stands. The relations are in memory, so planning never waits.
    pub(super) fn logical(&self, sql: &str) -> Result<LogicalPlan, DataFusionError> {
        sql_guard::check(sql, SQL_BYTES_MAX)
            .map_err(|error| DataFusionError::Plan(error.to_string()))?;
        futures::executor::block_on(self.state.create_logical_plan(sql))
    }

    /// Plans a model.
    fn plan(
        &self,
        model: &Model,
        known: &BTreeMap<TableName, Known>,
    ) -> Result<Plan, DataFusionError> {
        let plan = self.logical(&model.sql)?;
        if !matches!(plan, LogicalPlan::Statement(_) | LogicalPlan::Ddl(_) | LogicalPlan::Dml(_)) {
            if model.name.schema != FAILURES {
                check_columns(&plan)?;
            }
            check_unnest(&plan)?;
        }
        let lineage = lineage(&plan)?;
        let options = self.state.config_options();
        let analysed =
            self.state.analyzer().execute_and_check(plan, options.as_ref(), |_, _| {})?;
        check_constants(&analysed)?;
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
            lineage,
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
