//! The demo's live view: rates, lag, freshness, what is trending.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use arrow::{
    array::{Array as _, AsArray as _, RecordBatch},
    datatypes::{Int64Type, TimestampMicrosecondType},
};
use console::{Term, truncate_str};
use datafusion::{
    error::DataFusionError, execution::runtime_env::RuntimeEnv, prelude::SessionConfig,
};
use tokio::time::Instant;

use crate::{
    cli::print,
    lake::{
        LakeHandle, LakeView,
        session::{Columns, session},
    },
    log::Log,
    ops::Clock,
    process::Status,
};

const REFRESH: Duration = Duration::from_millis(500);
/// Without a terminal: a line every so many refreshes.
const LINE_EVERY: u32 = 4;
/// The rate is that of the last so many refreshes.
const RATE_OVER: usize = 6;

/// What one refresh shows.
#[derive(Default)]
struct Picture {
    rentals: i64,
    clicks: i64,
    per_second: f64,
    quarantined: u64,
    /// Events that are acked and cannot be queried yet.
    lag: i64,
    /// Age of the newest click that can be queried, in milliseconds.
    freshness_ms: Option<i64>,
    trending: Vec<(String, i64, i64)>,
}

/// What the view looks at.
pub(super) struct Watched {
    pub lake: Arc<LakeHandle>,
    pub status: Arc<Status>,
    pub log: Arc<dyn Log>,
    pub clock: Clock,
}

/// Shows the running node until dropped.
pub(super) async fn watch(watched: &Watched, terminal: bool) {
    let mut ticks = tokio::time::interval(REFRESH);
    let mut history: VecDeque<(Instant, u64)> = VecDeque::new();
    let mut drawn = 0;
    let mut tick = 0_u32;
    loop {
        ticks.tick().await;
        let view = watched.lake.load();
        let mut picture = match picture(&view, &watched.clock).await {
            Ok(picture) => picture,
            Err(error) => {
                tracing::warn!(%error, "the view is not drawn");
                continue;
            }
        };
        let (records, quarantined) = totals(&watched.status.to_json());
        picture.lag = lag(watched.log.as_ref(), &view).await;
        picture.quarantined = quarantined;
        picture.per_second = rate(&mut history, records);
        if terminal {
            drawn = redraw(&picture, drawn);
        } else if tick.is_multiple_of(LINE_EVERY) {
            print::status(line(&picture));
        }
        tick = tick.wrapping_add(1);
    }
}

/// Events in the log that `view` does not reach. A log that does not answer shows in its own errors.
async fn lag(log: &dyn Log, view: &LakeView) -> i64 {
    let mut lag = 0;
    for stream in ["dvd_clicks", "dvd_customers", "dvd_rentals"] {
        let extents = log.extents(stream).await.unwrap_or_default();
        for (partition, extent) in (0..).zip(extents) {
            lag += extent.end - view.positions.get(stream, partition).map_or(0, |at| at + 1);
        }
    }
    lag
}

fn rate(history: &mut VecDeque<(Instant, u64)>, records: u64) -> f64 {
    history.push_back((Instant::now(), records));
    if history.len() > RATE_OVER {
        history.pop_front();
    }
    let (Some((from, first)), Some((to, last))) = (history.front(), history.back()) else {
        return 0.0;
    };
    let seconds = (*to - *from).as_secs_f64();
    #[allow(clippy::cast_precision_loss, reason = "shown with few digits")]
    let events = (last - first) as f64;
    if seconds > 0.0 { events / seconds } else { 0.0 }
}

fn totals(status: &serde_json::Value) -> (u64, u64) {
    let streams = status["streams"].as_object().into_iter().flat_map(|s| s.values());
    streams.fold((0, 0), |(records, quarantined), stream| {
        let number = |key: &str| stream[key].as_u64().unwrap_or_default();
        (records + number("records"), quarantined + number("quarantined"))
    })
}

async fn picture(view: &Arc<LakeView>, clock: &Clock) -> Result<Picture, DataFusionError> {
    let mut picture = Picture::default();
    if view.tables.is_empty() {
        return Ok(picture);
    }
    let sql = "SELECT (SELECT count(*) FROM fact_rental) AS rentals, \
               (SELECT count(*) FROM silver.clicks) AS clicks, \
               (SELECT max(event_ts) FROM silver.clicks) AS newest";
    if let Some(rows) = query(view, sql).await?.first() {
        picture.rentals = rows.column(0).as_primitive::<Int64Type>().value(0);
        picture.clicks = rows.column(1).as_primitive::<Int64Type>().value(0);
        let newest = rows.column(2).as_primitive::<TimestampMicrosecondType>();
        if newest.is_valid(0) {
            picture.freshness_ms = Some((clock.now_us() - newest.value(0)).max(0) / 1_000);
        }
    }
    let sql = "SELECT arrow_cast(title, 'Utf8'), clicks, growth FROM trending_films LIMIT 8";
    for rows in query(view, sql).await? {
        let titles = rows.column(0).as_string::<i32>();
        let clicks = rows.column(1).as_primitive::<Int64Type>();
        let growth = rows.column(2).as_primitive::<Int64Type>();
        for row in 0..rows.num_rows() {
            let title = titles.value(row).to_owned();
            picture.trending.push((title, clicks.value(row), growth.value(row)));
        }
    }
    Ok(picture)
}

async fn query(view: &Arc<LakeView>, sql: &str) -> Result<Vec<RecordBatch>, DataFusionError> {
    let runtime = Arc::new(RuntimeEnv::default());
    session(view, Columns::Visible, SessionConfig::new(), runtime).sql(sql).await?.collect().await
}

fn line(picture: &Picture) -> String {
    let trending = picture.trending.first().map_or("-", |(title, _, _)| title.as_str());
    format!(
        "rentals {:>6} · clicks {:>7} · {:>7.0} events/s · lag {} · quarantined {} · newest click \
         {} · trending: {trending}",
        picture.rentals,
        picture.clicks,
        picture.per_second,
        picture.lag,
        picture.quarantined,
        freshness(picture),
    )
}

fn freshness(picture: &Picture) -> String {
    picture.freshness_ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms} ms old"))
}

/// Draws over what was drawn before; returns the number of rows.
fn redraw(picture: &Picture, drawn: usize) -> usize {
    // Where it cannot be asked, what every terminal has.
    let (height, width) = Term::stdout().size_checked().unwrap_or((24, 80));
    let rows = frame(picture, usize::from(height), usize::from(width));
    let up = if drawn > 0 { format!("\x1b[{drawn}A") } else { String::new() };
    print::status(format_args!("{up}\x1b[J{}", rows.join("\n")));
    rows.len()
}

/// The rows of the view, each at most one row of a terminal of this size: a line that wraps takes
/// two, and the next picture would be drawn below it.
fn frame(picture: &Picture, height: usize, width: usize) -> Vec<String> {
    let widest = picture.trending.iter().map(|(_, clicks, _)| *clicks).max().unwrap_or(1).max(1);
    let mut lines = vec![
        format!(
            "  rentals in Gold {:>8}   clicks in Silver {:>9}   events/s {:>7.0}",
            picture.rentals, picture.clicks, picture.per_second
        ),
        format!(
            "  lag in events   {:>8}   newest click {:>13}   quarantined {:>4}",
            picture.lag,
            freshness(picture),
            picture.quarantined
        ),
        String::new(),
        "  trending: clicks of the last 15 minutes, growth over those before".to_owned(),
    ];
    lines.extend(picture.trending.iter().map(|(title, clicks, growth)| {
        let bar = "█".repeat(usize::try_from(clicks * 30 / widest).unwrap_or_default().max(1));
        format!("  {title:<28} {bar:<30} {clicks:>5} {growth:>+5}")
    }));
    lines.extend([String::new(), "  Ctrl-C stops, a second run goes on here".to_owned()]);
    // The cursor stands in the row below, which must be there, too.
    lines.truncate(height.saturating_sub(1));
    lines.iter().map(|line| truncate_str(line, width, "…").into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use console::measure_text_width;

    use super::*;

    #[test]
    fn every_row_fits_the_terminal() {
        let title = "BUCKET BROTHERHOOD AND THE VERY LONG TITLE".to_owned();
        let picture = Picture { trending: vec![(title, 90, 4); 8], ..Picture::default() };
        let rows = |height, width| frame(&picture, height, width);
        assert_eq!(rows(50, 200).len(), 14);
        assert!(rows(50, 200)[4].ends_with("   90    +4"), "{:?}", rows(50, 200));
        for (height, width) in [(24, 80), (24, 40), (10, 60), (3, 10), (1, 1)] {
            let rows = rows(height, width);
            let widest = rows.iter().map(|row| measure_text_width(row)).max().unwrap_or_default();
            assert!(rows.len() < height && widest <= width, "{height} x {width}: {rows:?}");
        }
    }
}
