//! One part of the benchmark, in this process: filling the log, or working it off.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use arrow::{array::AsArray as _, datatypes::Int64Type};
use datafusion::{execution::runtime_env::RuntimeEnv, prelude::SessionConfig};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::Args;
use crate::{
    cli::{
        Failure,
        bench::{
            clicks::{self, ClickLoad, Totals},
            committed,
            process::Sent,
            server,
            work::{self, Worked},
        },
        chain,
        example::{self, CLICKS},
    },
    lake::{
        LakeView,
        session::{Columns, session},
    },
};

/// Folder of the project, below that of the data.
pub(super) const PROJECT: &str = "project";
/// Event time of the first click: 2026-03-02 18:00:00.
const START_US: i64 = 1_772_474_400_000_000;

/// What is taken over from the example.
const OF_EXAMPLE: [&str; 3] = ["sluice.yml", "streams/dvd_clicks.yml", "models/silver/clicks.sql"];
const GOLD: [(&str, &str); 2] = [
    (
        "models/gold/clicks_per_minute.sql",
        "SELECT date_trunc('minute', event_ts) AS window_start, film_id, count(*) AS clicks\n\
         FROM {{ ref('clicks') }}\n\
         GROUP BY date_trunc('minute', event_ts), film_id\n",
    ),
    (
        "models/gold/clicks_per_film.sql",
        "SELECT film_id, count(*) AS clicks\n\
         FROM {{ ref('clicks') }}\n\
         GROUP BY film_id\n",
    ),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    Fill,
    Work,
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Fill => "fill",
            Self::Work => "work",
        })
    }
}

/// What was sent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Filled {
    pub(super) sent: Sent,
    pub(super) totals: Totals,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Found {
    pub(super) worked: Worked,
    /// Rows of Bronze.
    pub(super) bronze: u64,
    /// What Silver, and Gold per minute and film, hold.
    pub(super) totals: Totals,
    /// What Gold per film holds.
    pub(super) films: BTreeMap<i64, u64>,
}

impl Found {
    /// An error if a table holds anything else than what was sent.
    pub(super) fn compare(&self, filled: &Filled) -> Result<(), Failure> {
        let (sent, totals) = (filled.sent.events, &filled.totals);
        if self.bronze != sent {
            let message = format!("Bronze has {} events, {sent} were acked", self.bronze);
            return Err(Failure::work(message));
        }
        let (clicks, wanted) = (self.totals.clicks, totals.clicks);
        if clicks != wanted {
            let message = format!("silver.clicks has {clicks} clicks, {wanted} were acked");
            return Err(Failure::work(message));
        }
        let differs = if self.totals.per_minute != totals.per_minute {
            "gold.clicks_per_minute"
        } else if self.films != totals.per_film() {
            "gold.clicks_per_film"
        } else {
            return Ok(());
        };
        Err(Failure::work(format!("{differs} counts other clicks than those that were acked")))
    }
}

/// Writes the project. On Kafka the name of the topic begins with `topics`.
pub(super) fn unpack(folder: &Path, topics: Option<&str>) -> Result<(), Failure> {
    clicks::unpack(folder, topics, |name| OF_EXAMPLE.contains(&name))?;
    GOLD.into_iter().try_for_each(|(name, sql)| example::write(folder, name, sql.as_bytes()))
}

/// Does one part, of a project that is unpacked; returns a [`Filled`] or a [`Found`].
pub(super) async fn run(
    part: Part,
    args: &Args,
    stop: &CancellationToken,
) -> Result<Value, Failure> {
    let folder = args.data_dir.clone().unwrap_or_default();
    let config = server::config(folder.clone(), Some(&args.log))?;
    let project = folder.join(PROJECT);
    match part {
        Part::Fill => {
            let one_in = Some(args.repeat_one_in).filter(|one_in| *one_in > 0);
            let mut load = ClickLoad::new(START_US, args.rate, args.users, one_in)?;
            let event = |_| load.event();
            let sent = work::fill(&config, &project, CLICKS, args.events, event).await?;
            Ok(json!(Filled { sent, totals: load.totals()? }))
        }
        Part::Work => {
            let count = |view: &LakeView| committed(view, "_bronze", CLICKS);
            let (worked, view) = Box::pin(work::work_off(&config, &project, count, stop)).await?;
            Ok(json!(found(worked, &view).await?))
        }
    }
}

/// What the tables hold, by queries over what is committed.
async fn found(worked: Worked, view: &Arc<LakeView>) -> Result<Found, Failure> {
    let clicks = committed(view, "silver", "clicks");
    let mut totals = Totals { clicks, ..Totals::default() };
    let sql = "SELECT CAST(window_start AS BIGINT) / 60000000, film_id, clicks \
               FROM gold.clicks_per_minute";
    for [minute, film, clicks] in rows(view, sql).await? {
        let films = totals.per_minute.entry(minute).or_default();
        once(films, film, clicks, "gold.clicks_per_minute")?;
    }
    let mut films = BTreeMap::new();
    for [film, clicks] in rows(view, "SELECT film_id, clicks FROM gold.clicks_per_film").await? {
        once(&mut films, film, clicks, "gold.clicks_per_film")?;
    }
    Ok(Found { bronze: worked.events, worked, totals, films })
}

/// Adds a group that is not there yet.
fn once(
    films: &mut BTreeMap<i64, u64>,
    film: i64,
    clicks: i64,
    table: &str,
) -> Result<(), Failure> {
    let clicks = u64::try_from(clicks).unwrap_or_default();
    match films.insert(film, clicks) {
        None => Ok(()),
        Some(_) => Err(Failure::work(format!("{table} has two rows of film {film}"))),
    }
}

/// The rows that a statement gives, all of whose columns are integers.
async fn rows<const WIDTH: usize>(
    view: &Arc<LakeView>,
    sql: &str,
) -> Result<Vec<[i64; WIDTH]>, Failure> {
    let failed = |error| Failure::work(format!("{sql}: {}", chain(&error)));
    let runtime = Arc::new(RuntimeEnv::default());
    let context = session(view, Columns::Visible, SessionConfig::new(), runtime);
    let batches = context.sql(sql).await.map_err(failed)?.collect().await.map_err(failed)?;
    let mut rows = Vec::new();
    for batch in &batches {
        let columns: Option<Vec<_>> =
            batch.columns().iter().map(|c| c.as_primitive_opt::<Int64Type>()).collect();
        let columns = columns.filter(|columns| columns.len() == WIDTH);
        let columns =
            columns.ok_or_else(|| Failure::work(format!("{sql}: not {WIDTH} integers")))?;
        rows.extend(
            (0..batch.num_rows()).map(|row| std::array::from_fn(|at| columns[at].value(row))),
        );
    }
    Ok(rows)
}
