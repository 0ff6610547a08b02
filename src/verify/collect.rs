//! From a lake to [`Facts`]: reads, and computes every table anew from its inputs.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use arrow::{
    array::{Array as _, AsArray as _, RecordBatch},
    datatypes::{Int32Type, Int64Type, TimestampMicrosecondType},
};
use datafusion::{
    catalog::TableProvider,
    error::DataFusionError,
    execution::runtime_env::RuntimeEnv,
    prelude::{SessionConfig, SessionContext},
};
use futures::TryStreamExt as _;

use crate::{
    bronze::Verdict,
    domain::{
        ErrorKind, Partition, Place, TableName, chain,
        identity::{Identity, fingerprint},
    },
    lake::{
        Audited, Lake, LakeError, LakeView, OFFSET, PARTITION, TableState, reason_of,
        session::{Columns, session},
    },
    models::{Class, Plan, storable, storable_batch},
    process::{Planned, quarantine::discarded, relations},
    project::Seed,
    verify::{
        content::differences,
        facts::{
            Content, Decided, Facts, Part, Reach, Read, Record, StreamFacts, TableFacts, Unread,
        },
    },
};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Lake(#[from] LakeError),
    #[error("read {table}")]
    Query { table: TableName, source: Box<DataFusionError> },
}

impl Error {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Lake(error) => error.kind(),
            Self::Query { .. } => ErrorKind::Data,
        }
    }
}

/// Reads the whole lake of a project. A server may go on writing beside it. A table that cannot be
/// read is a fact too.
pub async fn collect(planned: &Planned, lake: &Lake) -> Result<Facts, Error> {
    let mut tables = BTreeMap::new();
    let mut facts = Facts::default();
    // Children first: what a table was built from is there when it is.
    for name in names(planned).into_iter().rev() {
        match lake.audit(&name).await {
            Ok(Some(audited)) => {
                tables.insert(name, audited);
            }
            Ok(None) => {}
            Err(error) => facts.add_unread(unread(error.into(), Part::Log)?),
        }
    }
    let is_made = |name: &TableName| {
        // The list of what was discarded is made with its first entry.
        *name == discarded() || tables.contains_key(name) || facts.is_unread(name, Part::Log)
    };
    facts.missing = names(planned).into_iter().filter(|name| !is_made(name)).collect();
    let unread_tables = facts.unread.iter().map(|unread| unread.table.clone()).collect();
    let collector = Collector { planned, tables, unread: unread_tables };
    for contract in &planned.project.streams {
        let name = &contract.name;
        let stored = relations::stored_of(name);
        if let Some(table) = stored.into_iter().find(|table| collector.unread.contains(table)) {
            facts.unread_streams.push((name.clone(), table));
            continue;
        }
        match collector.stream(name).await {
            Ok(stream) => facts.streams.push(stream),
            Err(error) => {
                let unread = unread(error, Part::Rows)?;
                facts.unread_streams.push((name.clone(), unread.table.clone()));
                facts.add_unread(unread);
            }
        }
    }
    for name in names(planned) {
        let Some(audited) = collector.tables.get(&name) else { continue };
        let content = match collector.content(&name, audited).await {
            Ok(content) => match collector.decoded(&name, &content).await {
                Ok(()) => content,
                Err(error) => {
                    facts.add_unread(unread(error, Part::Rows)?);
                    content
                }
            },
            Err(error) => {
                let unread = unread(error, Part::Rows)?;
                let reason = cannot_be_read(&unread.table);
                facts.add_unread(unread);
                Content::NotCompared(reason)
            }
        };
        facts.tables.push(TableFacts {
            reads: collector.reads(&name, audited),
            versions: audited.versions.clone(),
            files: audited.files.clone(),
            content,
            name,
        });
    }
    Ok(facts)
}

/// A failure to read `part` of a table as a fact; any other failure stays one.
fn unread(error: Error, part: Part) -> Result<Unread, Error> {
    let table = match &error {
        Error::Query { table, .. } => Some(table.clone()),
        Error::Lake(error) => error.table().cloned(),
    };
    let Some(table) = table else { return Err(error) };
    let reason = match &error {
        Error::Query { source, .. } => reason_of(source),
        Error::Lake(LakeError::Log { reason, .. }) => reason.clone(),
        Error::Lake(error) => chain(error),
    };
    Ok(Unread { table, part, reason })
}

fn cannot_be_read(table: &TableName) -> String {
    format!("{table} cannot be read")
}

/// Every stored table of the project, parents before children.
fn names(planned: &Planned) -> Vec<TableName> {
    let mut names = vec![discarded()];
    for contract in &planned.project.streams {
        names.extend(relations::stored_of(&contract.name));
    }
    names.extend(planned.project.seeds.iter().map(|seed| seed.name.clone()));
    let stored = planned.plans.iter().filter(|plan| plan.class != Class::View);
    names.extend(stored.map(|plan| plan.model.name.clone()));
    names
}

struct Collector<'a> {
    planned: &'a Planned,
    tables: BTreeMap<TableName, Audited>,
    /// Those whose log cannot be read.
    unread: BTreeSet<TableName>,
}

impl Collector<'_> {
    fn plan(&self, name: &TableName) -> Option<&Plan> {
        self.planned.plans.iter().find(|plan| plan.model.name == *name)
    }

    fn reach(&self, table: &TableName, stream: &str) -> Reach {
        let positions = self.tables.get(table).map(Audited::positions).unwrap_or_default();
        let is_bronze = *table == relations::bronze_table(stream);
        let mut reach = Reach::new();
        for (app_id, at) in &positions {
            let Some((of, partition)) = relations::stream_position(app_id, is_bronze) else {
                continue;
            };
            if of == stream {
                let last = reach.entry(partition).or_insert(*at);
                *last = (*at).max(*last);
            }
        }
        reach
    }

    async fn stream(&self, stream: &str) -> Result<StreamFacts, Error> {
        let [bronze, acceptance, quarantine] = relations::stored_of(stream);
        let mut facts = StreamFacts {
            name: stream.to_owned(),
            bronze: self.reach(&bronze, stream),
            acceptance: self.reach(&acceptance, stream),
            quarantine: self.reach(&quarantine, stream),
            ..StreamFacts::default()
        };
        // Of records that hold arrays, each event.
        let columns = ["_partition", "_offset", "_index", "_ts", "_event_id", "_payload"];
        let columns: Vec<&str> = columns.into_iter().chain(["__identity"]).collect();
        self.each_batch(&bronze, &columns, |rows| {
            let ts = rows.column(3).as_primitive::<TimestampMicrosecondType>();
            let (ids, payloads) = (rows.column(4).as_string::<i32>(), rows.column(5));
            let payloads = payloads.as_binary::<i32>();
            let headers = rows.column(6).as_binary::<i32>();
            let identity = |row| Some(Identity::decode(headers.value(row)).ok()?.fingerprint());
            facts.records.extend(places(rows).enumerate().map(|(row, place)| Record {
                place,
                ts: ts.value(row),
                event_id: fingerprint(ids.value(row).as_bytes()),
                identity: identity(row),
                payload: payloads.is_valid(row).then(|| fingerprint(payloads.value(row))),
            }));
        })
        .await?;
        let columns = ["_partition", "_offset", "_index", "_event_id", "verdict", "__identity"];
        let columns: Vec<&str> = columns.into_iter().chain(ORIGIN).collect();
        self.each_batch(&acceptance, &columns, |rows| {
            let (ids, verdicts) =
                (rows.column(3).as_string::<i32>(), rows.column(4).as_string::<i32>());
            let identities = rows.column(5).as_binary::<i32>();
            let is_replay = rows.column(7);
            let origins: Vec<Place> = places_in(rows, 6).collect();
            facts.decisions.extend(places(rows).enumerate().map(|(row, place)| Decided {
                place,
                event_id: fingerprint(ids.value(row).as_bytes()),
                // What cannot be read is nobody's repeat and counts for nothing: it is found.
                identity: identities.value(row).try_into().unwrap_or_default(),
                verdict: Verdict::parse(verdicts.value(row)).unwrap_or(Verdict::Repeat),
                origin: is_replay.is_valid(row).then(|| origins[row]),
            }));
        })
        .await?;
        self.each_batch(&quarantine, &["_partition", "_offset", "_index", "_payload"], |rows| {
            let payloads = rows.column(3).as_binary::<i32>();
            let payload = |row| payloads.is_valid(row).then(|| fingerprint(payloads.value(row)));
            let found = places(rows).enumerate().map(|(row, place)| (place, payload(row)));
            facts.quarantined.extend(found);
        })
        .await?;
        Ok(facts)
    }

    /// Reads the rows of a table that nothing else reads whole.
    async fn decoded(&self, name: &TableName, content: &Content) -> Result<(), Error> {
        let streams = self.planned.project.streams.iter();
        let mut of_streams = streams.flat_map(|stream| relations::stored_of(&stream.name));
        if matches!(content, Content::Compared(_)) || of_streams.any(|stored| stored == *name) {
            return Ok(());
        }
        self.each_batch(name, &[], |_| {}).await
    }

    /// The rows of a table: of each batch `columns`, in that order; the others are read and thrown
    /// away, so that damage anywhere in a file is found.
    async fn each_batch(
        &self,
        name: &TableName,
        columns: &[&str],
        mut visit: impl FnMut(&RecordBatch),
    ) -> Result<(), Error> {
        let Some(audited) = self.tables.get(name) else { return Ok(()) };
        let mut view = LakeView::default();
        let provider = audited.rows_at(None).await?;
        view.tables.insert(name.clone(), state(name, audited, provider));
        let mut judges = self.planned.judges.iter();
        let judge = judges.find(|j| relations::bronze_table(&j.contract().name) == *name);
        let events = judge.and_then(|judge| relations::events_of(judge, name.clone()));
        let read = events.as_ref().map_or(name, |(events, _)| events).clone();
        view.derived.extend(events);
        let others = audited.schema().fields().iter().map(|field| field.name().as_str());
        let others = others.filter(|other| !columns.contains(other));
        let all = columns.iter().copied().chain(others);
        let list: Vec<String> = all.map(|column| format!("\"{column}\"")).collect();
        let wanted: Vec<usize> = (0..columns.len()).collect();
        let sql = format!("SELECT {} FROM \"{}\".\"{}\"", list.join(", "), read.schema, read.name);
        let visited = async {
            let frame = over(view, Columns::All).sql(&sql).await?;
            let mut rows = frame.execute_stream().await?;
            while let Some(batch) = rows.try_next().await? {
                visit(&batch.project(&wanted)?);
            }
            Ok(())
        };
        visited
            .await
            .map_err(|source| Error::Query { table: name.clone(), source: Box::new(source) })
    }

    /// What a table says that it was built from.
    fn reads(&self, name: &TableName, audited: &Audited) -> Vec<Read> {
        let mut reads = Vec::new();
        for contract in &self.planned.project.streams {
            let bronze = relations::bronze_table(&contract.name);
            if *name == bronze || self.unread.contains(&bronze) {
                continue;
            }
            let there = self.reach(&bronze, &contract.name);
            for (partition, at) in self.reach(name, &contract.name) {
                let input = format!("{}/{partition}", contract.name);
                reads.push(Read { input, at, newest: there.get(&partition).copied() });
            }
        }
        let positions = audited.positions();
        for (input, parent) in &self.tables {
            let recorded = parent.id().ok().and_then(|id| positions.get(&relations::read_id(&id)));
            if let Some(at) = recorded {
                let newest = i64::try_from(parent.version()).ok();
                reads.push(Read { input: input.to_string(), at: *at, newest });
            }
        }
        reads
    }

    async fn content(&self, name: &TableName, audited: &Audited) -> Result<Content, Error> {
        if let Some(seed) = self.planned.project.seeds.iter().find(|seed| seed.name == *name) {
            return self.seed_content(seed, audited).await;
        }
        let Some(plan) = self.plan(name) else { return Ok(Content::Given) };
        if audited.fingerprint != plan.fingerprint {
            let reason = "its table was built by another definition of the model";
            return Ok(Content::NotCompared(reason.to_owned()));
        }
        // An append model over a stream without events has nothing, which is right.
        if audited.positions().is_empty() && plan.class != Class::Append {
            return Ok(Content::NotCompared("it was never built".to_owned()));
        }
        let view = match self.inputs(plan, audited).await? {
            Ok(view) => view,
            Err(reason) => return Ok(Content::NotCompared(reason)),
        };
        let computed = async {
            let rows = over(view, Columns::Model).sql(&plan.model.sql).await?.collect().await?;
            let rows = rows.iter().map(|batch| storable_batch(batch, &plan.schema));
            rows.collect::<Result<Vec<_>, _>>().map_err(DataFusionError::from)
        };
        let expected = match computed.await {
            Ok(rows) => rows,
            Err(error) => {
                let reason = format!("its SQL fails: {}", reason_of(&error));
                return Ok(Content::NotCompared(reason));
            }
        };
        self.compared(name, &expected).await
    }

    async fn seed_content(&self, seed: &Seed, audited: &Audited) -> Result<Content, Error> {
        let recorded = audited.positions().get(relations::SEED_DIGEST).copied();
        if recorded != Some(relations::seed_position(&seed.digest)) {
            let reason = "its file is another than the one that it was loaded from";
            return Ok(Content::NotCompared(reason.to_owned()));
        }
        let schema = storable(seed.rows.schema().as_ref());
        let expected =
            storable_batch(&seed.rows, &schema).map_err(|e| failed(&seed.name, e.into()))?;
        self.compared(&seed.name, &[expected]).await
    }

    async fn compared(&self, name: &TableName, expected: &[RecordBatch]) -> Result<Content, Error> {
        let schema = match (expected.first(), self.plan(name)) {
            (_, Some(plan)) => Arc::clone(&plan.schema),
            (Some(first), None) => first.schema(),
            (None, None) => return Ok(Content::Given),
        };
        let columns: Vec<&str> =
            schema.fields().iter().map(|field| field.name().as_str()).collect();
        let mut found = Vec::new();
        self.each_batch(name, &columns, |rows| found.push(rows.clone())).await?;
        let conformed = found.iter().map(|batch| storable_batch(batch, &schema));
        let found = conformed.collect::<Result<Vec<_>, _>>();
        let compared = found.and_then(|found| differences(expected, &found));
        compared.map(Content::Compared).map_err(|e| failed(name, e.into()))
    }

    /// Everything that a model reads, as far as its table says that it was built; or why that
    /// cannot be had.
    async fn inputs(
        &self,
        plan: &Plan,
        audited: &Audited,
    ) -> Result<Result<LakeView, String>, Error> {
        let mut view = relations::base_view(self.planned);
        let name = &plan.model.name;
        for contract in &self.planned.project.streams {
            let reach = self.reach(name, &contract.name);
            let [bronze, acceptance, _] = relations::stored_of(&contract.name);
            let shown = [relations::raw_name(&contract.name), acceptance.clone()];
            for (stored, shown) in [bronze, acceptance].iter().zip(shown) {
                if self.unread.contains(stored) && plan.read_streams.contains(&contract.name) {
                    return Ok(Err(cannot_be_read(stored)));
                }
                let Some(input) = self.tables.get(stored) else { continue };
                let rows = relations::limited(
                    input.rows_at(None).await?,
                    relations::BRONZE_COLUMNS,
                    &reach,
                );
                let rows = rows.map_err(|e| failed(stored, e))?;
                view.tables.insert(shown.clone(), state(&shown, input, rows));
            }
        }
        let positions = audited.positions();
        for table in &plan.tables {
            let Some(input) = self.tables.get(table) else {
                if self.unread.contains(table) {
                    return Ok(Err(cannot_be_read(table)));
                }
                return Ok(Err(format!("{table}, which it reads, is not there")));
            };
            let by_offset = self.plan(table).filter(|plan| plan.class == Class::Append);
            let rows = if let Some(parent) = by_offset {
                let stream = parent.streams.first().map_or("", String::as_str);
                let reach = self.reach(name, stream);
                relations::limited(input.rows_at(None).await?, (PARTITION, OFFSET), &reach)
                    .map_err(|e| failed(table, e))?
            } else {
                let at = positions.get(&relations::read_id(&input.id()?)).copied();
                let Some(version) = at.and_then(|at| u64::try_from(at).ok()) else {
                    return Ok(Err(format!("no version of {table} is recorded")));
                };
                match input.rows_at(Some(version)).await {
                    Ok(rows) => rows,
                    Err(error) => {
                        return Ok(Err(format!("version {version} of {table}: {error}")));
                    }
                }
            };
            view.tables.insert(table.clone(), state(table, input, rows));
        }
        Ok(Ok(view))
    }
}

fn failed(table: &TableName, source: DataFusionError) -> Error {
    Error::Query { table: table.clone(), source: Box::new(source) }
}

fn over(view: LakeView, columns: Columns) -> SessionContext {
    let runtime = Arc::new(RuntimeEnv::default());
    session(&Arc::new(view), columns, SessionConfig::new(), runtime)
}

fn state(name: &TableName, audited: &Audited, provider: Arc<dyn TableProvider>) -> Arc<TableState> {
    relations::pinned(name, audited.schema(), audited.version(), provider)
}

/// The columns of acceptance that name the quarantined record which is resolved.
const ORIGIN: [&str; 3] = ["__origin_partition", "__origin_offset", "__origin_index"];

/// The places of a batch whose first columns they are.
fn places(rows: &RecordBatch) -> impl Iterator<Item = Place> + '_ {
    places_in(rows, 0)
}

/// The places in three columns from `first` on; where they are null, none that means anything.
fn places_in(rows: &RecordBatch, first: usize) -> impl Iterator<Item = Place> + '_ {
    let partitions = rows.column(first).as_primitive::<Int32Type>();
    let offsets = rows.column(first + 1).as_primitive::<Int64Type>();
    let indexes = rows.column(first + 2).as_primitive::<Int32Type>();
    (0..rows.num_rows()).map(move |row| Place {
        partition: Partition::try_from(partitions.value(row)).unwrap_or(Partition::MAX),
        offset: offsets.value(row),
        index: indexes.value(row),
    })
}
