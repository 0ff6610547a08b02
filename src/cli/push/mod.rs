//! `sluice push`: files into a stream, in constant memory, resumable, with a report.
//!
//! Rows go as they stand, file by file, or sorted, all files together. Every row has a fixed
//! identity: its own where the contract names one, else (file digest, row number). So whatever is
//! sent twice, after a lost connection or by a second run, counts once.

pub mod endpoint;
mod feed;
mod lookup;
mod pace;
mod part;
pub(super) mod progress;
mod ranges;
mod read;
mod report;
pub mod sender;
mod sort;
mod state;
mod transfer;
mod verdicts;

use std::path::PathBuf;

use clap::ValueEnum;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;

pub use lookup::{failure, stream as look_up};
pub use read::{Encoding, Format};
pub use sender::Sender;
pub(in crate::cli) use state::home as state_home;

use crate::{
    cli::{Failure, print},
    domain::array::EVENTS_MAX,
    ingest::proto::StreamInfo,
};
use feed::Cut;
use pace::Pace;
use part::Part;
use read::Input;
use report::Report;
use sort::Sort;
use state::{Earlier, State, Store};
use transfer::{Ended, Transfer};

/// A batch is closed at this size whatever it holds.
const BATCH_BYTES_MAX: usize = 1024 * 1024;

/// Rows of a record at most: no record holds more events.
const ARRAY_ROWS_MAX: i64 = EVENTS_MAX as i64;

/// Pushes files into a stream.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name of the stream
    pub stream: String,
    /// Files, pushed in this order: CSV, NDJSON or Parquet, also .gz and .zst; `-`: standard input
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// The ingest server
    #[arg(long, default_value = "http://127.0.0.1:50051")]
    pub url: String,
    /// The Flight SQL server that tells how many events were repeats; `none`: do not ask
    #[arg(long, default_value = "grpc://127.0.0.1:50052")]
    pub query_url: String,
    /// Format of the files [default: by their names; ndjson for standard input]
    #[arg(long, value_name = "FORMAT")]
    pub input_format: Option<Format>,
    /// Encoding of CSV files
    #[arg(long, default_value = "auto")]
    pub encoding: Encoding,
    /// Events per second [default: as fast as possible]
    #[arg(long, value_name = "N", value_parser = positive)]
    pub rate: Option<f64>,
    /// Send the rows of all files together in ascending order of this member of their events: of
    /// times, or of numbers where no row has a time. A time is written as in 2024-05-25 15:46:52.42,
    /// with T and a zone if need be. Rows with the same value keep the order of the files and of
    /// the rows in them. Rows whose value is missing, null or neither (or a number among times) are
    /// refused. All is read before the first row is sent, standard input to its end; what does not
    /// fit into 256 MiB is sorted in the folder for temporary files ($TMPDIR)
    #[arg(long, value_name = "FIELD", conflicts_with = "repeat",
          value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub sort_by: Option<String>,
    /// Replay the events by the times of --sort-by, so many times faster than they happened: at
    /// 3600x (or 3600) an hour takes a second. About twenty batches a second go, each when its
    /// first event is due
    #[arg(long, value_name = "FACTOR", value_parser = factor, requires = "sort_by",
          conflicts_with = "rate")]
    pub speed: Option<f64>,
    /// Push the files again and again, as new events each time, until stopped; only for a stream
    /// whose events carry no identity of their own
    #[arg(long = "loop")]
    pub repeat: bool,
    /// Events per batch, at most
    #[arg(long, visible_alias = "batch-rows", default_value_t = 500, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub batch_size: u32,
    /// Join the rows into records of N: each is a JSON array, and a batch. For a stream whose contract
    /// says `records: arrays` and whose events carry their identity, so that rows which are joined
    /// otherwise, or not at all, are the same events. The last record is smaller, and one that
    /// would be larger than the server takes
    #[arg(long, value_name = "N", conflicts_with_all = ["batch_size", "repeat"],
          value_parser = clap::value_parser!(u32).range(1..=ARRAY_ROWS_MAX))]
    pub as_arrays: Option<u32>,
    /// How long to try again when the server is lost
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    pub retry_for: u64,
    /// Begin anew where an earlier run of this command was interrupted
    #[arg(long)]
    pub no_resume: bool,
    /// Where interrupted pushes are remembered [default: ~/.local/state/sluice/push]
    #[arg(long, env = "SLUICE_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Show no progress
    #[arg(long)]
    pub quiet: bool,
    /// Form of the report
    #[arg(long, default_value = "text", value_name = "FORM")]
    pub report: ReportForm,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ReportForm {
    Text,
    Json,
}

/// A number above zero.
pub(super) fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() && number > 0.0 => Ok(number),
        _ => Err("give a number above 0".into()),
    }
}

/// A number above zero, with or without an `x`.
fn factor(text: &str) -> Result<f64, String> {
    let number = positive(text.strip_suffix(['x', 'X']).unwrap_or(text));
    number.map_err(|_| "give a number above 0, such as 3600x".into())
}

impl Args {
    fn pace(&self) -> Pace {
        match (self.rate, self.speed) {
            (Some(rate), _) => Pace::Rate(rate),
            (None, Some(speed)) => Pace::Speed(speed),
            (None, None) => Pace::Free,
        }
    }

    fn parts(&self, inputs: &[Input]) -> Vec<Part> {
        let sort = self.sort_by.as_deref().map(|field| Sort::new(field, self.speed.is_some()));
        Part::of(inputs, sort.as_ref())
    }
}

/// Pushes, prints the report. `stop` ends it early: what is in flight is waited for, and the next
/// run goes on from there.
pub async fn run(args: Args, stop: CancellationToken) -> Result<(), Failure> {
    let (report, outcome) = push(&args, &stop).await?;
    match args.report {
        ReportForm::Text => print::result(&report)?,
        ReportForm::Json => print::result(serde_json::json!(report))?,
    }
    outcome
}

/// Pushes without a report. Whether everything was sent.
pub(super) async fn quietly(args: &Args, stop: &CancellationToken) -> Result<bool, Failure> {
    let (report, outcome) = push(args, stop).await?;
    if report.interrupted { Ok(false) } else { outcome.map(|()| true) }
}

/// The report, and how the command ends. An error where there is nothing to report.
async fn push(
    args: &Args,
    stop: &CancellationToken,
) -> Result<(Report, Result<(), Failure>), Failure> {
    let endpoint = endpoint::endpoint("--url", &args.url, "http").map_err(usage)?;
    let query = match args.query_url.as_str() {
        "none" => None,
        url => Some(endpoint::endpoint("--query-url", url, "grpc").map_err(usage)?),
    };
    let parts = args.parts(&inspect(args).await?);
    let info = look_up(&endpoint, &args.stream).await?;
    check_loop(args, &info)?;
    check_arrays(args, &info)?;
    let cut = cut_for(args, &info);
    let store = open_store(args, &endpoint, &parts)?;
    let started = Instant::now();
    let (state, note) = begin(args, &info, store.as_ref(), &parts, cut);
    if let Some(note) = note.filter(|_| !args.quiet) {
        progress::line(&note);
    }
    let mut transfer = Transfer::new(args, endpoint, &info, cut, store, state, stop.clone());
    let ended = transfer.run(&parts).await;
    let mut report = transfer.report(&parts);
    report.set_duration(started.elapsed().as_secs_f64());
    report.interrupted = !matches!(ended, Ok(Ended::Complete));
    if let (Some(query), Ok(Ended::Complete)) = (&query, &ended) {
        tokio::select! {
            answer = verdicts::ask(query, &args.stream, transfer.ranges(), transfer.told_of()) => match answer {
                Ok(verdicts) => report.set_verdicts(&verdicts),
                Err(error) => tracing::debug!(%error, "the verdicts are not known"),
            },
            () = stop.cancelled() => {}
        }
    }
    let outcome = conclude(args, &report, ended);
    Ok((report, outcome))
}

/// A loop makes sense only where each round's events are new.
fn check_loop(args: &Args, info: &StreamInfo) -> Result<(), Failure> {
    let same = match info.event_id.split_once(':') {
        _ if !args.repeat || info.event_id == "client" => return Ok(()),
        Some((_, column)) => format!("by their column {column:?}"),
        None => "by their content".to_owned(),
    };
    let stream = &args.stream;
    Err(Failure::invalid(format!(
        "--loop would add nothing: stream {stream:?} knows its events {same}, so those of the second \
         round are repeats of the first; push without --loop, or make up events with `sluice generate`"
    )))
}

/// Several rows in a record are several events only where the contract says so, and the same ones
/// however they are joined only where each has an identity of its own.
fn check_arrays(args: &Args, info: &StreamInfo) -> Result<(), Failure> {
    let stream = &args.stream;
    let reason = match args.as_arrays {
        Some(_) if !info.takes_arrays => {
            "takes one event per record: its contract would have to say `records: arrays`"
        }
        Some(_) if info.event_id == "client" => {
            "does not say what identifies its events (`event_id`), so rows that are joined otherwise \
             would be other events"
        }
        _ => return Ok(()),
    };
    Err(Failure::invalid(format!("--as-arrays: stream {stream:?} {reason}; push without")))
}

/// Where the push begins, and what the user should know about it.
fn begin(
    args: &Args,
    info: &StreamInfo,
    store: Option<&Store>,
    parts: &[Part],
    cut: Cut,
) -> (State, Option<String>) {
    let store = store.filter(|_| !args.no_resume);
    let earlier = store.map_or(Earlier::Nothing, |store| store.load(&info.log_id, parts, cut));
    let note = match earlier {
        Earlier::Same(state) => return (*state, None),
        Earlier::OtherLog { acked } => Some(format!(
            "{} has another log than the one that acked {acked} events of the interrupted push: \
             starting anew",
            args.url
        )),
        Earlier::Nothing => None,
    };
    (State::new(&args.url, &args.stream, &info.log_id, parts, cut), note)
}

fn conclude(args: &Args, report: &Report, ended: Result<Ended, Failure>) -> Result<(), Failure> {
    match ended? {
        Ended::Stopped if !args.repeat => Err(Failure::work(format!(
            "interrupted: {} acked; run the same command again to go on",
            report.acked_before + report.acked
        ))),
        _ if report.refused > 0 => {
            let (refused, lines) = (report.refused, report.lines);
            Err(Failure::work(format!("{refused} of {lines} lines were refused")))
        }
        _ => Ok(()),
    }
}

fn usage(error: endpoint::UrlError) -> Failure {
    Failure::invalid(error.to_string())
}

/// Looks at every file before any work.
async fn inspect(args: &Args) -> Result<Vec<Input>, Failure> {
    let stdin = args.files.iter().filter(|path| path.as_os_str() == "-").count();
    if stdin > 0 && (args.repeat || stdin > 1) {
        return Err(Failure::invalid("standard input can be read only once"));
    }
    let (files, format, encoding) = (args.files.clone(), args.input_format, args.encoding);
    let look = move || files.iter().map(|path| read::inspect(path, format, encoding)).collect();
    let inputs: Result<Vec<Input>, read::ReadError> = tokio::task::spawn_blocking(look)
        .await
        .map_err(|error| Failure::new(crate::domain::ErrorKind::Internal, error.to_string()))?;
    inputs.map_err(|error| Failure::invalid(error.to_string()))
}

fn cut_for(args: &Args, info: &StreamInfo) -> Cut {
    let limits = info.limits.unwrap_or_default();
    let limit = |limit: u64, default: usize| match usize::try_from(limit) {
        Ok(limit) if limit > 0 => limit,
        _ => default,
    };
    let request = limit(limits.max_request_bytes, 4 * BATCH_BYTES_MAX);
    let event = limit(limits.max_event_bytes, request / 2);
    if let Some(rows) = args.as_arrays {
        let rows = rows as usize;
        // The brackets, and a comma for each row.
        let bytes = BATCH_BYTES_MAX.min(request / 2).min(event).saturating_sub(rows + 2);
        let span_us = args.pace().batch_span_us();
        return Cut { rows, bytes, row_bytes_max: event.saturating_sub(2), span_us };
    }
    let most = limit(limits.max_batch_events, usize::MAX).min(args.batch_size as usize);
    Cut {
        rows: args.pace().batch_rows(most),
        // Ids and framing need room, too.
        bytes: BATCH_BYTES_MAX.min(request / 2),
        row_bytes_max: event,
        span_us: args.pace().batch_span_us(),
    }
}

/// `None` where a push cannot be resumed: standard input is gone, and a loop has no end.
fn open_store(args: &Args, endpoint: &Endpoint, parts: &[Part]) -> Result<Option<Store>, Failure> {
    let mut inputs = parts.iter().flat_map(|part| &part.inputs);
    if args.repeat || inputs.any(|input| input.path.is_none()) {
        return Ok(None);
    }
    let Some(dir) = args.state_dir.clone().or_else(state::default_dir) else {
        let hint = "there is no home folder; give --state-dir, or --no-resume to push without";
        return if args.no_resume { Ok(None) } else { Err(Failure::invalid(hint)) };
    };
    match Store::open(&dir, &endpoint.uri().to_string(), &args.stream, parts) {
        Ok(store) => Ok(Some(store)),
        Err(_) if args.no_resume => Ok(None),
        Err(error) => {
            let message = format!("{error}, or --no-resume to push without");
            Err(Failure::new(error.kind(), message))
        }
    }
}

#[cfg(test)]
pub(super) mod fake;
#[cfg(test)]
mod tests;
