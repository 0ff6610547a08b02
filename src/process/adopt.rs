//! Another log in the place of the one that filled the lake: on an operator's word only.
//!
//! What the old log held beyond Bronze is lost with it; what the new one holds is taken whole, from
//! its start. Every table's positions are given the new log's name, Bronze's last: until they are,
//! the log counts as replaced, and the command can be given again.

use std::{collections::BTreeMap, sync::Arc};

use arrow::array::AsArray as _;
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
        offset_table::Followed,
        open::{self, Opened},
        stream::StreamTables,
    },
};

/// A stream whose log was adopted.
#[derive(Debug)]
pub struct Adopted {
    pub stream: String,
    pub log_id: String,
    /// Per partition: how far the tables reach, and the number that the log's first record gets.
    pub partitions: Vec<(Option<Offset>, Offset)>,
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
/// [`Error::DataGap`] stays an error: the log is the right one, but it forgot too early.
pub async fn adopt(mut deps: Deps, log: Arc<dyn Log>) -> Result<Vec<Adopted>, Error> {
    let placements = placements(&deps.planned, &deps.lake, log.as_ref()).await?;
    deps.log = Placed::new(Arc::clone(&log), placements.clone());
    let mut opened = open::open_tables(&deps).await?;
    let mut adopted = Vec::new();
    for at in 0..opened.streams.len() {
        let contract = Arc::clone(opened.streams[at].judge.contract());
        match open::check_log(&deps, &contract, &opened.streams[at].bronze).await {
            Ok(_) => continue,
            Err(Error::LogReplaced { .. }) => {}
            Err(error) => return Err(error),
        }
        let generation = placements.get(&contract.name).map_or(0, |placed| placed.generation) + 1;
        let done = adopt_stream(&mut opened, at, &contract, log.as_ref(), generation).await?;
        adopted.push(done);
    }
    Ok(adopted)
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
    let followed =
        |log_id: String| Followed { log_id, stream: name.clone(), partitions: contract.partitions };
    let to = followed(to_id.clone());
    let stream = &mut opened.streams[at];
    let from: Vec<Followed> = log_ids(stream).await?.into_iter().map(followed).collect();
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
    let extents = log.extents(name).await?;
    let mut partitions = Vec::new();
    let placing = |reached: &[Option<Offset>]| {
        let counted = Move {
            app_id: generation_id(&id, name),
            from: (generation > 1).then_some(generation - 1),
            to: generation,
        };
        let shifts = (0..).zip(&extents).zip(reached).map(|((p, extent), reached)| {
            let next = reached.map_or(0, |at| at + 1);
            partitions.push((*reached, next));
            let to = next - extent.start;
            Move { app_id: shift_id(&to_id, name, p), from: None, to }
        });
        let shifts: Vec<Move> = shifts.collect();
        shifts.into_iter().chain([counted]).chain(retired).collect()
    };
    bronze.adopt(&from, &to, Followed::bronze_app_id, placing).await?;
    Ok(Adopted { stream: name.clone(), log_id: to_id, partitions })
}

/// The logs that Bronze's rows came from.
async fn log_ids(stream: &mut StreamTables) -> Result<Vec<String>, Error> {
    let name = stream.bronze.info.name.clone();
    let mut view = LakeView::default();
    view.tables.insert(name.clone(), stream.bronze.state());
    let runtime = Arc::new(RuntimeEnv::default());
    let columns = session::Columns::All;
    let context = session::session(&Arc::new(view), columns, SessionConfig::new(), runtime);
    let sql = format!("SELECT DISTINCT _log FROM \"{}\".\"{}\"", name.schema, name.name);
    let batches = context.sql(&sql).await?.collect().await?;
    let texts = batches.iter().flat_map(|batch| {
        let column = arrow::compute::cast(batch.column(0), &arrow::datatypes::DataType::Utf8);
        column.map(|column| {
            let texts = column.as_string::<i32>().iter();
            texts.flatten().map(str::to_owned).collect::<Vec<_>>()
        })
    });
    Ok(texts.flatten().collect())
}
