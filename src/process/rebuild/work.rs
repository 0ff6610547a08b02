//! How one table is made anew from the tables that it reads.

use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::{AsArray as _, BinaryArray, RecordBatch, UInt32Array},
    compute::{concat_batches, take_record_batch},
    error::ArrowError,
};
use datafusion::{
    error::DataFusionError, execution::runtime_env::RuntimeEnv, prelude::SessionConfig,
};
use futures::TryStreamExt as _;

use crate::{
    bronze::{Judge, Verdict, accepted_rows, bronze_schema},
    domain::{Offset, Partition, Positions, TableName, change::Change},
    lake::{
        CommitError, Lake, LakeError, LakeView, Move, OFFSET, OffsetWindow, PARTITION, Rebuild,
        Rebuilt, Stored,
        session::{Columns, session},
    },
    models::{Class, Input, KeptProgram, Plan, Program, ProgramError, RowProgram, storable_batch},
    process::{
        Error, Meter, Planned,
        driving::{Driving, computed},
        open::model_spec,
        relations::{self, BRONZE_COLUMNS, base_view, limited, pinned, raw_name, read_id},
        rows::{Places, carried_rows, column, placed_schema, ran},
        stream::{catch_up_offsets, recorded},
    },
};

/// Columns of a row-wise model's table that hold the place of a row: its first ones.
const PLACE_COLUMNS: usize = 4;

/// Why a table could not be made.
#[derive(Debug)]
pub(super) enum Failed {
    Sql(DataFusionError),
    Row(ProgramError),
    /// An input that does not reach as far as what was built from it.
    Behind(TableName),
    /// An input that is not there.
    Missing(TableName),
    Commit(CommitError),
    Other(Error),
}

impl From<DataFusionError> for Failed {
    fn from(error: DataFusionError) -> Self {
        Self::Sql(error)
    }
}

impl From<ArrowError> for Failed {
    fn from(error: ArrowError) -> Self {
        Self::Sql(error.into())
    }
}

impl From<LakeError> for Failed {
    fn from(error: LakeError) -> Self {
        Self::Other(error.into())
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

impl From<CommitError> for Failed {
    fn from(error: CommitError) -> Self {
        Self::Commit(error)
    }
}

/// A lake whose tables are made anew.
pub(super) struct Work<'a> {
    planned: &'a Planned,
    lake: &'a Lake,
    meter: &'a Meter,
    /// Every table of the project that is there, as it is stored.
    tables: BTreeMap<TableName, Stored>,
}

impl<'a> Work<'a> {
    pub(super) async fn open(
        planned: &'a Planned,
        lake: &'a Lake,
        meter: &'a Meter,
    ) -> Result<Self, Error> {
        let mut names = Vec::new();
        for contract in &planned.project.streams {
            let [bronze, acceptance, _] = relations::stored_of(&contract.name);
            names.extend([bronze, acceptance]);
        }
        names.extend(planned.project.seeds.iter().map(|seed| seed.name.clone()));
        names.extend(planned.plans.iter().map(|plan| plan.model.name.clone()));
        let mut tables = BTreeMap::new();
        for name in names {
            if let Some(stored) = lake.stored(&name).await? {
                tables.insert(name, stored);
            }
        }
        Ok(Self { planned, lake, meter, tables })
    }

    pub(super) fn has(&self, name: &TableName) -> bool {
        self.tables.contains_key(name)
    }

    /// Makes the table of a model anew.
    pub(super) async fn rebuild(&mut self, plan: &Plan) -> Result<Rebuilt, Failed> {
        let name = &plan.model.name;
        let mut app_ids = Vec::new();
        for input in plan.streams.iter().map(|s| acceptance_of(s)).chain(plan.tables.clone()) {
            let stored = self.get(&input)?;
            let ids = stored.positions.keys();
            app_ids
                .extend(ids.filter(|id| relations::stream_position(id, false).is_some()).cloned());
            app_ids.push(read_id(&stored.table.id()?));
        }
        let rebuild = self.lake.rebuild(&model_spec(plan), app_ids).await?;
        let rebuilt = match plan.class {
            Class::Append => self.row_wise(plan, rebuild).await?,
            _ => self.by_sql(plan, rebuild).await?,
        };
        let stored = self.lake.stored(name).await?.ok_or_else(|| Failed::Missing(name.clone()))?;
        self.tables.insert(name.clone(), stored);
        Ok(rebuilt)
    }

    fn get(&self, name: &TableName) -> Result<&Stored, Failed> {
        self.tables.get(name).ok_or_else(|| Failed::Missing(name.clone()))
    }

    fn judge(&self, stream: &str) -> Result<&Judge, Failed> {
        let judge = self.planned.judges.iter().find(|judge| judge.contract().name == stream);
        let judge = judge.map(Arc::as_ref);
        judge.ok_or_else(|| Failed::Other(Error::Internal(format!("unknown stream {stream}"))))
    }

    /// How far a table says that it was built.
    fn reach(&self, name: &TableName) -> Positions {
        self.tables.get(name).map(|stored| reach(&stored.positions)).unwrap_or_default()
    }

    /// The rows of a row-wise model, stretch by stretch of what it reads.
    async fn row_wise(&self, plan: &Plan, mut rebuild: Rebuild) -> Result<Rebuilt, Failed> {
        let (Some(stream), Some(input), Program::Rows(program)) =
            (plan.streams.first(), plan.inputs.first(), &plan.program)
        else {
            let text = format!("{} is row-wise without a stream", plan.model.name);
            return Err(Failed::Other(Error::Internal(text)));
        };
        let (source, rows, place) = match input {
            Input::Stream(_) => {
                (acceptance_of(stream), relations::bronze_table(stream), BRONZE_COLUMNS)
            }
            Input::Table(parent) => (parent.clone(), parent.clone(), (PARTITION, OFFSET)),
        };
        let moves = forward(&rebuild, &source, &self.get(&source)?.positions, stream)?;
        let first = self.get(&rows)?.table.first_offsets(place).await?;
        let bronze = self.get(&relations::bronze_table(stream))?;
        let at_once = catch_up_offsets(&bronze.table.committed().await?);
        let reach = self.reach(&source).only(std::slice::from_ref(stream));
        for (_, partition, last) in reach.iter() {
            let from = first.get(&partition).copied().unwrap_or(last + 1);
            self.meter.expect(u64::try_from(last + 1 - from).unwrap_or_default());
        }
        for (_, partition, last) in reach.iter() {
            let mut from = first.get(&partition).copied().unwrap_or(last + 1);
            while from <= last {
                let through = last.min(from.saturating_add(at_once - 1));
                let window = OffsetWindow { after: Some(from - 1), through };
                let windows = BTreeMap::from([(partition, window)]);
                let stretch = match input {
                    Input::Stream(_) => self.accepted(stream, program, &windows).await?,
                    Input::Table(parent) => self.parents_rows(parent, program, &windows).await?,
                };
                for (carried, rows) in stretch {
                    let columns = carried.columns().iter().chain(rows.columns()).cloned().collect();
                    let placed = RecordBatch::try_new(placed_schema(&plan.schema), columns)?;
                    rebuild.write(&placed).await?;
                }
                self.meter.read(u64::try_from(through + 1 - from).unwrap_or_default());
                from = through + 1;
            }
        }
        Ok(rebuild.commit(moves, false).await?)
    }

    /// The places and output rows of a program over the accepted records in `windows`.
    async fn accepted(
        &self,
        stream: &str,
        program: &RowProgram,
        windows: &BTreeMap<Partition, OffsetWindow>,
    ) -> Result<Vec<(RecordBatch, RecordBatch)>, Failed> {
        let (partition, offset) = BRONZE_COLUMNS;
        let decisions = self.get(&acceptance_of(stream))?;
        let decisions = recorded(&decisions.table.rows_in(partition, offset, windows).await?)?;
        let bronze = self.get(&relations::bronze_table(stream))?;
        let rows = bronze.table.rows_in(partition, offset, windows).await?;
        let rows = self.judge(stream)?.events(&concat_batches(&bronze_schema(), &rows)?)?;
        let places = Places::of(&rows)?;
        let mut good = Vec::new();
        for (number, row) in (0_u32..).zip(0..rows.num_rows()) {
            match decisions.get(&places.key(row)) {
                Some(Verdict::Accepted) => good.push(number),
                Some(Verdict::Repeat | Verdict::Quarantined) => {}
                None => {
                    let ((partition, offset), stream) = (places.at(row), stream.to_owned());
                    return Err(Error::Undecided { stream, partition, offset }.into());
                }
            }
        }
        let rows = take_record_batch(&rows, &UInt32Array::from(good))?;
        let payload: &BinaryArray = column(&rows, "_payload")?.as_binary();
        let keys: &BinaryArray = column(&rows, "_key")?.as_binary();
        let decoded = self.judge(stream)?.decode(payload, keys, column(&rows, "_ts")?)?;
        let rows = self.judge(stream)?.named(rows, &decoded)?;
        let input = accepted_rows(self.judge(stream)?.contract(), &rows, &decoded)?;
        let carried = carried_rows(stream, &rows)?;
        let (rows, carried) = ran(program, &input, &carried).map_err(Failed::Row)?;
        Ok(vec![(carried, rows)])
    }

    /// The same over the rows of another row-wise model.
    async fn parents_rows(
        &self,
        parent: &TableName,
        program: &RowProgram,
        windows: &BTreeMap<Partition, OffsetWindow>,
    ) -> Result<Vec<(RecordBatch, RecordBatch)>, Failed> {
        let table = &self.get(parent)?.table;
        let mut rows = table.rows_in(PARTITION, OFFSET, windows).await?;
        if program.unnests()
            && let Some(schema) = rows.first().map(RecordBatch::schema)
        {
            // All rows of a record together.
            rows = vec![concat_batches(&schema, &rows)?];
        }
        let outputs = rows.iter().map(|rows| {
            let (place, visible): (Vec<usize>, Vec<usize>) =
                (0..rows.num_columns()).partition(|column| *column < PLACE_COLUMNS);
            let (input, carried) = (rows.project(&visible)?, rows.project(&place)?);
            let (rows, carried) = ran(program, &input, &carried).map_err(Failed::Row)?;
            Ok((carried, rows))
        });
        outputs.collect()
    }

    /// The rows of any other model: its SQL over one state of what it reads.
    async fn by_sql(&self, plan: &Plan, mut rebuild: Rebuild) -> Result<Rebuilt, Failed> {
        let reached = self.reachable(plan)?;
        let view = Arc::new(self.view(plan, &reached).await?);
        let mut moves = Vec::new();
        for stream in &plan.streams {
            let source = acceptance_of(stream);
            let reached = reached.only(std::slice::from_ref(stream));
            let capped = self.get(&source)?.positions.iter().filter_map(|(app_id, at)| {
                let (of, partition) = relations::stream_position(app_id, false)?;
                (of == stream).then_some(())?;
                Some((app_id.clone(), (*at).min(reached.get(stream, partition)?)))
            });
            let capped: BTreeMap<String, i64> = capped.collect();
            moves.extend(forward(&rebuild, &source, &capped, stream)?);
        }
        for parent in plan.tables.iter().filter(|parent| !self.is_placed(parent)) {
            let table = &self.get(parent)?.table;
            let to = i64::try_from(table.version()).unwrap_or(i64::MAX);
            let app_id = read_id(&table.id()?);
            let from = rebuild.position(&app_id);
            if from != Some(to) {
                moves.push(Move { app_id, from, to });
            }
        }
        let runtime = Arc::new(RuntimeEnv::default());
        let context = session(&view, Columns::Model, SessionConfig::new(), runtime);
        if let Program::Kept(program) = &plan.program {
            if program.by_key().is_none() {
                self.by_changes(program, &plan.driving, &view, &mut rebuild).await?;
            } else {
                let rows = context.sql(&plan.model.sql).await?.collect().await?;
                by_key(program, &rows, &mut rebuild).await?;
            }
            return Ok(rebuild.commit(moves, true).await?);
        }
        let mut rows = context.sql(&plan.model.sql).await?.execute_stream().await?;
        while let Some(batch) = rows.try_next().await? {
            self.meter.read(batch.num_rows() as u64);
            rebuild.write(&storable_batch(&batch, &plan.schema)?).await?;
        }
        Ok(rebuild.commit(moves, true).await?)
    }

    /// A model that is kept by changes, over its whole inputs.
    async fn by_changes(
        &self,
        program: &Arc<dyn KeptProgram>,
        inputs: &[Input],
        view: &Arc<LakeView>,
        rebuild: &mut Rebuild,
    ) -> Result<(), Failed> {
        let mut state = Arc::clone(program).begin().map_err(Failed::Row)?;
        if !program.sides().is_empty() {
            state.look(&computed(view, program.sides()).await?).map_err(Failed::Row)?;
            state.looked();
        }
        let first = state.first().map_err(Failed::Row)?;
        if let Some(first) = first.filter(|_| !program.holds_rows()) {
            rebuild.write(&first.patch.rows).await?;
        }
        let runtime = Arc::new(RuntimeEnv::default());
        let context = session(view, Columns::All, SessionConfig::new(), runtime);
        for input in inputs {
            let table = match input {
                Input::Stream(stream) => acceptance_of(stream),
                Input::Table(table) => table.clone(),
            };
            self.meter.expect(self.get(&table)?.table.committed().await?.rows);
        }
        for (number, input) in inputs.iter().enumerate() {
            let driving = Driving::of(self.planned, input)?;
            let mut rows = context.sql(&driving.sql()).await?.execute_stream().await?;
            while let Some(batch) = rows.try_next().await? {
                self.meter.read(batch.num_rows() as u64);
                let mut changes = vec![Change::default(); inputs.len()];
                changes[number].added.push(driving.keyed(&batch)?.0);
                let applied = state.apply_all(&changes, false).map_err(Failed::Row)?;
                if !program.holds_rows() {
                    rebuild.write(&applied.patch.rows).await?;
                }
            }
        }
        for rows in state.rows() {
            rebuild.write(&rows.map_err(Failed::Row)?).await?;
        }
        Ok(())
    }

    fn is_placed(&self, name: &TableName) -> bool {
        let mut plans = self.planned.plans.iter();
        plans.any(|plan| plan.model.name == *name && plan.class == Class::Append)
    }

    /// How far into its streams a model can be built: as far as all of what it reads, and no less
    /// than it was.
    fn reachable(&self, plan: &Plan) -> Result<Positions, Failed> {
        let read = plan.read_streams.iter();
        let read = read.map(|stream| (acceptance_of(stream), vec![stream.clone()], true));
        let tables = plan.tables.iter().map(|name| {
            let parent = self.planned.plans.iter().find(|plan| plan.model.name == *name);
            let streams = parent.map_or_else(Vec::new, |plan| plan.streams.clone());
            (name.clone(), streams, self.is_placed(name))
        });
        let inputs: Vec<(TableName, Vec<String>, bool)> = read.chain(tables).collect();
        let mut reached = self.reach(&plan.model.name).only(&plan.streams);
        for stream in &plan.streams {
            let carrying = inputs.iter().filter(|(_, streams, _)| streams.contains(stream));
            let one = std::slice::from_ref(stream);
            let reaches = carrying.map(|(name, ..)| self.reach(name).only(one));
            reached.merge(&reaches.reduce(|a, b| a.meet(&b)).unwrap_or_default());
        }
        for (name, streams, _) in inputs.into_iter().filter(|(.., is_placed)| *is_placed) {
            if !self.reach(&name).covers(&reached.only(&streams)) {
                return Err(Failed::Behind(name));
            }
        }
        Ok(reached)
    }

    /// What a model reads, as far as `reached`.
    async fn view(&self, plan: &Plan, reached: &Positions) -> Result<LakeView, Failed> {
        let mut view = base_view(self.planned);
        let within = |stream: &str| -> BTreeMap<Partition, Offset> {
            let of = reached.iter().filter(|(of, ..)| *of == stream);
            of.map(|(_, partition, at)| (partition, at)).collect()
        };
        for stream in &plan.read_streams {
            let [bronze, acceptance, _] = relations::stored_of(stream);
            for (stored, shown) in [(bronze, raw_name(stream)), (acceptance.clone(), acceptance)] {
                let table = &self.get(&stored)?.table;
                let rows =
                    limited(table.committed().await?.provider, BRONZE_COLUMNS, &within(stream))?;
                let state = pinned(&shown, table.schema(), table.version(), rows);
                view.tables.insert(shown, state);
            }
        }
        for name in &plan.tables {
            let table = &self.get(name)?.table;
            let mut rows = table.committed().await?.provider;
            if self.is_placed(name) {
                let mut plans = self.planned.plans.iter();
                let parent = plans.find(|plan| plan.model.name == *name);
                let stream =
                    parent.and_then(|plan| plan.streams.first()).map_or("", String::as_str);
                rows = limited(rows, (PARTITION, OFFSET), &within(stream))?;
            }
            let state = pinned(name, table.schema(), table.version(), rows);
            view.tables.insert(name.clone(), state);
        }
        Ok(view)
    }
}

/// The rows of a model by key, as stored.
async fn by_key(
    program: &Arc<dyn KeptProgram>,
    rows: &[RecordBatch],
    rebuild: &mut Rebuild,
) -> Result<(), Failed> {
    let mut state = Arc::clone(program).begin().map_err(Failed::Row)?;
    state.empty();
    state.rerun(rows, false).map_err(Failed::Row)?;
    for rows in state.rows() {
        rebuild.write(&rows.map_err(Failed::Row)?).await?;
    }
    Ok(())
}

fn acceptance_of(stream: &str) -> TableName {
    let [_, acceptance, _] = relations::stored_of(stream);
    acceptance
}

/// How far into streams the positions of a table reach.
fn reach(positions: &BTreeMap<String, i64>) -> Positions {
    let mut reached = Positions::default();
    for (app_id, at) in positions {
        if let Some((stream, partition)) = relations::stream_position(app_id, false) {
            reached.advance(stream, partition, *at);
        }
    }
    reached
}

/// Moves a table's positions in `stream` to those of `source`, none of them back.
fn forward(
    rebuild: &Rebuild,
    source: &TableName,
    positions: &BTreeMap<String, i64>,
    stream: &str,
) -> Result<Vec<Move>, Failed> {
    let mut moves = Vec::new();
    for (app_id, to) in positions {
        if relations::stream_position(app_id, false).is_none_or(|(of, _)| of != stream) {
            continue;
        }
        let (app_id, from, to) = (app_id.clone(), rebuild.position(app_id), *to);
        match from {
            Some(from) if from > to => return Err(Failed::Behind(source.clone())),
            Some(from) if from == to => {}
            _ => moves.push(Move { app_id, from, to }),
        }
    }
    Ok(moves)
}
