//! How a project's tables, views and positions are named, for whoever opens or checks them.

use std::{collections::BTreeMap, sync::Arc};

use arrow::datatypes::SchemaRef;
use datafusion::{
    catalog::{Session, TableProvider},
    datasource::{TableType, ViewTable, provider_as_source},
    error::DataFusionError,
    logical_expr::LogicalPlanBuilder,
    physical_plan::ExecutionPlan,
    prelude::{Expr, ident, lit},
};

use crate::{
    bronze::{
        Judge, accepted_schema, accepted_sql, bronze_view_schema, bronze_view_sql, decode_udf,
    },
    domain::{ACCEPTED, Offset, Partition, Positions, TableName},
    lake::{
        Committed, Derive, LakeView, Overlay, RelationInfo, RelationKind, TableState, ViewState,
    },
    models::{Class, Plan, TestPlan},
    process::{
        Planned,
        events::Events,
        quarantine::{self, decisions_view, quarantine_view},
    },
    project::{Model, QUARANTINE},
};

/// Schema under which Bronze is read as stored; `bronze` is the decoded view.
pub(super) const RAW: &str = "_bronze";
pub(super) const ACCEPTANCE: &str = "_acceptance";
/// Schema under which quarantine is read as stored; `quarantine` is what is not decided on yet.
pub(super) const QUARANTINED: &str = "_quarantine";
/// The columns that hold the place of a row of Bronze and of acceptance.
pub const BRONZE_COLUMNS: (&str, &str) = ("_partition", "_offset");
/// Schema under which the events of records that may hold arrays are read.
const EVENTS: &str = "_events";
/// Position of a seed: a number made of its digest. Persisted: must stay stable.
pub const SEED_DIGEST: &str = "in/seed";

/// Where Bronze is stored.
pub fn bronze_table(stream: &str) -> TableName {
    TableName::new("bronze", stream)
}

/// The name under which Bronze is read as stored.
pub fn raw_name(stream: &str) -> TableName {
    TableName::new(RAW, stream)
}

/// The events of a stream whose records may hold arrays, made of its `bronze`; `None` where records
/// are events.
pub fn events_of(judge: &Arc<Judge>, bronze: TableName) -> Option<(TableName, Arc<dyn Derive>)> {
    let contract = judge.contract();
    contract.takes_arrays.then(|| {
        let events: Arc<dyn Derive> = Arc::new(Events::new(Arc::clone(judge), bronze));
        (TableName::new(EVENTS, &contract.name), events)
    })
}

/// The name under which a view has the records of a stream, each event by itself.
pub(super) fn events_in(view: &LakeView, stream: &str) -> TableName {
    let events = TableName::new(EVENTS, stream);
    if view.derived.contains_key(&events) { events } else { raw_name(stream) }
}

/// The tables of a stream itself: Bronze, acceptance, quarantine.
pub fn stored_of(stream: &str) -> [TableName; 3] {
    [bronze_table(stream), TableName::new(ACCEPTANCE, stream), TableName::new("quarantine", stream)]
}

/// Position of an input that is read by version. Persisted: must stay stable.
pub fn read_id(table_id: &str) -> String {
    format!("in/{table_id}")
}

/// The value under [`SEED_DIGEST`].
pub fn seed_position(digest: &str) -> i64 {
    i64::from_str_radix(digest.get(..15).unwrap_or("0"), 16).unwrap_or_default()
}

/// Stream and partition of an app id that counts offsets of a log, in Bronze or in what reads it.
pub fn stream_position(app_id: &str, is_bronze: bool) -> Option<(&str, Partition)> {
    let place = match (app_id.split_once('/')?, is_bronze) {
        (("in", place), false) => place,
        (("in" | "log" | "retired" | "shift" | "sluice", _), _) | (_, false) => return None,
        (_, true) => app_id,
    };
    let (log_and_stream, partition) = place.rsplit_once('/')?;
    let (_, stream) = log_and_stream.rsplit_once('/')?;
    Some((stream, partition.parse().ok()?))
}

/// What readers are told about a model.
pub(super) fn model_info(model: &Model) -> RelationInfo {
    RelationInfo {
        name: model.name.clone(),
        kind: RelationKind::Model,
        description: model.description.clone(),
        columns: model.columns.clone(),
    }
}

/// A model that is computed when it is read.
fn model_view(plan: &Plan) -> ViewState {
    let model = &plan.model;
    ViewState {
        info: Arc::new(model_info(model)),
        schema: Arc::clone(&plan.schema),
        sql: model.sql.clone(),
        reads: stored_behind(plan),
    }
}

/// The stored tables that a query of the project reads, directly or through views.
pub(super) fn stored_behind(plan: &Plan) -> Vec<TableName> {
    let accepted = plan.read_streams.iter();
    let raw = accepted.flat_map(|s| [TableName::new(RAW, s), TableName::new(ACCEPTANCE, s)]);
    let stored = plan.tables.iter().flat_map(|table| match table.schema.as_str() {
        QUARANTINE => quarantine::reads(&table.name).to_vec(),
        _ => vec![table.clone()],
    });
    stored.chain(raw).collect()
}

/// The views of a project and the functions that they call, over no tables yet.
pub fn base_view(planned: &Planned) -> LakeView {
    let mut base = LakeView::default();
    let mut union = Vec::new();
    for judge in &planned.judges {
        let contract = judge.contract();
        let raw = TableName::new(RAW, &contract.name);
        let acceptance = TableName::new(ACCEPTANCE, &contract.name);
        base.derived.extend(events_of(judge, raw.clone()));
        let events = quoted(&events_in(&base, &contract.name));
        base.functions.push(Arc::new(decode_udf(Arc::clone(judge))));
        base.partitions.insert(contract.name.clone(), contract.partitions);
        let fields = contract.fields.iter().map(|f| (f.name.clone(), f.description.clone()));
        let bronze = ViewState {
            info: Arc::new(RelationInfo {
                name: TableName::new("bronze", &contract.name),
                kind: RelationKind::Bronze,
                description: contract.description.clone(),
                columns: fields.collect(),
            }),
            schema: bronze_view_schema(contract),
            sql: bronze_view_sql(contract, &events),
            reads: vec![raw.clone()],
        };
        let accepted = ViewState {
            info: Arc::new(RelationInfo {
                name: TableName::new(ACCEPTED, &contract.name),
                kind: RelationKind::Internal,
                description: String::new(),
                columns: BTreeMap::new(),
            }),
            schema: accepted_schema(contract),
            sql: accepted_sql(contract, &events, &quoted(&acceptance)),
            reads: vec![raw, acceptance.clone()],
        };
        union.push((contract.name.clone(), acceptance));
        for view in [bronze, accepted, quarantine_view(contract)] {
            base.views.insert(view.info.name.clone(), Arc::new(view));
        }
    }
    if !union.is_empty() {
        let streams: Vec<String> = union.iter().map(|(stream, _)| stream.clone()).collect();
        for view in [acceptance_view(&union), decisions_view(&streams)] {
            base.views.insert(view.info.name.clone(), Arc::new(view));
        }
    }
    for plan in planned.plans.iter().filter(|plan| plan.class == Class::View) {
        base.views.insert(plan.model.name.clone(), Arc::new(model_view(plan)));
    }
    for TestPlan { test, plan } in planned.tests.iter().filter(|plan| plan.test.shows_failures) {
        let view = model_view(plan);
        let description = format!("What test {} ({}) finds now", test.name, test.kind);
        let info = Arc::new(RelationInfo { description, ..RelationInfo::clone(&view.info) });
        base.views.insert(plan.model.name.clone(), Arc::new(ViewState { info, ..view }));
    }
    base
}

/// `system.acceptance`: what became of every record.
fn acceptance_view(tables: &[(String, TableName)]) -> ViewState {
    use arrow::datatypes::{DataType, Field, Schema};
    let selects = tables.iter().map(|(stream, table)| {
        format!(
            "SELECT '{stream}' AS stream, \"_partition\" AS \"partition\", \"_offset\" AS \
             \"offset\", \"_index\" AS \"index\", \"_event_id\" AS event_id, verdict FROM {}",
            quoted(table)
        )
    });
    let schema = Schema::new(vec![
        Field::new("stream", DataType::Utf8, true),
        Field::new("partition", DataType::Int32, true),
        Field::new("offset", DataType::Int64, true),
        Field::new("index", DataType::Int32, true),
        Field::new("event_id", DataType::Utf8, true),
        Field::new("verdict", DataType::Utf8, true),
    ]);
    ViewState {
        info: Arc::new(RelationInfo {
            name: TableName::new("system", "acceptance"),
            kind: RelationKind::System,
            description: "What became of every record: accepted, repeat or quarantined".into(),
            columns: BTreeMap::new(),
        }),
        schema: Arc::new(schema),
        sql: selects.collect::<Vec<_>>().join(" UNION ALL "),
        reads: tables.iter().map(|(_, table)| table.clone()).collect(),
    }
}

/// The rows of `provider` up to the last offset that `reach` names per partition; the columns hold
/// a row's place.
pub fn limited(
    provider: Arc<dyn TableProvider>,
    (partition, offset): (&str, &str),
    reach: &BTreeMap<Partition, Offset>,
) -> Result<Arc<dyn TableProvider>, DataFusionError> {
    let within = reach.iter().map(|(number, last)| {
        let here = ident(partition).eq(lit(i32::try_from(*number).unwrap_or(i32::MAX)));
        here.and(ident(offset).lt_eq(lit(*last)))
    });
    let filter = within.reduce(Expr::or).unwrap_or_else(|| lit(false));
    let scan = LogicalPlanBuilder::scan("t", provider_as_source(provider), None)?;
    Ok(Arc::new(Part(ViewTable::new(scan.filter(filter)?.build()?, None))))
}

/// Part of a table, to be planned by itself: inlined, the optimiser loses the casts of its columns.
#[derive(Debug)]
struct Part(ViewTable);

#[async_trait::async_trait]
impl TableProvider for Part {
    fn schema(&self) -> SchemaRef {
        self.0.schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        self.0.scan(state, projection, filters, limit).await
    }
}

/// A table as one version of it, or a part of that, for a view of its own.
pub fn pinned(
    name: &TableName,
    schema: &SchemaRef,
    version: u64,
    provider: Arc<dyn TableProvider>,
) -> Arc<TableState> {
    Arc::new(TableState {
        info: Arc::new(RelationInfo {
            name: name.clone(),
            kind: RelationKind::Internal,
            description: String::new(),
            columns: BTreeMap::new(),
        }),
        schema: Arc::clone(schema),
        committed: Some(Committed {
            version,
            provider,
            history: None,
            rows: 0,
            files: 0,
            bytes: 0,
        }),
        overlay: Overlay::None,
        streams: Vec::new(),
        positions: Positions::default(),
    })
}

pub(super) fn quoted(name: &TableName) -> String {
    format!("\"{}\".\"{}\"", name.schema, name.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_of_streams_are_told_from_others() {
        let bronze = |app_id| stream_position(app_id, true);
        let others = |app_id| stream_position(app_id, false);
        assert_eq!(bronze("a1b2/orders/3"), Some(("orders", 3)));
        assert_eq!(bronze("kafka/cluster/topic/2/orders/0"), Some(("orders", 0)));
        assert_eq!(others("in/kafka/cluster/topic/2/orders/11"), Some(("orders", 11)));
        for app_id in ["log/a1b2/orders", "shift/a1b2/orders/1", "retired/a1b2/orders", "in/seed"] {
            assert_eq!((bronze(app_id), others(app_id)), (None, None), "{app_id}");
        }
        let table = read_id("9b2e2a5e-0000-4000-8000-000000000000");
        assert_eq!((bronze(&table), others(&table)), (None, None));
    }
}
