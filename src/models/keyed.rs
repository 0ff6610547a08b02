//! *keyed*: of the rows of each key, the one that comes first in an order.
//!
//! Written as `row_number() OVER (PARTITION BY … ORDER BY …) = 1` over rows that only come. The
//! order decides, so it does not matter when a row arrives. Each row of the table keeps its place in
//! the order in a hidden column.

use std::{collections::HashMap, sync::Arc};

use arrow::{
    array::{ArrayRef, AsArray as _, BinaryArray, RecordBatch, UInt32Array, UInt64Array},
    compute::{SortOptions, take_record_batch},
    datatypes::{DataType, SchemaRef},
    row::{OwnedRow, RowConverter, SortField},
};
use datafusion::{
    common::ScalarValue,
    error::DataFusionError,
    execution::SessionState,
    logical_expr::{
        BinaryExpr, Expr, ExprSchemable as _, LogicalPlan, Operator, Window,
        expr::{Sort, WindowFunction},
    },
    physical_expr::PhysicalExpr,
};
use foldhash::fast::RandomState;

use crate::{
    domain::{
        change::{Change, KEY, Patch},
        sql_ties::PLACE,
    },
    models::{
        Applied, KeptProgram, KeptState, ProgramError,
        kept::with_hidden,
        steps::{Steps, evaluate, named, physical},
        types::{decoded, storable_batch},
    },
};

/// Column of the table: the place of the row in the order of its key. Persisted.
const ORDER: &str = "__order";
/// The first row of each key, compiled.
#[derive(Debug)]
pub(super) struct KeyedProgram {
    /// From rows of the input to the rows that are ranked.
    input: Steps,
    keys: Vec<Arc<dyn PhysicalExpr>>,
    key_fields: Vec<SortField>,
    order: Vec<Arc<dyn PhysicalExpr>>,
    order_fields: Vec<SortField>,
    /// Columns of the ranked rows, the rank last.
    ranked: SchemaRef,
    /// From those to the visible columns.
    output: Steps,
    visible: SchemaRef,
    stored: SchemaRef,
}

/// A plan that takes the first row of each key.
pub(super) struct First<'plan> {
    window: &'plan Window,
    partition_by: &'plan [Expr],
    order_by: &'plan [Sort],
}

impl<'plan> First<'plan> {
    /// The plan as that, if it is: projections, the filter of the rank, projections, the window.
    pub(super) fn of(plan: &'plan LogicalPlan) -> Option<Self> {
        let mut node = plan;
        // The column of `node` that must be the rank, once the filter was met.
        let mut rank: Option<usize> = None;
        loop {
            node = match node {
                LogicalPlan::Projection(projection) => {
                    if let Some(at) = rank {
                        rank = Some(column(&projection.expr[at], &projection.input)?);
                    }
                    &projection.input
                }
                LogicalPlan::SubqueryAlias(alias) => &alias.input,
                LogicalPlan::Filter(filter) if rank.is_none() => {
                    rank = Some(column(compared_with_one(&filter.predicate)?, &filter.input)?);
                    &filter.input
                }
                LogicalPlan::Window(window) => {
                    let [function] = window.window_expr.as_slice() else { return None };
                    let Expr::WindowFunction(function) = named_as(function) else { return None };
                    let WindowFunction { fun, params } = function.as_ref();
                    let is_rank = rank == Some(window.input.schema().fields().len());
                    if !is_rank || fun.name() != "row_number" || params.partition_by.is_empty() {
                        return None;
                    }
                    let (partition_by, order_by) = (&params.partition_by, &params.order_by);
                    return Some(Self { window, partition_by, order_by });
                }
                _ => return None,
            };
        }
    }

    /// What is ranked.
    pub(super) fn input(&self) -> &'plan LogicalPlan {
        &self.window.input
    }

    /// What keys and order are made of.
    pub(super) fn expressions(&self) -> impl Iterator<Item = &'plan Expr> {
        self.partition_by.iter().chain(self.order_by.iter().map(|sort| &sort.expr))
    }
}

/// An expression without the name that it is given.
fn named_as(expr: &Expr) -> &Expr {
    match expr {
        Expr::Alias(alias) => named_as(&alias.expr),
        expr => expr,
    }
}

/// The column that an expression is, as the number that it has in `input`.
fn column(expr: &Expr, input: &LogicalPlan) -> Option<usize> {
    match expr {
        Expr::Alias(alias) => column(&alias.expr, input),
        Expr::Column(column) => input.schema().index_of_column(column).ok(),
        _ => None,
    }
}

/// The name of the column that an expression over `node` is, as it is scanned.
fn scanned<'plan>(expr: &Expr, node: &'plan LogicalPlan) -> Option<&'plan str> {
    let mut at = column(expr, node)?;
    let mut node = node;
    loop {
        node = match node {
            LogicalPlan::Projection(projection) => {
                at = column(&projection.expr[at], &projection.input)?;
                &projection.input
            }
            LogicalPlan::Filter(filter) => &filter.input,
            LogicalPlan::SubqueryAlias(alias) => &alias.input,
            LogicalPlan::TableScan(scan) => {
                return Some(scan.projected_schema.field(at).name().as_str());
            }
            _ => return None,
        };
    }
}

/// What a predicate compares with 1, without casts.
fn compared_with_one(predicate: &Expr) -> Option<&Expr> {
    let Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) = predicate else {
        return None;
    };
    let is_one = |expr: &Expr| match expr {
        Expr::Literal(value, _) => {
            value.cast_to(&DataType::Int64).is_ok_and(|value| value == ScalarValue::from(1_i64))
        }
        _ => false,
    };
    match (uncast(left), uncast(right)) {
        (rank, one) if is_one(one) => Some(rank),
        (one, rank) if is_one(one) => Some(rank),
        _ => None,
    }
}

fn uncast(mut expr: &Expr) -> &Expr {
    while let Expr::Cast(cast) = expr {
        expr = &cast.expr;
    }
    expr
}

impl KeyedProgram {
    /// Compiles a plan whose [`First::input`] is a chain of projections and filters over one table
    /// whose rows only come; or why it is none that can be kept so. `of_stream`: the table is a stream,
    /// whose rows have places. `visible` is the schema of the model.
    pub(super) fn compile(
        plan: &LogicalPlan,
        first: &First<'_>,
        of_stream: bool,
        state: &SessionState,
        visible: SchemaRef,
    ) -> Result<Result<Self, String>, DataFusionError> {
        let schema = first.input().schema();
        let type_of = |expr: &Expr| expr.get_type(schema.as_ref());
        let mut key_fields = Vec::new();
        for key in first.partition_by {
            let of = type_of(key)?;
            if of.is_floating() || of.is_nested() {
                return Ok(Err(format!("takes the first row per {of}")));
            }
            key_fields.push(SortField::new(of));
        }
        let mut order_fields = Vec::new();
        for Sort { expr, asc, nulls_first } in first.order_by {
            let options = SortOptions { descending: !asc, nulls_first: *nulls_first };
            order_fields.push(SortField::new_with_options(type_of(expr)?, options));
        }
        let is_in_order = |place: &&str| {
            let mut orders = first.order_by.iter();
            orders.any(|sort| scanned(&sort.expr, first.input()).is_some_and(|c| c == *place))
        };
        // Equal rows may tie.
        let mut columns = schema.columns().into_iter().map(Expr::Column);
        let is_of_all = columns.all(|column| first.order_by.iter().any(|sort| sort.expr == column));
        let is_of_places = of_stream && PLACE.iter().all(is_in_order);
        if !is_of_all && !is_of_places {
            let reason =
                "rows may tie for the first of their key, with columns that cannot be compared";
            return Ok(Err(reason.to_owned()));
        }
        let all = visible.fields().iter().map(|field| SortField::new(field.data_type().clone()));
        if !RowConverter::supports_fields(
            &all.chain(order_fields.iter().cloned()).collect::<Vec<_>>(),
        ) {
            return Ok(Err("has columns of a type that cannot be compared".to_owned()));
        }
        let order: Vec<Expr> = first.order_by.iter().map(|sort| sort.expr.clone()).collect();
        let (keys, order) =
            (physical(first.partition_by, schema, state)?, physical(&order, schema, state)?);
        let (input, _) = Steps::compile(first.input(), state)?;
        let (output, _) = Steps::compile(plan, state)?;
        let stored = with_hidden(&[KEY, ORDER], &visible);
        let ranked = Arc::clone(first.window.schema.inner());
        Ok(Ok(Self {
            input,
            keys,
            key_fields,
            order,
            order_fields,
            ranked,
            output,
            visible,
            stored,
        }))
    }

    /// The rows that a batch of input rows ranks, with their keys and their places in the order.
    fn ranked(
        &self,
        rows: &RecordBatch,
    ) -> Result<(RecordBatch, [Vec<ArrayRef>; 2]), DataFusionError> {
        let rows = self.input.run_with(rows, |_| Ok(()))?;
        let (keys, order) = (evaluate(&self.keys, &rows)?, evaluate(&self.order, &rows)?);
        Ok((rows, [keys, order]))
    }

    /// The visible columns of rows that come first.
    fn output(&self, rows: &RecordBatch) -> Result<RecordBatch, DataFusionError> {
        let mut columns = rows.columns().to_vec();
        columns.push(Arc::new(UInt64Array::from(vec![1; rows.num_rows()])));
        let ranked = named(columns, &self.ranked, rows.num_rows())?;
        let rows = self.output.run_with(&ranked, |_| Ok(()))?;
        Ok(storable_batch(&rows, &self.visible)?)
    }
}

impl KeptProgram for KeyedProgram {
    fn stored_schema(&self) -> &SchemaRef {
        &self.stored
    }

    fn schema(&self) -> &SchemaRef {
        &self.visible
    }

    fn begin(self: Arc<Self>) -> Result<Box<dyn KeptState>, ProgramError> {
        let columns = self.visible.fields().iter();
        let columns = columns.map(|field| SortField::new(field.data_type().clone()));
        Ok(Box::new(KeyedState {
            keys: RowConverter::new(self.key_fields.clone())?,
            order: RowConverter::new(self.order_fields.clone())?,
            columns: RowConverter::new(columns.collect())?,
            firsts: HashMap::default(),
            program: self,
        }))
    }
}

/// The first row of every key.
#[derive(Debug)]
struct KeyedState {
    program: Arc<KeyedProgram>,
    keys: RowConverter,
    order: RowConverter,
    columns: RowConverter,
    firsts: Winners,
}

type Winners = HashMap<Box<[u8]>, Winner, RandomState>;

#[derive(Debug)]
struct Winner {
    /// Its place in the order, encoded: the least comes first.
    place: Box<[u8]>,
    /// Its visible columns.
    row: OwnedRow,
}

impl KeptState for KeyedState {
    fn load(&mut self, rows: &RecordBatch) -> Result<(), ProgramError> {
        let (keys, places) = (rows.column(0).as_binary::<i32>(), rows.column(1).as_binary::<i32>());
        let columns = self.columns.convert_columns(self.program.visible(rows)?.columns())?;
        for row in 0..rows.num_rows() {
            let first = Winner { place: places.value(row).into(), row: columns.row(row).owned() };
            self.firsts.insert(keys.value(row).into(), first);
        }
        Ok(())
    }

    fn first(&mut self) -> Result<Option<Applied>, ProgramError> {
        Ok(None)
    }

    fn apply(&mut self, change: &Change, is_read: bool) -> Result<Applied, ProgramError> {
        if change.removed_rows() > 0 {
            let text = "a row was taken from those of which the first is kept";
            return Err(DataFusionError::Internal(text.to_owned()).into());
        }
        // Nothing changes before all of it is computed.
        let better = self.better(&change.added)?;
        let mut change = Change::default();
        let rows = self.stored(better.iter())?;
        if is_read {
            let gone = better.keys().filter_map(|key| self.firsts.get_key_value(key));
            change.removed.push(self.program.told(&self.stored(gone)?)?);
            change.added.push(self.program.told(&rows)?);
        }
        let keys = BinaryArray::from_iter_values(better.keys());
        self.firsts.extend(better);
        Ok(Applied { patch: Patch { keys, rows }, change })
    }

    fn rows(&self) -> Box<dyn Iterator<Item = Result<RecordBatch, ProgramError>> + Send + '_> {
        let mut all = self.firsts.iter();
        Box::new(std::iter::from_fn(move || {
            let some: Vec<_> = all.by_ref().take(8_192).collect();
            (!some.is_empty()).then(|| Ok(self.stored(some.into_iter())?))
        }))
    }

    fn count(&self) -> usize {
        self.firsts.len()
    }
}

impl KeyedState {
    /// Of each key the first of the rows in `batches`, where that comes before what the key has.
    fn better(&self, batches: &[RecordBatch]) -> Result<Winners, ProgramError> {
        let ranked = batches.iter().map(|rows| {
            let (rows, [keys, order]) = self.program.ranked(rows)?;
            let keys = self.keys.convert_columns(&keys)?;
            Ok((rows, keys, self.order.convert_columns(&order)?))
        });
        let ranked = ranked.collect::<Result<Vec<_>, ProgramError>>()?;
        // Where the first row of each key is: batch and row.
        let mut firsts: HashMap<&[u8], (usize, u32), RandomState> = HashMap::default();
        for (batch, (rows, keys, places)) in ranked.iter().enumerate() {
            for (number, row) in (0_u32..).zip(0..rows.num_rows()) {
                let (key, place) = (keys.row(row).data(), places.row(row));
                let known = self.firsts.get(key);
                if known.is_some_and(|known| place.as_ref() >= &*known.place) {
                    continue;
                }
                let first = firsts.entry(key).or_insert((batch, number));
                if place < ranked[first.0].2.row(first.1 as usize) {
                    *first = (batch, number);
                }
            }
        }
        let mut better = Winners::default();
        for (batch, (rows, keys, places)) in ranked.iter().enumerate() {
            let here = firsts.values().filter(|first| first.0 == batch).map(|first| first.1);
            let here: Vec<u32> = here.collect();
            // Only of these the columns have to be computable.
            let rows = take_record_batch(rows, &UInt32Array::from(here.clone()))?;
            let columns = self.columns.convert_columns(self.program.output(&rows)?.columns())?;
            for (at, row) in here.into_iter().enumerate() {
                let place = places.row(row as usize).as_ref().into();
                let first = Winner { place, row: columns.row(at).owned() };
                better.insert(keys.row(row as usize).data().into(), first);
            }
        }
        Ok(better)
    }

    fn visible_rows<'a>(
        &self,
        rows: impl Iterator<Item = &'a OwnedRow>,
    ) -> Result<RecordBatch, DataFusionError> {
        let columns = decoded(&self.columns, rows.map(OwnedRow::row))?;
        Ok(RecordBatch::try_new(Arc::clone(&self.program.visible), columns)?)
    }

    fn stored<'a>(
        &self,
        firsts: impl Iterator<Item = (&'a Box<[u8]>, &'a Winner)>,
    ) -> Result<RecordBatch, DataFusionError> {
        let firsts: Vec<_> = firsts.collect();
        let keys = BinaryArray::from_iter_values(firsts.iter().map(|(key, _)| key));
        let places = BinaryArray::from_iter_values(firsts.iter().map(|(_, first)| &first.place));
        let visible = self.visible_rows(firsts.iter().map(|(_, first)| &first.row))?;
        let hidden: [ArrayRef; 2] = [Arc::new(keys), Arc::new(places)];
        let columns = hidden.into_iter().chain(visible.columns().iter().cloned()).collect();
        Ok(RecordBatch::try_new(Arc::clone(&self.program.stored), columns)?)
    }
}
