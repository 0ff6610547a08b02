//! What drives models that are kept by changes, scanned; and plans of the planner, run over a view.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use arrow::{array::RecordBatch, datatypes::SchemaRef};
use datafusion::{
    catalog::TableProvider,
    common::tree_node::{Transformed, TreeNode as _, TreeNodeRecursion},
    datasource::{MemTable, provider_as_source},
    error::DataFusionError,
    execution::{SendableRecordBatchStream, runtime_env::RuntimeEnv},
    logical_expr::{LogicalPlan, LogicalPlanBuilder},
    prelude::{SessionConfig, SessionContext},
};

use crate::{
    bronze::accepted_schema,
    domain::{ACCEPTED, TableName, change::KEY},
    lake::{
        LakeView, OFFSET, PARTITION,
        session::{Columns, session},
    },
    models::{Input, Side, relation_of, storable_batch, with_key},
    process::{
        Error, Planned,
        relations::{BRONZE_COLUMNS, quoted},
        rows::{INDEX, place_keys},
    },
};

/// The relation whose rows drive a model.
pub(crate) struct Driving {
    name: TableName,
    schema: SchemaRef,
    /// The columns that hold a row's place or key.
    place: Vec<&'static str>,
}

impl Driving {
    pub(crate) fn of(planned: &Planned, input: &Input) -> Result<Self, Error> {
        let missing = || Error::Internal("a model's input is not planned".to_owned());
        match input {
            Input::Stream(stream) => {
                let mut judges = planned.judges.iter().map(|judge| judge.contract());
                let contract = judges.find(|contract| contract.name == *stream);
                let (partition, offset) = BRONZE_COLUMNS;
                Ok(Self {
                    name: TableName::new(ACCEPTED, stream),
                    schema: accepted_schema(contract.ok_or_else(missing)?),
                    place: vec![partition, offset, "_index"],
                })
            }
            Input::Table(name) => {
                let mut plans = planned.plans.iter();
                let plan = plans.find(|plan| plan.model.name == *name).ok_or_else(missing)?;
                let place = match plan.class.is_by_offset() {
                    true => vec![PARTITION, OFFSET, INDEX],
                    false => vec![KEY],
                };
                Ok(Self { name: name.clone(), schema: Arc::clone(&plan.schema), place })
            }
        }
    }

    pub(super) fn sql(&self) -> String {
        let columns = self.schema.fields().iter().map(|field| field.name().as_str());
        let columns = columns.chain(self.place.iter().copied());
        // A place may be among the columns that models see.
        let columns = columns.enumerate().map(|(number, name)| {
            let name = name.replace('"', "\"\"");
            format!("\"{name}\" AS c{number}")
        });
        format!("SELECT {} FROM {}", columns.collect::<Vec<_>>().join(", "), quoted(&self.name))
    }

    /// All of its rows in `view`, to be told apart by [`Driving::keyed`].
    pub(super) async fn rows(
        &self,
        view: &Arc<LakeView>,
    ) -> Result<SendableRecordBatchStream, DataFusionError> {
        let context = session(view, Columns::All, one_core(), Arc::new(RuntimeEnv::default()));
        context.sql(&self.sql()).await?.execute_stream().await
    }

    /// Some of its rows as a relation, by name.
    fn given(&self, rows: &[RecordBatch]) -> Result<(TableName, Given), DataFusionError> {
        let visible: Vec<usize> = (0..self.schema.fields().len()).collect();
        let rows = rows.iter().map(|rows| storable_batch(&rows.project(&visible)?, &self.schema));
        let rows = rows.collect::<Result<Vec<_>, _>>()?;
        let rows = MemTable::try_new(Arc::clone(&self.schema), vec![rows])?;
        Ok((self.name.clone(), Arc::new(rows)))
    }

    /// Scanned rows as models take them in, and the places of those that have one.
    pub(super) fn keyed(
        &self,
        rows: &RecordBatch,
    ) -> Result<(RecordBatch, Option<RecordBatch>), Error> {
        let width = self.schema.fields().len();
        let visible: Vec<usize> = (0..width).collect();
        let visible = storable_batch(&rows.project(&visible)?, &self.schema)?;
        if self.place.len() == 1 {
            let keys =
                arrow::compute::cast(rows.column(width), &arrow::datatypes::DataType::Binary)?;
            return Ok((with_key(&visible, keys)?, None));
        }
        let places = rows.project(&[width, width + 1, width + 2])?;
        Ok((with_key(&visible, Arc::new(place_keys(&places)?))?, Some(places)))
    }
}

/// A relation in place of one of the view.
type Given = Arc<dyn TableProvider>;

/// What `plan` makes of some rows of each of its inputs, and of other relations in `view`.
pub(crate) async fn computed_of(
    view: &Arc<LakeView>,
    plan: &LogicalPlan,
    inputs: &[(&Driving, Vec<RecordBatch>)],
) -> Result<Vec<RecordBatch>, DataFusionError> {
    let context = session(view, Columns::Model, one_core(), Arc::new(RuntimeEnv::default()));
    let given = inputs.iter().map(|(driving, rows)| driving.given(rows));
    let plan = bound(&context, plan, &given.collect::<Result<_, _>>()?).await?;
    context.execute_logical_plan(plan).await?.collect().await
}

/// What sides hold in `view`.
pub(super) async fn computed(
    view: &Arc<LakeView>,
    sides: &[Side],
) -> Result<Vec<Vec<RecordBatch>>, DataFusionError> {
    let context = session(view, Columns::Model, one_core(), Arc::new(RuntimeEnv::default()));
    let mut all = Vec::new();
    for side in sides {
        let plan = bound(&context, &side.plan, &BTreeMap::new()).await?;
        all.push(context.execute_logical_plan(plan).await?.collect().await?);
    }
    Ok(all)
}

/// Work beside the micro-batches takes one core.
fn one_core() -> SessionConfig {
    SessionConfig::new().with_target_partitions(1)
}

/// A plan of the planner, over the relations of a session; those `given` stand for some of them.
async fn bound(
    context: &SessionContext,
    plan: &LogicalPlan,
    given: &BTreeMap<TableName, Given>,
) -> Result<LogicalPlan, DataFusionError> {
    let mut names = BTreeSet::new();
    plan.apply(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            names.insert(scan.table_name.clone());
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    let mut sources = BTreeMap::new();
    for name in names {
        let provider = match given.get(&relation_of(&name)) {
            Some(provider) => Arc::clone(provider),
            None => context.table_provider(name.clone()).await?,
        };
        sources.insert(name, provider_as_source(provider));
    }
    let bound = plan.clone().transform_up(|node| match &node {
        LogicalPlan::TableScan(scan) => match sources.get(&scan.table_name) {
            Some(source) => {
                let (name, columns) = (scan.table_name.clone(), scan.projection.clone());
                let scan = LogicalPlanBuilder::scan(name, Arc::clone(source), columns)?;
                Ok(Transformed::yes(scan.build()?))
            }
            None => Ok(Transformed::no(node)),
        },
        _ => Ok(Transformed::no(node)),
    })?;
    Ok(bound.data)
}
