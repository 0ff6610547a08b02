//! `sluice generate`: made-up events that keep a contract.

pub mod clicks;
mod live;
mod popularity;

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use tokio_util::sync::CancellationToken;

pub use clicks::{Click, Clicks, ClicksError, Config};
pub use live::{Tally, stream};

use crate::{
    cli::{
        Failure, print,
        push::{self, endpoint, positive, progress::Progress, sender},
    },
    domain::{ErrorKind, csv, timestamp::parse_timestamp},
    ops::Clock,
};

/// How long to try again when the server is lost.
const RETRY_FOR: Duration = Duration::from_secs(30);

/// Generates events.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    pub what: What,
}

#[derive(Debug, clap::Subcommand)]
pub enum What {
    /// Clicks of a film platform, as `examples/dvd-clicks` expects them
    DvdClicks(ClicksArgs),
}

/// Generates clicks of a film platform and sends them until stopped.
#[derive(Debug, clap::Args)]
pub struct ClicksArgs {
    /// Events per second, all users together
    #[arg(long, default_value_t = 1.0, value_name = "N", value_parser = positive)]
    pub rate: f64,
    /// The same seed gives the same events [default: another one each time]
    #[arg(long)]
    pub seed: Option<u64>,
    /// Number of users
    #[arg(long, default_value_t = 15, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..))]
    pub users: u32,
    /// End after so many seconds of event time
    #[arg(long, value_name = "SECONDS")]
    pub duration: Option<u64>,
    /// End after so many events
    #[arg(long, value_name = "N")]
    pub count: Option<u64>,
    /// Films to choose from: CSV with a column film_id [default: 1 to 1000]
    #[arg(long, value_name = "FILE")]
    pub films: Option<PathBuf>,
    /// Event time to start at, such as `2026-03-02 18:00:00` [default: now]
    #[arg(long, value_name = "TIME", value_parser = start_time)]
    pub start: Option<i64>,
    /// The ingest server
    #[arg(long, default_value = "http://127.0.0.1:50051")]
    pub url: String,
    /// The stream to send to
    #[arg(long, default_value = "dvd_clicks")]
    pub stream: String,
    /// Write NDJSON to a file (`-`: standard output) as fast as possible instead of sending
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Show no progress
    #[arg(long)]
    pub quiet: bool,
}

fn start_time(text: &str) -> Result<i64, String> {
    parse_timestamp(text).ok_or_else(|| "give a time such as 2026-03-02 18:00:00".into())
}

/// Generates until done or stopped.
pub async fn run(args: Args, stop: CancellationToken) -> Result<(), Failure> {
    let What::DvdClicks(args) = args.what;
    let films = match &args.films {
        Some(path) => read_films(path)?,
        None => (1..=1000).collect(),
    };
    let config = Config {
        seed: args.seed.unwrap_or_else(|| uuid::Uuid::new_v4().as_u64_pair().0),
        users: args.users,
        rate: args.rate,
        start_micros: args.start.unwrap_or_else(|| Clock::system().now_us()),
        films,
    };
    let clicks = Clicks::new(config).map_err(|e| Failure::new(e.kind(), e.to_string()))?;
    let clicks = limited(clicks, args.count, args.duration.map(Duration::from_secs));
    match &args.output {
        Some(path) => write(&args, path.clone(), clicks, stop).await,
        None => send(&args, clicks, stop).await,
    }
}

fn limited(
    clicks: Clicks,
    count: Option<u64>,
    duration: Option<Duration>,
) -> impl Iterator<Item = Click> + Send + 'static {
    let mut elapsed = Duration::ZERO;
    let in_time = move |click: &Click| {
        elapsed = elapsed.saturating_add(click.delay);
        duration.is_none_or(|duration| elapsed <= duration)
    };
    let count = count.map_or(usize::MAX, |count| usize::try_from(count).unwrap_or(usize::MAX));
    clicks.take(count).take_while(in_time)
}

async fn send(
    args: &ClicksArgs,
    clicks: impl Iterator<Item = Click> + Send,
    stop: CancellationToken,
) -> Result<(), Failure> {
    let endpoint = endpoint::endpoint("--url", &args.url, "http")
        .map_err(|error| Failure::invalid(error.to_string()))?;
    push::look_up(&endpoint, &args.stream).await?;
    let mut sender = push::Sender::start(sender::Config {
        endpoint,
        stream: args.stream.clone(),
        producer_id: format!("generate:{}", uuid::Uuid::new_v4().simple()),
        first_sequence: 0,
        want_positions: false,
        retry_for: RETRY_FOR,
    });
    let mut progress = Progress::start(&args.stream, 0, args.quiet);
    let show = |tally: &Tally| progress.update(tally.acked, 0);
    let sent = stream(clicks, &mut sender, &stop, show).await;
    progress.finish();
    let tally = sent.map_err(|error| push::failure(&error))?;
    print::result(format_args!("{} events acked, {} refused", tally.acked, tally.refused))?;
    match tally.reason {
        Some(reason) => Err(Failure::work(format!(
            "{} events were refused, the first because {reason}",
            tally.refused
        ))),
        None => Ok(()),
    }
}

async fn write(
    args: &ClicksArgs,
    path: PathBuf,
    clicks: impl Iterator<Item = Click> + Send + 'static,
    stop: CancellationToken,
) -> Result<(), Failure> {
    let to_stdout = path.as_os_str() == "-";
    if !to_stdout && args.count.is_none() && args.duration.is_none() {
        let hint = "a file needs an end: give --count or --duration with --output";
        return Err(Failure::invalid(hint));
    }
    let written = tokio::task::spawn_blocking(move || {
        let mut out: Box<dyn Write> = match to_stdout {
            true => Box::new(BufWriter::new(io::stdout())),
            false => Box::new(BufWriter::new(File::create(&path).map_err(|e| (path.clone(), e))?)),
        };
        let lines = clicks.take_while(|_| !stop.is_cancelled());
        write_lines(&mut out, lines).map_err(|error| (path, error))
    })
    .await
    .map_err(|error| Failure::new(ErrorKind::Internal, error.to_string()))?;
    match written {
        // Whoever read the pipe has seen enough.
        Err((_, error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err((path, error)) => {
            let path = path.display();
            Err(Failure::unavailable(format!("cannot write {path}: {error}")))
        }
        Ok(()) => Ok(()),
    }
}

fn write_lines(out: &mut dyn Write, clicks: impl Iterator<Item = Click>) -> io::Result<()> {
    for click in clicks {
        out.write_all(click.json.as_bytes())?;
        out.write_all(b"\n")?;
    }
    out.flush()
}

/// The ids of a CSV file with a column `film_id`.
fn read_films(path: &Path) -> Result<Vec<i64>, Failure> {
    let name = path.display();
    let failed = |reason: String| Failure::invalid(format!("{name}: {reason}"));
    let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    let text = text.trim_start_matches('\u{feff}');
    let records = csv::read(text)
        .map_err(|(line, reason)| Failure::invalid(format!("{name}:{line}: {reason}")))?;
    let mut records = records.into_iter();
    let (_, header) = records.next().unwrap_or_default();
    let column = header
        .iter()
        .position(|cell| cell.trim() == "film_id")
        .ok_or_else(|| failed("the header has no column film_id".into()))?;
    let mut films = Vec::new();
    for (line, record) in records {
        let id = record.get(column).map_or("", |id| id.trim());
        let film = id.parse().map_err(|_| {
            Failure::invalid(format!("{name}:{line}: film_id {id:?} is not an integer"))
        })?;
        films.push(film);
    }
    if films.is_empty() {
        return Err(failed("there is no film in it; clicks need at least one".into()));
    }
    Ok(films)
}

#[cfg(test)]
mod tests;
