//! A DataFusion session over one [`LakeView`].

use std::{borrow::Cow, sync::Arc};

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::{
    catalog::{CatalogProvider, MemTable, SchemaProvider, Session, TableProvider},
    datasource::{TableType, ViewTable, provider_as_source},
    error::{DataFusionError, Result},
    execution::{SessionState, SessionStateBuilder, runtime_env::RuntimeEnv},
    logical_expr::{
        Expr, LogicalPlan, LogicalPlanBuilder, ScalarUDF, TableProviderFilterPushDown, cast, col,
    },
    physical_plan::ExecutionPlan,
    prelude::{SessionConfig, SessionContext, ident},
};

use crate::{
    domain::{TableName, change::KEY, sql_limits, sql_ties::with_ties_broken},
    lake::view::{LakeView, Overlay, TableState, is_hidden},
};

/// The one catalog.
pub const CATALOG: &str = "sluice";
/// Where unqualified names are looked up.
pub const DEFAULT_SCHEMA: &str = "gold";

/// Which columns a session shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Columns {
    /// What clients see: neither hidden columns nor internal relations.
    Visible,
    /// What models see: no hidden columns, but the accepted rows of streams.
    Model,
    /// The hidden ones too: for Sluice itself.
    All,
}

/// A session in which every relation of `view` can be queried. Plans made in it stay pinned to that
/// view.
pub fn session(
    view: &Arc<LakeView>,
    columns: Columns,
    config: SessionConfig,
    runtime: Arc<RuntimeEnv>,
) -> SessionContext {
    SessionContext::new_with_state(state(view, columns, config, runtime))
}

fn state(
    view: &Arc<LakeView>,
    columns: Columns,
    config: SessionConfig,
    runtime: Arc<RuntimeEnv>,
) -> SessionState {
    let mut config = config.with_default_catalog_and_schema(CATALOG, DEFAULT_SCHEMA);
    // It moves `decode(payload)['a']` down as a whole, so that each column decodes for itself.
    config.options_mut().optimizer.enable_leaf_expression_pushdown = false;
    let mut builder = SessionStateBuilder::new().with_config(config).with_runtime_env(runtime);
    if columns == Columns::Model {
        builder = with_ties_broken(builder);
    }
    let context = SessionContext::new_with_state(sql_limits::build(builder));
    for function in &view.functions {
        context.register_udf(ScalarUDF::clone(function));
    }
    context.register_catalog(CATALOG, Arc::new(Catalog { view: Arc::clone(view), columns }));
    context.state()
}

#[derive(Debug)]
struct Catalog {
    view: Arc<LakeView>,
    columns: Columns,
}

impl CatalogProvider for Catalog {
    fn schema_names(&self) -> Vec<String> {
        let view = &self.view;
        let tables = view.tables.keys().chain(view.views.keys()).chain(view.derived.keys());
        let mut names: Vec<String> = tables.map(|name| name.schema.clone()).collect();
        names.push(DEFAULT_SCHEMA.to_owned());
        names.sort();
        names.dedup();
        names
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        self.schema_names().iter().any(|known| known == name).then(|| {
            Arc::new(LakeSchema {
                view: Arc::clone(&self.view),
                columns: self.columns,
                name: name.to_owned(),
            }) as Arc<dyn SchemaProvider>
        })
    }
}

#[derive(Debug)]
struct LakeSchema {
    view: Arc<LakeView>,
    columns: Columns,
    name: String,
}

#[async_trait]
impl SchemaProvider for LakeSchema {
    fn table_names(&self) -> Vec<String> {
        if self.columns == Columns::Visible {
            let relations = self.view.relations().into_iter();
            let mine = relations.filter(|(info, _)| info.name.schema == self.name);
            return mine.map(|(info, _)| info.name.name.clone()).collect();
        }
        let view = &self.view;
        let all = view.tables.keys().chain(view.views.keys()).chain(view.derived.keys());
        all.filter(|name| name.schema == self.name).map(|name| name.name.clone()).collect()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        let name = TableName::new(&self.name, name);
        if self.columns == Columns::Visible && self.view.is_internal(&name) {
            return Ok(None);
        }
        if let Some(table) = self.view.tables.get(&name) {
            return table_provider(table, self.columns).map(Some);
        }
        if let Some(derived) = self.view.derived.get(&name) {
            let Some(table) = self.view.tables.get(derived.table()) else { return Ok(None) };
            return Ok(Some(derived.over(table_provider(table, Columns::All)?)));
        }
        let Some(found) = self.view.views.get(&name) else { return Ok(None) };
        let config = SessionConfig::new();
        let state = state(&self.view, Columns::All, config, Arc::new(RuntimeEnv::default()));
        let plan = state.create_logical_plan(&found.sql).await?;
        Ok(Some(Arc::new(ViewTable::new(plan, Some(found.sql.clone())))))
    }

    fn table_exist(&self, name: &str) -> bool {
        self.table_names().iter().any(|known| known == name)
    }
}

impl std::fmt::Debug for LakeView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LakeView").field("positions", &self.positions).finish_non_exhaustive()
    }
}

/// Snapshot and overlay of a table as one provider, in the types of the table's schema.
pub fn table_provider(table: &TableState, columns: Columns) -> Result<Arc<dyn TableProvider>> {
    let shown: Vec<&str> = table
        .schema
        .fields()
        .iter()
        .map(|field| field.name().as_str())
        .filter(|name| columns == Columns::All || !is_hidden(name))
        .collect();
    let (is_snapshot_shown, hot) = match &table.overlay {
        Overlay::None => (true, None),
        Overlay::Append(batches) => (true, Some(batches.clone())),
        Overlay::Replace(batches) => (false, Some(batches.clone())),
        Overlay::Patches(patches) => (true, Some(patches.rows()?.to_vec())),
    };
    let mut plan: Option<LogicalPlan> = None;
    if let Some(committed) = table.committed.as_ref().filter(|_| is_snapshot_shown) {
        plan = Some(cold(Arc::clone(&committed.provider), table, &shown)?);
    }
    if hot.is_some() || plan.is_none() {
        let batches = hot.unwrap_or_default();
        let hot = MemTable::try_new(Arc::clone(&table.schema), vec![batches])?;
        let hot = projected(Arc::new(hot), &table.schema, &shown)?;
        plan = Some(match plan {
            Some(cold) => LogicalPlanBuilder::from(cold).union(hot)?.build()?,
            None => hot,
        });
    }
    let plan = plan.ok_or_else(|| DataFusionError::Internal("a table without a plan".into()))?;
    Ok(Arc::new(Stored(ViewTable::new(plan, None))))
}

/// A stored table: written as a plan over snapshot and overlay, but listed as a table.
#[derive(Debug)]
struct Stored(ViewTable);

#[async_trait]
impl TableProvider for Stored {
    fn schema(&self) -> SchemaRef {
        self.0.schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn get_logical_plan(&self) -> Option<Cow<'_, LogicalPlan>> {
        self.0.get_logical_plan()
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        self.0.supports_filters_pushdown(filters)
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.0.scan(state, projection, filters, limit).await
    }
}

/// The columns `shown` of a snapshot, without the rows that patches replace.
fn cold(
    provider: Arc<dyn TableProvider>,
    table: &TableState,
    shown: &[&str],
) -> Result<LogicalPlan> {
    let patches = match &table.overlay {
        Overlay::Patches(patches) if !patches.only_add() => patches,
        _ => return projected(provider, &table.schema, shown),
    };
    let others = shown.iter().copied().filter(|name| *name != KEY);
    let with_key: Vec<&str> = [KEY].into_iter().chain(others).collect();
    let all = LogicalPlanBuilder::from(projected(provider, &table.schema, &with_key)?);
    let kept = all.filter(patches.is_unpatched(ident(KEY))?)?;
    kept.project(shown.iter().map(|name| ident(*name)))?.build()
}

/// The columns `shown` of a provider, cast to the types that `schema` declares.
fn projected(
    provider: Arc<dyn TableProvider>,
    schema: &SchemaRef,
    shown: &[&str],
) -> Result<LogicalPlan> {
    let actual = provider.schema();
    let scan = LogicalPlanBuilder::scan("t", provider_as_source(provider), None)?;
    let columns = shown.iter().map(|name| {
        let wanted = schema.field_with_name(name)?.data_type();
        let column = col(format!("t.\"{name}\""));
        Ok(match actual.field_with_name(name)?.data_type() {
            same if same == wanted => column,
            _ => cast(column, wanted.clone()).alias(*name),
        })
    });
    let columns = columns.collect::<Result<Vec<_>>>()?;
    scan.project(columns)?.build()
}
