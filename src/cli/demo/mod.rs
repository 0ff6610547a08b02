//! `sluice demo`: the example dvd-clicks in one process, fed and watched.
//!
//! The customers and 16,044 rentals are replayed, made-up clicks go on until Ctrl-C. A second run
//! in the same folder continues where the first stopped.

mod view;

use std::{io::IsTerminal as _, path::PathBuf, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{
    cli::{
        Bound, Failure, Node, ServerFlags, check, example,
        generate::{self, Clicks},
        print,
        push::{self, endpoint, sender},
        up,
    },
    domain::ErrorKind,
    ops::{Clock, tasks::Tasks, telemetry},
};

/// What is replayed, one after the other: the stream and its file.
const REPLAYED: [(&str, &str); 2] =
    [("dvd_customers", "data/customer.csv.gz"), ("dvd_rentals", "data/rental.csv.gz")];
/// The demo's answers are seconds old at most, also in an unoptimised build.
const RETRY: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub server: ServerFlags,
    /// Clicks per second
    #[arg(long, default_value_t = 50.0, value_name = "N", value_parser = push::positive)]
    pub rate: f64,
    /// Rentals per second while they are replayed
    #[arg(long, default_value_t = 2_000.0, value_name = "N", value_parser = push::positive)]
    pub rental_rate: f64,
}

pub(super) async fn run(mut args: Args, stop: CancellationToken) -> Result<(), Failure> {
    let default = std::env::temp_dir().join("sluice-demo");
    let folder = args.server.data_dir.get_or_insert(default).clone();
    let config = args.server.load()?.config;
    up::init_logs(&config);
    let bound = Bound::bind(&config.server).await?;
    let urls = bound.urls();
    let project = folder.join("project");
    example::unpack(&project)?;
    let planned = check::load(&project)?;
    let metrics = telemetry::init_metrics()
        .map_err(|e| Failure::new(ErrorKind::Internal, format!("metrics: {e}")))?;
    let shown = folder.display();
    print::status(format_args!(
        "Sluice demo: a film platform's rentals and clicks, data in {shown}"
    ));
    let mut node = Node::start(&config, planned, bound, Some(metrics), &stop).await?;
    if !stop.is_cancelled() {
        introduce(&urls);
    }
    let feeding = CancellationToken::new();
    let mut feeders: Tasks<Failure> = Tasks::new(feeding.clone());
    if let Some((_, ingest)) = urls.iter().find(|(name, _)| *name == "ingest") {
        let replayed = replay(folder.clone(), ingest.clone(), args.rental_rate, feeding.clone());
        feeders.spawn("rentals", replayed);
        feeders.spawn("clicks", clicks(ingest.clone(), args.rate, feeding));
    }
    let watched = view::Watched {
        lake: Arc::clone(&node.lake),
        status: Arc::clone(&node.status),
        log: node.log(),
        clock: Clock::system(),
    };
    let terminal = std::io::stdout().is_terminal();
    let ended = tokio::select! {
        ended = node.wait(&stop) => ended,
        () = view::watch(&watched, terminal) => Ok(()),
        ended = wait_for_failure(&mut feeders) => ended,
    };
    print::status("\nstopping: what was acked goes into the tables");
    let fed = feeders.stop(Duration::from_secs(3)).await;
    let stopped = node.stop().await;
    fed.map_err(|e| Failure::work(e.to_string()))?;
    ended.and(stopped)
}

/// Ends only when a feeder fails: the rentals come to an end, which is no reason to stop.
async fn wait_for_failure(feeders: &mut Tasks<Failure>) -> Result<(), Failure> {
    feeders.wait().await.map_err(|e| Failure::work(e.to_string()))
}

/// Tells where it answers, and what to ask.
fn introduce(urls: &[(&'static str, String)]) {
    up::announce(urls);
    if let Some((_, flight)) = urls.iter().find(|(name, _)| *name == "flight") {
        print::status(format_args!(
            "\nin another terminal:\n\
             \x20 sluice query --url {flight} \"SELECT title, clicks, growth FROM trending_films\"\n\
             \x20 sluice query --url {flight} \"SELECT * FROM rentals_by_category ORDER BY rentals \
             DESC\"\n\
             (from a checkout: cargo run -- query …)\n"
        ));
    }
    print::status("ready");
}

/// Replays the customers and the rentals; what an earlier run sent is not sent again.
async fn replay(
    folder: PathBuf,
    ingest: String,
    rate: f64,
    stop: CancellationToken,
) -> Result<(), Failure> {
    for (stream, file) in REPLAYED {
        let done = folder.join(format!("{stream}.done"));
        if done.exists() {
            continue;
        }
        let args = push::Args {
            stream: stream.to_owned(),
            files: vec![folder.join("project").join(file)],
            url: ingest.clone(),
            query_url: "none".to_owned(),
            input_format: None,
            encoding: push::Encoding::Auto,
            rate: Some(rate),
            sort_by: None,
            speed: None,
            repeat: false,
            batch_size: 500,
            as_arrays: None,
            retry_for: RETRY.as_secs(),
            no_resume: false,
            state_dir: Some(folder.join("push")),
            quiet: true,
            report: push::ReportForm::Text,
        };
        if !push::quietly(&args, &stop).await? {
            break;
        }
        mark_done(&done)?;
    }
    Ok(())
}

fn mark_done(path: &PathBuf) -> Result<(), Failure> {
    std::fs::write(path, b"")
        .map_err(|e| Failure::unavailable(format!("{} cannot be written: {e}", path.display())))
}

/// Sends clicks as they happen, until stopped.
async fn clicks(ingest: String, rate: f64, stop: CancellationToken) -> Result<(), Failure> {
    let config = generate::Config {
        seed: uuid::Uuid::new_v4().as_u64_pair().0,
        users: 40,
        rate,
        start_micros: Clock::system().now_us(),
        films: (1..=1000).collect(),
    };
    let clicks = Clicks::new(config).map_err(|e| Failure::new(e.kind(), e.to_string()))?;
    let endpoint = endpoint::endpoint("--url", &ingest, "http")
        .map_err(|e| Failure::invalid(e.to_string()))?;
    let mut sender = push::Sender::start(sender::Config {
        endpoint,
        stream: example::CLICKS.to_owned(),
        producer_id: format!("demo:{}", uuid::Uuid::new_v4().simple()),
        first_sequence: 0,
        want_positions: false,
        retry_for: RETRY,
    });
    let sent = generate::stream(clicks, &mut sender, &stop, |_| {}).await;
    sent.map(|_| ()).map_err(|error| push::failure(&error))
}
