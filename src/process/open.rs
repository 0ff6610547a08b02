//! Opening every table of a project, and checking that lake and log belong together.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use arrow::{
    array::{Array as _, AsArray as _, RecordBatch},
    datatypes::{Int64Type, SchemaRef, TimestampMicrosecondType},
};

use crate::{
    bronze::{Identities, Judge, Origin, acceptance_schema, bronze_schema, quarantine_schema},
    domain::{Offset, Partition, TableName, contract::Contract, record::LogRecord},
    lake::{LakeView, OFFSET, OffsetWindow, PARTITION, RelationInfo, RelationKind, TableSpec},
    models::{Class, Input, Plan, Program},
    process::{
        Deps, Error,
        adopt::retired_id,
        anchors::Anchors,
        derived::Derived,
        kept::{Kept, KeptBy},
        offset_table::{Followed, OffsetTable},
        plans::RowModel,
        relations::{ACCEPTANCE, BRONZE_COLUMNS, QUARANTINED, RAW, base_view, model_info},
        rows::placed_schema,
        stream::{Counts, StreamTables, believable},
    },
    project::Seed,
};

/// Fingerprints of tables whose form only we decide. Persisted: raised with their schema.
const BRONZE_FORM: &str = "bronze-1";
const ACCEPTANCE_FORM: &str = "acceptance-2";
const QUARANTINE_FORM: &str = "quarantine-1";

/// Everything open.
pub(super) struct Opened {
    pub streams: Vec<StreamTables>,
    /// Seeds, then recomputed models, parents before children.
    pub derived: Vec<Derived>,
    /// Views and functions, which never change while running.
    pub base: LakeView,
    /// Models that cannot run, with the reason.
    pub stopped: BTreeMap<TableName, String>,
}

/// Looks whether the log is the one that filled the tables of a stream, in `partitions`, from which
/// this process is about to read.
pub(super) async fn check(
    deps: &Deps,
    stream: &mut StreamTables,
    partitions: &BTreeSet<Partition>,
) -> Result<(), Error> {
    check_bronze(stream, partitions).await?;
    let contract = Arc::clone(stream.judge.contract());
    let Checked { times, expired, last } =
        check_log(deps, &contract, &stream.bronze, partitions).await?;
    stream.times.extend(times);
    last.iter().for_each(|record| stream.anchors.committed_at(record));
    stream.pass_over(&expired);
    Ok(())
}

/// Opens every table, whatever the log is. This process holds no partition of them yet.
pub(super) async fn open_tables(deps: &Deps) -> Result<Opened, Error> {
    let planned = &deps.planned;
    let mut streams = Vec::new();
    for judge in &planned.judges {
        streams.push(open_stream(deps, judge).await?);
    }
    let mut opened =
        Opened { streams, derived: Vec::new(), base: base_view(planned), stopped: BTreeMap::new() };
    for seed in &planned.project.seeds {
        let derived = open_seed(deps, seed).await?;
        opened.derived.push(derived);
    }
    for plan in &planned.plans {
        open_model(deps, plan, &mut opened).await?;
    }
    Ok(opened)
}

fn followed(deps: &Deps, contract: &Contract) -> Followed {
    Followed {
        log_id: deps.log.id(&contract.name),
        stream: contract.name.clone(),
        partitions: contract.partitions,
    }
}

fn spec_of(
    contract: &Contract,
    schema: &str,
    columns: SchemaRef,
    form: &str,
    about: &str,
) -> TableSpec {
    TableSpec {
        name: TableName::new(schema, &contract.name),
        schema: columns,
        fingerprint: form.to_owned(),
        description: format!("{about} of stream {}", contract.name),
    }
}

/// The Bronze table of a stream.
pub(super) fn bronze_spec(contract: &Contract) -> TableSpec {
    spec_of(contract, "bronze", bronze_schema(), BRONZE_FORM, "Every record")
}

async fn open_stream(deps: &Deps, judge: &Arc<Judge>) -> Result<StreamTables, Error> {
    let contract = judge.contract();
    let followed = followed(deps, contract);
    let bronze_ids = (0..followed.partitions).map(|p| followed.bronze_app_id(p)).collect();
    let table = |schema: &str, columns: SchemaRef, form: &str, about: &str| {
        spec_of(contract, schema, columns, form, about)
    };
    let info = |schema: &str, kind: RelationKind, description: &str| RelationInfo {
        name: TableName::new(schema, &contract.name),
        kind,
        description: description.to_owned(),
        columns: BTreeMap::new(),
    };
    let spec = bronze_spec(contract);
    let about = info(RAW, RelationKind::Internal, "");
    let mut bronze =
        OffsetTable::open(&deps.lake, &spec, about, followed.clone(), bronze_ids, BRONZE_COLUMNS)
            .await?;
    bronze.table.check_fingerprint()?;
    let retired = retired_id(&deps.log.id(&contract.name), &contract.name);
    bronze.also_read(vec![retired]).await?;
    let input_ids: Vec<String> =
        (0..followed.partitions).map(|p| followed.input_app_id(p)).collect();
    let spec =
        table(ACCEPTANCE, acceptance_schema(), ACCEPTANCE_FORM, "What became of the records");
    let about = info(ACCEPTANCE, RelationKind::Internal, "");
    let (ids, place) = (input_ids.clone(), BRONZE_COLUMNS);
    let acceptance =
        OffsetTable::open(&deps.lake, &spec, about, followed.clone(), ids, place).await?;
    acceptance.table.check_fingerprint()?;
    let spec = table("quarantine", quarantine_schema(), QUARANTINE_FORM, "Records set aside");
    let about = info(QUARANTINED, RelationKind::Internal, "");
    let quarantine =
        OffsetTable::open(&deps.lake, &spec, about, followed, input_ids, place).await?;
    quarantine.table.check_fingerprint()?;
    Ok(StreamTables {
        judge: Arc::clone(judge),
        bronze,
        acceptance,
        quarantine,
        models: Vec::new(),
        identities: Identities::default(),
        known: BTreeMap::new(),
        is_owned: false,
        halted: None,
        held: BTreeSet::new(),
        counts: Counts::default(),
        origin: Origin {
            log_id: deps.log.id(&contract.name),
            topic: deps.log.topic(&contract.name),
        },
        times: BTreeMap::new(),
        anchors: Anchors::default(),
        read: BTreeSet::new(),
        readers_at: BTreeMap::new(),
        fed: Vec::new(),
    })
}

/// Decisions follow Bronze: where there are some on records that it does not have, a commit of
/// Bronze is missing. Positions alone may be ahead, over offsets that no record has.
async fn check_bronze(
    stream: &mut StreamTables,
    partitions: &BTreeSet<Partition>,
) -> Result<(), Error> {
    let mut all = 0..stream.judge.contract().partitions;
    let is_known = all.any(|p| stream.bronze.committed_at(p).is_some());
    if !is_known && stream.bronze.committed().rows > 0 {
        // Of another log, which is found when the logs are compared.
        return Ok(());
    }
    for partition in partitions.iter().copied() {
        let after = stream.bronze.committed_at(partition);
        let decided = stream.acceptance.committed_at(partition);
        let Some(through) = decided.filter(|at| Some(*at) > after) else { continue };
        let windows = [(partition, OffsetWindow { after, through })];
        let decisions = stream.acceptance.rows_in(&windows.into()).await?;
        if decisions.iter().any(|rows| rows.num_rows() > 0) {
            // Unless another processor has committed both since: then its position has moved.
            stream.bronze.follow().await?;
            let next = after.map_or(0, |at| at + 1);
            let bronze = &stream.bronze.table;
            let (table, missing) = (bronze.name().clone(), bronze.missing_commit().await);
            return Err(Error::CommitMissing { table, partition, next, decided: through, missing });
        }
    }
    Ok(())
}

/// Offsets below a position in which the last record is looked for.
const LOOK_BACK: Offset = 1_024;

/// What a look at a stream's log told.
pub(super) struct Checked {
    /// Per partition, the time of the last record in Bronze.
    pub times: BTreeMap<Partition, i64>,
    /// Per partition, the last offset that others let expire before Sluice first looked: none of
    /// its records. What expires from then on is missed.
    pub expired: BTreeMap<Partition, Offset>,
    /// The records at Bronze's position that the log still has.
    pub last: Vec<LogRecord>,
}

/// Compares the record at Bronze's position with what the log holds there.
pub(super) async fn check_log(
    deps: &Deps,
    contract: &Contract,
    bronze: &OffsetTable,
    partitions: &BTreeSet<Partition>,
) -> Result<Checked, Error> {
    let extents = deps.log.extents(&contract.name).await?;
    let replaced = |partition, offset, reason| {
        Err(Error::LogReplaced { stream: contract.name.clone(), partition, offset, reason })
    };
    let retired = retired_id(&deps.log.id(&contract.name), &contract.name);
    if bronze.table.position(&retired).is_some() {
        return replaced(0, 0, "another log was adopted after it");
    }
    let known = (0..contract.partitions).any(|p| bronze.committed_at(p).is_some());
    if !known && bronze.table.committed().await?.rows > 0 {
        return replaced(0, 0, "its positions name another log");
    }
    let (mut times, mut expired, mut last_records) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
    let extents = (0..contract.partitions).zip(&extents);
    for (partition, extent) in extents.filter(|(partition, _)| partitions.contains(partition)) {
        let Some(at) = bronze.committed_at(partition) else {
            if extent.start > 0 && (known || !contract.topic.is_external) {
                return Err(gap(contract, partition, 0, extent.start));
            }
            if extent.start > 0 {
                expired.insert(partition, extent.start - 1);
            }
            continue;
        };
        if extent.end <= at {
            return replaced(partition, at, "the log ends before that offset");
        }
        if extent.start > at + 1 {
            return Err(gap(contract, partition, at + 1, extent.start));
        }
        let windows = [(partition, OffsetWindow { after: Some(at - LOOK_BACK), through: at })];
        let rows = bronze.rows_in(&windows.into()).await?;
        let last = rows.iter().filter_map(|rows| {
            let times = rows.column_by_name("_ts")?.as_primitive_opt::<TimestampMicrosecondType>();
            arrow::compute::max(times?)
        });
        times.extend(last.max().map(|time| (partition, time)));
        // The position itself may be that of no record, such as a transaction's marker.
        let offsets = rows.iter().filter_map(|rows| {
            let offsets = rows.column_by_name("_offset")?.as_primitive_opt::<Int64Type>();
            arrow::compute::max(offsets?)
        });
        let Some(last_row) = offsets.max() else { continue };
        if let Some(record) = deps.log.get(&contract.name, partition, last_row).await? {
            if !rows.iter().any(|rows| is_record(rows, &record).unwrap_or(false)) {
                return replaced(partition, last_row, "the record there is another one");
            }
            last_records.push(record);
        }
    }
    Ok(Checked { times, expired, last: last_records })
}

fn gap(contract: &Contract, partition: Partition, wanted: Offset, start: Offset) -> Error {
    Error::DataGap { stream: contract.name.clone(), partition, wanted, start }
}

/// Whether a Bronze row of `rows` is that record.
fn is_record(rows: &RecordBatch, record: &LogRecord) -> Option<bool> {
    let time_of = |name| rows.column_by_name(name)?.as_primitive_opt::<TimestampMicrosecondType>();
    let offsets = rows.column_by_name("_offset")?.as_primitive_opt::<Int64Type>()?;
    let (times, read) = (time_of("_ts")?, time_of("_ingested_at")?);
    let payloads = rows.column_by_name("_payload")?.as_binary_opt::<i32>()?;
    Some((0..rows.num_rows()).any(|row| {
        // Bronze raises times that fall.
        offsets.value(row) == record.offset
            && times.value(row) >= believable(record.timestamp_us, read.value(row))
            && payloads.is_valid(row).then(|| payloads.value(row)) == record.payload.as_deref()
    }))
}

async fn open_seed(deps: &Deps, seed: &Seed) -> Result<Derived, Error> {
    let schema = crate::models::storable(seed.rows.schema().as_ref());
    let spec = TableSpec {
        name: seed.name.clone(),
        fingerprint: format!("seed {schema:?}"),
        schema,
        description: seed.description.clone(),
    };
    let info = RelationInfo {
        name: seed.name.clone(),
        kind: RelationKind::Seed,
        description: seed.description.clone(),
        columns: seed.columns.clone(),
    };
    let derived = Derived::open(&deps.lake, &spec, info.clone(), None, &[], &[]).await?;
    if deps.membership.is_some() || derived.table.check_fingerprint().is_ok() {
        return Ok(derived);
    }
    // Other columns. All of a seed is in its file, so the table is made anew.
    deps.lake.remove(&seed.name).await?;
    Ok(Derived::open(&deps.lake, &spec, info, None, &[], &[]).await?)
}

/// Brings the table of a seed up to its file: by its owner only.
pub(super) async fn load_seed(deps: &Deps, derived: &mut Derived) -> Result<(), Error> {
    let seeds = &deps.planned.project.seeds;
    let Some(seed) = seeds.iter().find(|seed| seed.name == derived.info.name) else {
        return Ok(());
    };
    // Others of the group have the old one open: with other columns, one process has to start alone.
    derived.table.check_fingerprint()?;
    derived.load_seed(&seed.rows, &seed.digest).await?;
    Ok(())
}

async fn open_model(deps: &Deps, plan: &Plan, opened: &mut Opened) -> Result<(), Error> {
    let stopped_parent = plan.inputs.iter().find_map(|input| match input {
        Input::Table(name) if opened.stopped.contains_key(name) => Some(name.clone()),
        _ => None,
    });
    let model = &plan.model;
    let info = model_info(model);
    let stopped = match plan.class {
        Class::View => None,
        Class::Append => open_append(deps, plan, info, opened, stopped_parent.is_some()).await?,
        _ => open_derived(deps, plan, info, opened, stopped_parent.is_some()).await?,
    };
    let reason = stopped_parent.map(|parent| format!("reads {parent}, which is stopped"));
    if let Some(reason) = reason.or(stopped) {
        tracing::error!(model = %model.name, %reason, "model is stopped, its table stays as it is");
        opened.stopped.insert(model.name.clone(), reason);
    }
    Ok(())
}

/// What to do when a table was built by another definition of its model.
fn fingerprint_hint() -> String {
    "its table was built by another definition of the model or of what it reads; stop the server, \
     run `sluice rebuild` for the project and its data folder, and start again"
        .to_owned()
}

/// The table of a stored model.
pub(super) fn model_spec(plan: &Plan) -> TableSpec {
    let schema = match &plan.program {
        Program::Rows(_) => placed_schema(&plan.schema),
        Program::Kept(program) => Arc::clone(program.stored_schema()),
        Program::None => Arc::clone(&plan.schema),
    };
    TableSpec {
        name: plan.model.name.clone(),
        schema,
        fingerprint: plan.fingerprint.clone(),
        description: plan.model.description.clone(),
    }
}

async fn open_append(
    deps: &Deps,
    plan: &Plan,
    info: RelationInfo,
    opened: &mut Opened,
    parent_stopped: bool,
) -> Result<Option<String>, Error> {
    let name = plan.model.name.clone();
    let input = plan.inputs.first().cloned();
    let stream = plan.streams.first();
    let position = opened.streams.iter().position(|s| Some(s.name()) == stream.map(String::as_str));
    let (Some(input), Some(position)) = (input, position) else {
        return Err(Error::Internal(format!("{name} is row-wise without a stream")));
    };
    let contract = Arc::clone(opened.streams[position].judge.contract());
    let followed = followed(deps, &contract);
    let app_ids = (0..followed.partitions).map(|p| followed.input_app_id(p)).collect();
    let spec = model_spec(plan);
    let columns = (PARTITION, OFFSET);
    let mut table = OffsetTable::open(&deps.lake, &spec, info, followed, app_ids, columns).await?;
    if table.table.check_fingerprint().is_err() || parent_stopped {
        opened.base.tables.insert(name.clone(), table.state());
        return Ok((!parent_stopped).then(fingerprint_hint));
    }
    let Program::Rows(program) = plan.program.clone() else {
        return Err(Error::Internal(format!("{name} is row-wise without a program")));
    };
    let models = &mut opened.streams[position].models;
    let parent = models.iter().find(|model| Input::Table(model.name.clone()) == input);
    let level = parent.map_or(0, |parent| parent.level + 1);
    models.push(RowModel { name, input, program, table, level, failure: None });
    Ok(None)
}

async fn open_derived(
    deps: &Deps,
    plan: &Plan,
    info: RelationInfo,
    opened: &mut Opened,
    parent_stopped: bool,
) -> Result<Option<String>, Error> {
    let name = plan.model.name.clone();
    let spec = model_spec(plan);
    let reads: BTreeSet<&TableName> = plan.tables.iter().collect();
    let parents = opened.derived.iter().filter(|d| reads.contains(&d.info.name));
    let parents: Vec<&Derived> = parents.collect();
    let contracts = deps.planned.project.streams.iter();
    let streams: Vec<Followed> = contracts
        .filter(|contract| plan.streams.contains(&contract.name))
        .map(|contract| followed(deps, contract))
        .collect();
    let shared = Arc::new(plan.clone());
    let mut derived =
        Derived::open(&deps.lake, &spec, info, Some(shared), &streams, &parents).await?;
    if derived.table.check_fingerprint().is_err() || parent_stopped {
        opened.base.tables.insert(name.clone(), Arc::new(derived.state()));
        return Ok((!parent_stopped).then(fingerprint_hint));
    }
    if let Program::Kept(program) = &plan.program {
        let own = Input::Table(name);
        let is_read = deps.planned.plans.iter().any(|plan| plan.driving.contains(&own));
        let inputs = plan.driving.iter().map(|input| kept_by(deps, input)).collect();
        derived.keep_by(Kept::new(inputs, Arc::clone(program), is_read));
    }
    opened.derived.push(derived);
    Ok(None)
}

/// What a model is kept by, and the streams behind that.
fn kept_by(deps: &Deps, input: &Input) -> KeptBy {
    let (driven_by, streams) = match input {
        Input::Stream(stream) => (Some(stream.clone()), vec![stream.clone()]),
        Input::Table(name) => {
            let plan = deps.planned.plans.iter().find(|plan| plan.model.name == *name);
            let streams = plan.map_or_else(Vec::new, |plan| plan.streams.clone());
            let is_placed = plan.is_some_and(|plan| plan.class.is_by_offset());
            (streams.first().filter(|_| is_placed).cloned(), streams)
        }
    };
    KeptBy::new(input.clone(), driven_by, streams)
}
