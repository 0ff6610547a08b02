//! `sluice bench dvd`: a log full of clicks, and how much CPU and memory it takes until Bronze,
//! Silver without repeats, and Gold per minute and film and per film are committed.
//!
//! One process fills the log through the gateway and counts what it sends; the next works it off and
//! counts what the tables hold. Some clicks are sent twice, so that there is something to leave out.
#![allow(clippy::print_stdout)]

mod part;

use std::path::PathBuf;

use tokio_util::sync::CancellationToken;

use self::part::{Filled, Found, Part};
use super::{
    process, server,
    usage::{self, Figures},
};
use crate::{
    cli::{Failure, check, push},
    config::LogKind,
    log::StreamSpec,
};

/// The marks: events per second of CPU, and bytes of memory.
const MARK: f64 = 150_000.0;
const MARK_BYTES: u64 = 1_000_000_000;

#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Events in the log
    #[arg(long, default_value_t = 5_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub events: u64,
    /// Of so many clicks one is sent twice; 0: none
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub repeat_one_in: u64,
    /// Clicks per second of event time
    #[arg(long, default_value_t = 1_000.0, value_name = "N", value_parser = push::positive)]
    pub rate: f64,
    /// Users who click
    #[arg(long, default_value_t = 10_000, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..))]
    pub users: u32,
    /// The log: embedded, or kafka://HOST:PORT[,HOST:PORT] of a cluster where topics may be made
    #[arg(long, default_value = "embedded")]
    pub log: String,
    /// Folder of project, log and lake; default: a temporary one
    #[arg(long)]
    pub data_dir: Option<PathBuf>,
    /// Only this part, of a folder that the command made
    #[arg(long, hide = true, value_enum)]
    pub part: Option<Part>,
}

/// Runs the benchmark and prints what it found.
pub(super) async fn run(args: Args, stop: &CancellationToken) -> Result<(), Failure> {
    if let Some(part) = args.part {
        println!("{}", part::run(part, &args, stop).await?);
        return Ok(());
    }
    println!(
        "bench dvd: {} clicks of {} users, {} per second of event time, one in {} twice, log {}, {}",
        args.events,
        args.users,
        args.rate,
        args.repeat_one_in,
        args.log,
        usage::build(),
    );
    let temporary = tempfile::tempdir().map_err(|e| Failure::unavailable(e.to_string()))?;
    let folder = args.data_dir.clone().unwrap_or_else(|| temporary.path().to_owned());
    let args = Args { data_dir: Some(folder.clone()), ..args };
    let config = server::config(folder.clone(), Some(&args.log))?;
    let topics = matches!(config.server.log, LogKind::Kafka(_)).then(server::new_topic);
    part::unpack(&folder.join(part::PROJECT), topics.as_deref())?;
    let planned = check::load(&folder.join(part::PROJECT))?;
    let streams: Vec<StreamSpec> = planned.project.streams.iter().map(StreamSpec::from).collect();
    let measured = super::until(stop, async {
        let filled: Filled = process::run(words(Part::Fill, &args)).await?;
        let found: Found = process::run(words(Part::Work, &args)).await?;
        Ok((filled, found))
    });
    let (filled, found) = server::with_topics(&config, &streams, measured).await?;
    found.compare(&filled)?;
    println!("{}", figures(&filled, &found));
    Ok(())
}

fn words(part: Part, args: &Args) -> Vec<String> {
    let folder = args.data_dir.as_ref().map(|dir| dir.display().to_string());
    let values = [
        ("--part", Some(part.to_string())),
        ("--events", Some(args.events.to_string())),
        ("--repeat-one-in", Some(args.repeat_one_in.to_string())),
        ("--rate", Some(args.rate.to_string())),
        ("--users", Some(args.users.to_string())),
        ("--log", Some(args.log.clone())),
        ("--data-dir", folder),
    ];
    process::words("dvd", values)
}

fn figures(filled: &Filled, found: &Found) -> Figures {
    let (totals, worked) = (&filled.totals, &found.worked);
    let mut figures = Figures::default();
    figures.line("log → Bronze, Silver and Gold", "");
    figures.rate("  events/s, filled through the gateway", filled.sent.events, filled.sent.took);
    worked.show(&mut figures, Some(MARK));
    if let Some(peak) = worked.peak_mib {
        let outcome = usage::outcome(peak << 20 < MARK_BYTES);
        figures.line("  mark", format_args!("under 1 GB: {outcome}"));
    }
    figures.line(
        "events in Bronze, clicks in Silver",
        format_args!("{}, {}", found.bronze, totals.clicks),
    );
    let groups: usize = totals.per_minute.values().map(|films| films.len()).sum();
    let films = found.films.len();
    figures.line("rows per minute and film, per film", format_args!("{groups}, {films}"));
    figures
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::{What, read as read_bench};

    fn read(words: Vec<String>) -> Args {
        let What::Dvd(read) = read_bench(words) else { panic!("not dvd") };
        read
    }

    #[test]
    fn a_part_gets_the_same_work() {
        let args = Args {
            events: 7,
            repeat_one_in: 3,
            rate: 2.5,
            users: 4,
            log: "kafka://127.0.0.1:1".to_owned(),
            data_dir: Some(PathBuf::from("/somewhere")),
            part: Some(Part::Work),
        };
        assert_eq!(format!("{:?}", read(words(Part::Work, &args))), format!("{args:?}"));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn every_click_is_counted_once_in_every_table() {
        let dir = tempfile::tempdir().expect("dir");
        let words = ["bench", "dvd", "--events", "5000", "--repeat-one-in", "10", "--rate", "20"];
        let args = Args {
            data_dir: Some(dir.path().to_owned()),
            ..read(words.map(String::from).to_vec())
        };
        part::unpack(&dir.path().join(part::PROJECT), None).expect("a project");
        let stop = CancellationToken::new();
        let filled = part::run(Part::Fill, &args, &stop).await.expect("filled");
        let filled: Filled = serde_json::from_value(filled).expect("what was sent");
        let found = part::run(Part::Work, &args, &stop).await.expect("worked off");
        let found: Found = serde_json::from_value(found).expect("what was found");
        found.compare(&filled).expect("the same");
        assert_eq!((filled.sent.events, found.bronze, found.worked.events), (5_000, 5_000, 5_000));
        assert!((4_500..4_700).contains(&filled.totals.clicks), "{}", filled.totals.clicks);
        assert_eq!(filled.totals.per_minute.len(), 4, "230 seconds and a bit");
        let text = figures(&filled, &found).to_string();
        assert!(text.contains("under 1 GB") && text.contains("150000"), "{text}");

        let mut other = filled.clone();
        other.totals.clicks += 1;
        let failure = found.compare(&other).expect_err("one is lost").to_string();
        assert!(failure.contains("silver.clicks"), "{failure}");
        let mut other = filled;
        let film = other.totals.per_minute.values_mut().next().and_then(|f| f.values_mut().next());
        *film.expect("a film") += 1;
        let failure = found.compare(&other).expect_err("a wrong group").to_string();
        assert!(failure.contains("gold.clicks_per_minute"), "{failure}");
    }

    #[test]
    fn the_models_are_kept_by_changes() {
        let dir = tempfile::tempdir().expect("dir");
        part::unpack(dir.path(), Some("bench-7")).expect("unpacked");
        let planned = check::load(dir.path()).expect("a project without errors");
        let kept: Vec<String> =
            planned.plans.iter().map(|p| format!("{} {}", p.model.name, p.class)).collect();
        assert_eq!(
            kept,
            [
                "silver.clicks append",
                "gold.clicks_per_film aggregate",
                "gold.clicks_per_minute aggregate"
            ]
        );
        let topic = planned.judges[0].contract().topic.name.as_deref();
        assert_eq!(topic, Some("bench-7-dvd_clicks"));
    }
}
