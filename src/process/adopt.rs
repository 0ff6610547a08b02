//! Another log in the place of the one that filled the lake: on an operator's word only.
//!
//! What the old log held beyond Bronze is lost with it; what the new one holds is taken whole, from
//! its start. Every table's positions are given the new log's name, Bronze's last: until they are,
//! the log counts as replaced, and the command can be given again.

use std::{collections::BTreeMap, sync::Arc};

use arrow::{array::AsArray as _, datatypes::Int32Type};
use datafusion::{execution::runtime_env::RuntimeEnv, prelude::SessionConfig};

use crate::{
    domain::{Offset, Partition, contract::Contract},
    lake::{Lake, LakeView, Move, session},
    log::{
        Log,
        placed::{Placed, Placement},
    },
    process::{
        Deps, Error, Planned,
        offset_table::{Followed, OffsetTable},
        open::{self, Opened},
        stream::StreamTables,
    },
};

/// What an adoption changed for a stream.
#[derive(Debug)]
pub enum Adopted {
    /// It follows another log.
    Log {
        stream: String,
        log_id: String,
        /// Per partition: how far the tables reach, and the number that the log's first record
        /// gets.
        partitions: Vec<(Option<Offset>, Offset)>,
    },
    /// It goes on behind what its log forgot: per partition, the first and the last offset lost.
    Gap { stream: String, lost: BTreeMap<Partition, (Offset, Offset)> },
}

fn generation_id(log_id: &str, stream: &str) -> String {
    format!("log/{log_id}/{stream}")
}

/// Marks a log that another one was adopted after: going back to it takes an adoption too.
pub(super) fn retired_id(log_id: &str, stream: &str) -> String {
    format!("retired/{log_id}/{stream}")
}

fn shift_id(placed_id: &str, stream: &str, partition: Partition) -> String {
    format!("shift/{placed_id}/{stream}/{partition}")
}

/// How the offsets of each stream are counted, as the lake records it. Streams whose log was never
/// adopted are left out.
pub async fn placements(
    planned: &Planned,
    lake: &Lake,
    log: &dyn Log,
) -> Result<BTreeMap<String, Placement>, Error> {
    let mut found = BTreeMap::new();
    for contract in &planned.project.streams {
        let (id, stream) = (log.id(&contract.name), &contract.name);
        let generation_id = generation_id(&id, stream);
        let spec = open::bronze_spec(contract);
        let mut bronze = lake.open(&spec, [generation_id.clone()]).await?;
        let Some(generation) = bronze.position(&generation_id) else { continue };
        let mut placement = Placement { generation, shifts: Vec::new() };
        let placed_id = placement.id(&id);
        let ids = |p| shift_id(&placed_id, stream, p);
        bronze.also_read((0..contract.partitions).map(ids).collect()).await?;
        let shifts = (0..contract.partitions).map(|p| bronze.position(&ids(p)).unwrap_or_default());
        placement.shifts = shifts.collect();
        found.insert(stream.clone(), placement);
    }
    Ok(found)
}

/// Adopts `log` for every stream whose log it is not. `deps.log` is replaced.
///
/// [`Error::DataGap`], where the log is the right one but forgot too early, is an error unless
/// `accept_gap`: then the positions pass over what is lost.
pub async fn adopt(
    mut deps: Deps,
    log: Arc<dyn Log>,
    accept_gap: bool,
) -> Result<Vec<Adopted>, Error> {
    let placements = placements(&deps.planned, &deps.lake, log.as_ref()).await?;
    deps.log = Placed::new(Arc::clone(&log), placements.clone());
    let mut opened = open::open_tables(&deps).await?;
    let mut adopted = Vec::new();
    for at in 0..opened.streams.len() {
        let contract = Arc::clone(opened.streams[at].judge.contract());
        let all = (0..contract.partitions).collect();
        opened.streams[at].hold((0..contract.partitions).collect(), true);
        match open::check_log(&deps, &contract, &opened.streams[at].bronze, &all).await {
            Ok(_) => continue,
            Err(Error::LogReplaced { .. }) => {}
            Err(Error::DataGap { .. }) if accept_gap => {
                adopted
                    .push(pass_over_gaps(&deps, &contract, &mut opened.streams[at].bronze).await?);
                continue;
            }
            Err(error) => return Err(error),
        }
        let generation = placements.get(&contract.name).map_or(0, |placed| placed.generation) + 1;
        let done = adopt_stream(&mut opened, at, &contract, log.as_ref(), generation).await?;
        adopted.push(done);
    }
    Ok(adopted)
}

/// Bronze goes on where the log now starts; the tables behind it follow when they catch up.
async fn pass_over_gaps(
    deps: &Deps,
    contract: &Contract,
    bronze: &mut OffsetTable,
) -> Result<Adopted, Error> {
    let mut lost = BTreeMap::new();
    for (partition, extent) in (0..).zip(deps.log.extents(&contract.name).await?) {
        let next = bronze.at(partition).map_or(0, |at| at + 1);
        if next < extent.start {
            lost.insert(partition, (next, extent.start - 1));
        }
    }
    bronze.advance(&lost.iter().map(|(partition, (_, last))| (*partition, *last)).collect());
    bronze.seal(true).await?;
    Ok(Adopted::Gap { stream: contract.name.clone(), lost })
}

async fn adopt_stream(
    opened: &mut Opened,
    at: usize,
    contract: &Contract,
    log: &dyn Log,
    generation: i64,
) -> Result<Adopted, Error> {
    let (id, name) = (log.id(&contract.name), &contract.name);
    let to_id = Placement { generation, shifts: Vec::new() }.id(&id);
    let stream = &mut opened.streams[at];
    let (log_ids, held) = logs_of(stream).await?;
    // The old log may have had more: should the new one grow, they too go on where they are.
    let partitions = contract.partitions.max(held);
    let followed = |log_id: String| Followed { log_id, stream: name.clone(), partitions };
    let to = followed(to_id.clone());
    let from: Vec<Followed> = log_ids.into_iter().map(followed).collect();
    let followers = [&mut stream.acceptance, &mut stream.quarantine].into_iter();
    for table in followers.chain(stream.models.iter_mut().map(|model| &mut model.table)) {
        table.adopt(&from, &to, Followed::input_app_id, |_| Vec::new()).await?;
    }
    for derived in &mut opened.derived {
        derived.adopt(&from, &to).await?;
    }
    let bronze = &mut opened.streams[at].bronze;
    let retired = from.iter().map(|log| retired_id(&log.log_id, name));
    let retired: Vec<String> = retired.filter(|id| *id != retired_id(&to_id, name)).collect();
    bronze.table.also_read(retired.clone()).await?;
    let retired = retired.into_iter().filter(|id| bronze.table.position(id).is_none());
    let retired: Vec<Move> =
        retired.map(|app_id| Move { app_id, from: None, to: generation }).collect();
    let mut starts: Vec<Offset> = log.extents(name).await?.iter().map(|e| e.start).collect();
    starts.resize(starts.len().max(partitions as usize), 0);
    let mut partitions = Vec::new();
    let placing = |reached: &[Option<Offset>]| {
        let counted = Move {
            app_id: generation_id(&id, name),
            from: (generation > 1).then_some(generation - 1),
            to: generation,
        };
        let shifts = (0..).zip(&starts).zip(reached).map(|((p, start), reached)| {
            let next = reached.map_or(0, |at| at + 1);
            partitions.push((*reached, next));
            let to = next - start;
            Move { app_id: shift_id(&to_id, name, p), from: None, to }
        });
        let shifts: Vec<Move> = shifts.collect();
        shifts.into_iter().chain([counted]).chain(retired).collect()
    };
    bronze.adopt(&from, &to, Followed::bronze_app_id, placing).await?;
    Ok(Adopted::Log { stream: name.clone(), log_id: to_id, partitions })
}

/// The logs that Bronze's rows came from, and how many partitions they had.
async fn logs_of(stream: &mut StreamTables) -> Result<(Vec<String>, Partition), Error> {
    let name = stream.bronze.info.name.clone();
    let mut view = LakeView::default();
    view.tables.insert(name.clone(), stream.bronze.state());
    let runtime = Arc::new(RuntimeEnv::default());
    let columns = session::Columns::All;
    let context = session::session(&Arc::new(view), columns, SessionConfig::new(), runtime);
    let sql = format!(
        "SELECT arrow_cast(_log, 'Utf8'), max(_partition) FROM \"{}\".\"{}\" GROUP BY 1",
        name.schema, name.name
    );
    let (mut logs, mut partitions) = (Vec::new(), 0);
    for batch in context.sql(&sql).await?.collect().await? {
        logs.extend(batch.column(0).as_string::<i32>().iter().flatten().map(str::to_owned));
        let last = arrow::compute::max(batch.column(1).as_primitive::<Int32Type>());
        let count = last.and_then(|last| Partition::try_from(last).ok()).map_or(0, |last| last + 1);
        partitions = count.max(partitions);
    }
    Ok((logs, partitions))
}
