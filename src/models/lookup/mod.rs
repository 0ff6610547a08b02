//! *lookup*: rows joined to what is known of them, such as the dimensions of a fact.
//!
//! What becomes of a driving row is a function of that row and of what the other sides hold now. So
//! rows that come need nothing but the sides, which are in memory, and a side that changes touches
//! the driving rows that meet a changed row in it: these are joined again, with the side as it was
//! and as it is. Without sides it is a projection of rows that may change.

mod grouped;
mod side;
mod state;

pub(super) use grouped::GroupedProgram;
pub(super) use state::LookupState;

use std::sync::Arc;

use arrow::{
    array::{Array as _, ArrayRef, AsArray as _, BooleanArray, RecordBatch, UInt32Array},
    compute::take,
    datatypes::{SchemaRef, UInt32Type},
    row::{RowConverter, SortField},
};
use datafusion::{
    common::{JoinType, NullEquality, cast::as_boolean_array},
    error::DataFusionError,
    execution::SessionState,
    logical_expr::{
        BinaryExpr, Expr, ExprSchemable as _, Join, LogicalPlan, Operator,
        utils::{find_valid_equijoin_key_pair, split_conjunction},
    },
    physical_expr::PhysicalExpr,
};

use crate::{
    domain::{TableName, change::KEY, sql_exprs::compile},
    models::{
        KeptProgram, KeptState, ProgramError,
        kept::with_hidden,
        lookup::side::Content,
        steps::{Steps, evaluate, named, unnested_column},
        types::storable_batch,
    },
};

/// A model that is kept so, compiled.
#[derive(Debug)]
pub(super) struct LookupProgram {
    /// What is done to driving rows before the first join.
    first: Steps,
    /// How many columns the driving relation has.
    width: usize,
    levels: Vec<Level>,
    sides: Vec<Side>,
    /// Whether driving rows only come, each once.
    rows_stay: bool,
    visible: SchemaRef,
    stored: SchemaRef,
}

/// What is joined to the driving rows.
#[derive(Debug, Clone)]
pub struct Side {
    /// What computes it, over the relations of the planner.
    pub plan: LogicalPlan,
    /// The stored tables that it is computed from.
    pub tables: Vec<TableName>,
}

/// One join, and what is done to its rows before the next.
#[derive(Debug)]
struct Level {
    left_keys: Vec<Arc<dyn PhysicalExpr>>,
    right_keys: Vec<Arc<dyn PhysicalExpr>>,
    converter: RowConverter,
    /// What has to hold besides.
    filter: Option<Arc<dyn PhysicalExpr>>,
    /// Whether rows that meet none stay (LEFT JOIN).
    keeps_all: bool,
    /// The columns of both sides.
    joined: SchemaRef,
    right: SchemaRef,
    steps: Steps,
}

/// The joins of a plan, the first last, with what is done to the rows of each; and what drives them.
pub(super) struct Joins<'plan> {
    joins: Vec<(&'plan LogicalPlan, &'plan Join)>,
    driving: &'plan LogicalPlan,
}

impl<'plan> Joins<'plan> {
    /// The plan as that, if a join is at its top.
    pub(super) fn of(plan: &'plan LogicalPlan) -> Option<Self> {
        let (mut joins, mut top, mut node) = (Vec::new(), plan, plan);
        loop {
            node = match node {
                LogicalPlan::Projection(projection) => &projection.input,
                LogicalPlan::Filter(filter) => &filter.input,
                LogicalPlan::SubqueryAlias(alias) => &alias.input,
                LogicalPlan::Unnest(unnest) if unnested_column(unnest).is_some() => &unnest.input,
                LogicalPlan::Join(join) => {
                    joins.push((top, join));
                    top = &join.left;
                    top
                }
                _ if joins.is_empty() => return None,
                _ => return Some(Self { joins, driving: top }),
            };
        }
    }

    /// A plan without joins, as it is.
    pub(super) fn none(plan: &'plan LogicalPlan) -> Self {
        Self { joins: Vec::new(), driving: plan }
    }

    /// The plan of the driving rows.
    pub(super) fn driving(&self) -> &'plan LogicalPlan {
        self.driving
    }

    /// The plans of the other sides.
    pub(super) fn sides(&self) -> impl Iterator<Item = &'plan LogicalPlan> {
        self.joins.iter().map(|(_, join)| join.right.as_ref())
    }

    /// The expressions of the joins and of what is done between them.
    pub(super) fn expressions(&self) -> Vec<Expr> {
        let mut all = Vec::new();
        for (top, join) in &self.joins {
            let mut node = *top;
            while !matches!(node, LogicalPlan::Join(_)) {
                all.extend(node.expressions());
                let Some(below) = node.inputs().first().copied() else { break };
                node = below;
            }
            all.extend(join.filter.clone());
            all.extend(join.on.iter().flat_map(|(left, right)| [left.clone(), right.clone()]));
        }
        all
    }

    /// Why it cannot be kept so, if a kind of join is the reason.
    pub(super) fn refused(&self) -> Option<String> {
        self.joins.iter().find_map(|(_, join)| match (join.join_type, join.null_equality) {
            (JoinType::Left | JoinType::Inner, NullEquality::NullEqualsNothing) => None,
            (JoinType::Left | JoinType::Inner, _) => Some("joins nulls to nulls".to_owned()),
            (other, _) => {
                Some(format!("joins relations by {} JOIN", other.to_string().to_uppercase()))
            }
        })
    }
}

impl LookupProgram {
    /// Compiles joins whose driving plan is a chain of projections and filters over one table.
    /// `tables`: the stored tables behind each side; `rows_stay`: driving rows only come.
    pub(super) fn compile(
        joins: &Joins<'_>,
        tables: Vec<Vec<TableName>>,
        rows_stay: bool,
        state: &SessionState,
        visible: SchemaRef,
    ) -> Result<Result<Self, String>, DataFusionError> {
        let (first, scan) = Steps::compile(joins.driving, state)?;
        let width = scan.schema().fields().len();
        let mut levels = Vec::new();
        for (top, join) in joins.joins.iter().rev() {
            let (steps, _) = Steps::compile(top, state)?;
            match Level::compile(join, steps, state)? {
                Ok(level) => levels.push(level),
                Err(reason) => return Ok(Err(reason)),
            }
        }
        let plans: Vec<_> = joins.sides().cloned().collect();
        let plans = plans.into_iter().rev().zip(tables.into_iter().rev());
        let sides = plans.map(|(plan, tables)| Side { plan, tables }).collect();
        let all = visible.fields().iter().map(|f| SortField::new(f.data_type().clone()));
        if !RowConverter::supports_fields(&all.collect::<Vec<_>>()) {
            return Ok(Err("has columns of a type that cannot be compared".to_owned()));
        }
        let stored = with_hidden(&[KEY], &visible);
        Ok(Ok(Self { first, width, levels, sides, rows_stay, visible, stored }))
    }

    /// The visible rows that become of driving rows, and with each the number of the row it comes
    /// of, ascending.
    fn run(
        &self,
        rows: &RecordBatch,
        sides: &[Content],
    ) -> Result<(RecordBatch, UInt32Array), DataFusionError> {
        let (mut rows, mut of) = self.driven(rows)?;
        for (level, side) in self.levels.iter().zip(sides) {
            (rows, of) = level.join(&rows, &of, side)?;
        }
        Ok((storable_batch(&rows, &self.visible)?, of))
    }

    /// Which driving rows meet a key of `touched` when they are joined to `sides`.
    fn touched(
        &self,
        rows: &RecordBatch,
        sides: &[Content],
        touched: &[side::Keys],
    ) -> Result<BooleanArray, DataFusionError> {
        let mut hits = vec![false; rows.num_rows()];
        let last = touched.iter().rposition(|keys| !keys.is_empty());
        let (mut rows, mut of) = self.driven(rows)?;
        for (number, (level, side)) in self.levels.iter().zip(sides).enumerate() {
            if last.is_none_or(|last| number > last) {
                break;
            }
            if !touched[number].is_empty() {
                for (key, of) in level.keys(&level.left_keys, &rows)?.iter().zip(of.values()) {
                    hits[*of as usize] |= key.is_some_and(|key| touched[number].contains(key));
                }
            }
            if last != Some(number) {
                (rows, of) = level.join(&rows, &of, side)?;
            }
        }
        Ok(BooleanArray::from(hits))
    }

    /// Driving rows as they come to the first join, with their numbers.
    fn driven(&self, rows: &RecordBatch) -> Result<(RecordBatch, UInt32Array), DataFusionError> {
        let columns: Vec<usize> = (0..self.width).collect();
        let mut of = UInt32Array::from_iter_values((0_u32..).take(rows.num_rows()));
        let rows = self.first.run_with(&rows.project(&columns)?, |picked| {
            of = picked.of(&of)?.as_primitive().clone();
            Ok(())
        })?;
        Ok((rows, of))
    }
}

impl Level {
    fn compile(
        join: &Join,
        steps: Steps,
        state: &SessionState,
    ) -> Result<Result<Self, String>, DataFusionError> {
        let (left, right) = (join.left.schema(), join.right.schema());
        let (mut left_keys, mut right_keys, mut fields) = (Vec::new(), Vec::new(), Vec::new());
        let mut rest = Vec::new();
        let mut equal = join.on.clone();
        for part in join.filter.iter().flat_map(split_conjunction) {
            let pair = match part {
                Expr::BinaryExpr(BinaryExpr { left: a, op: Operator::Eq, right: b }) => {
                    find_valid_equijoin_key_pair(a, b, left, right)?
                }
                _ => None,
            };
            match pair {
                Some(pair) => equal.push(pair),
                None => rest.push(part.clone()),
            }
        }
        for (a, b) in equal {
            let (of_a, of_b) = (a.get_type(left.as_ref())?, b.get_type(right.as_ref())?);
            // Encoded, other numbers and other zeros would be equal.
            if of_a != of_b || of_a.is_floating() || of_a.is_nested() {
                rest.push(a.eq(b));
                continue;
            }
            fields.push(SortField::new(of_a));
            left_keys.push(compile(a, left, state)?);
            right_keys.push(compile(b, right, state)?);
        }
        let all = right.fields().iter().map(|f| SortField::new(f.data_type().clone()));
        if !RowConverter::supports_fields(&all.collect::<Vec<_>>()) {
            return Ok(Err("joins columns of a type that cannot be compared".to_owned()));
        }
        let filter = rest.into_iter().reduce(Expr::and);
        let filter = filter.map(|filter| compile(filter, &join.schema, state)).transpose()?;
        Ok(Ok(Self {
            left_keys,
            right_keys,
            converter: RowConverter::new(fields)?,
            filter,
            keeps_all: join.join_type == JoinType::Left,
            joined: Arc::clone(join.schema.inner()),
            right: Arc::clone(right.inner()),
            steps,
        }))
    }

    /// The values that rows are joined by, encoded; none where one is null.
    fn keys(
        &self,
        exprs: &[Arc<dyn PhysicalExpr>],
        rows: &RecordBatch,
    ) -> Result<side::Encoded, DataFusionError> {
        let columns = evaluate(exprs, rows)?;
        let nulls = columns.iter().map(|column| column.logical_nulls());
        let nulls = nulls.fold(None, |all, nulls| {
            arrow::buffer::NullBuffer::union(all.as_ref(), nulls.as_ref())
        });
        let encoded = match columns.is_empty() {
            true => None,
            false => Some(self.converter.convert_columns(&columns)?),
        };
        Ok(side::Encoded { rows: encoded, nulls, count: rows.num_rows() })
    }

    /// Rows joined to what they meet, with the numbers `of` the driving rows they come of.
    fn join(
        &self,
        rows: &RecordBatch,
        of: &UInt32Array,
        side: &Content,
    ) -> Result<(RecordBatch, UInt32Array), DataFusionError> {
        let keys = self.keys(&self.left_keys, rows)?;
        let (mut lefts, mut rights) = (Vec::new(), Vec::new());
        for (left, key) in (0_u32..).zip(keys.iter()) {
            let met = key.map_or(&[][..], |key| side.met(key));
            lefts.extend(std::iter::repeat_n(left, met.len()));
            rights.extend(met.iter().copied().map(Some));
        }
        if let Some(condition) = &self.filter {
            let pairs = self.pairs(rows, side, lefts.clone().into(), &rights)?;
            let holds = condition.evaluate(&pairs)?.into_array(pairs.num_rows())?;
            let holds = as_boolean_array(&holds)?;
            let mut row = 0..;
            let mut stays =
                || row.next().is_some_and(|row: usize| holds.is_valid(row) && holds.value(row));
            let stay: Vec<bool> = lefts.iter().map(|_| stays()).collect();
            let mut stays = stay.iter();
            lefts.retain(|_| stays.next() == Some(&true));
            let mut stays = stay.iter();
            rights.retain(|_| stays.next() == Some(&true));
        }
        if self.keeps_all {
            (lefts, rights) = with_unmet(rows.num_rows(), &lefts, &rights);
        }
        let lefts = UInt32Array::from(lefts);
        let mut of = take(of, &lefts, None)?.as_primitive::<UInt32Type>().clone();
        let joined = self.pairs(rows, side, lefts, &rights)?;
        let joined = self.steps.run_with(&joined, |picked| {
            of = picked.of(&of)?.as_primitive().clone();
            Ok(())
        })?;
        Ok((joined, of))
    }

    /// Left rows beside right ones.
    fn pairs(
        &self,
        rows: &RecordBatch,
        side: &Content,
        lefts: UInt32Array,
        rights: &[Option<u32>],
    ) -> Result<RecordBatch, DataFusionError> {
        let rights = UInt32Array::from(rights.to_vec());
        let of =
            |columns: &[ArrayRef], at: &UInt32Array| -> Result<Vec<ArrayRef>, DataFusionError> {
                columns.iter().map(|column| Ok(take(column, at, None)?)).collect()
            };
        let mut columns = of(rows.columns(), &lefts)?;
        columns.extend(of(side.rows().columns(), &rights)?);
        named(columns, &self.joined, lefts.len())
    }
}

/// The pairs, and between them each of `count` left rows that has none.
fn with_unmet(count: usize, lefts: &[u32], rights: &[Option<u32>]) -> (Vec<u32>, Vec<Option<u32>>) {
    let mut all = (Vec::with_capacity(count), Vec::with_capacity(count));
    let mut next = 0;
    for left in (0_u32..).take(count) {
        let before = next;
        while lefts.get(next) == Some(&left) {
            all.0.push(left);
            all.1.push(rights[next]);
            next += 1;
        }
        if before == next {
            all.0.push(left);
            all.1.push(None);
        }
    }
    all
}

impl KeptProgram for LookupProgram {
    fn stored_schema(&self) -> &SchemaRef {
        &self.stored
    }

    fn schema(&self) -> &SchemaRef {
        &self.visible
    }

    fn begin(self: Arc<Self>) -> Result<Box<dyn KeptState>, ProgramError> {
        Ok(Box::new(LookupState::new(self)?))
    }

    fn holds_rows(&self) -> bool {
        false
    }

    fn sides(&self) -> &[Side] {
        &self.sides
    }
}
