//! `sluice bench backlog`: a log that is full of events, and how much CPU and memory it takes until
//! all of them are committed.
//!
//! Every part is a process of its own: one fills the log, through the gateway as any client would;
//! the next works it off. The same once more with less to do: Bronze and Silver, Bronze alone, and
//! as the baseline the records read and written to a Parquet file without Sluice's tables.
#![allow(clippy::print_stdout)]

mod part;

use std::path::PathBuf;

use tokio_util::sync::CancellationToken;

use self::part::Part;
use super::{
    process::{self, Sent},
    project::STREAM,
    server,
    usage::{self, Figures},
    work::Worked,
};
use crate::{
    cli::Failure,
    config::{Config, LogKind},
    domain::contract::Topic,
    log::StreamSpec,
};

/// The marks: events per second of CPU.
const MARKS: [(Part, f64); 2] = [(Part::Silver, 150_000.0), (Part::Bronze, 300_000.0)];

#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Events in the log
    #[arg(long, default_value_t = 5_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub events: u64,
    /// Bytes per event
    #[arg(long, default_value_t = 256)]
    pub size: usize,
    /// Partitions of the stream
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    pub partitions: u32,
    /// The log: embedded, or kafka://HOST:PORT[,HOST:PORT] of a cluster where topics may be made
    #[arg(long, default_value = "embedded")]
    pub log: String,
    /// Folder of logs and lakes; default: a temporary one
    #[arg(long)]
    pub data_dir: Option<PathBuf>,
    /// Only this part, of a folder that the command made
    #[arg(long, hide = true, value_enum)]
    pub part: Option<Part>,
    /// The topic, on Kafka
    #[arg(long, hide = true)]
    pub topic: Option<String>,
}

/// What one shape of the work took.
#[derive(Debug)]
struct Measured {
    part: Part,
    filled: Sent,
    worked: Worked,
}

/// Runs the benchmark and prints what it found.
pub(super) async fn run(args: Args, stop: &CancellationToken) -> Result<(), Failure> {
    if let Some(part) = args.part {
        println!("{}", part::run(part, &args, stop).await?);
        return Ok(());
    }
    let config = server::config(PathBuf::new(), Some(&args.log))?;
    println!(
        "bench backlog: {} events of {} bytes, {} partitions, log {}, {}",
        args.events,
        args.size,
        args.partitions,
        args.log,
        usage::build(),
    );
    let temporary = tempfile::tempdir().map_err(|e| Failure::unavailable(e.to_string()))?;
    let folder = args.data_dir.clone().unwrap_or_else(|| temporary.path().to_owned());
    let mut all = Vec::new();
    for part in [Part::Silver, Part::Bronze, Part::Bare] {
        let args = Args { data_dir: Some(folder.join(part.to_string())), ..args.clone() };
        all.push(measure(part, args, &config, stop).await?);
    }
    println!("{}", figures(&args, &all));
    Ok(())
}

/// Fills a log of its own and works it off.
async fn measure(
    part: Part,
    mut args: Args,
    config: &Config,
    stop: &CancellationToken,
) -> Result<Measured, Failure> {
    if let LogKind::Kafka(_) = config.server.log {
        args.topic = Some(server::new_topic());
    }
    let topic = Topic { name: args.topic.clone(), ..Topic::default() };
    let spec = StreamSpec { topic, ..StreamSpec::new(STREAM, args.partitions) };
    let measured = super::until(stop, async {
        let filled: Sent = process::run(words(Part::Fill, &args)).await?;
        let worked: Worked = process::run(words(part, &args)).await?;
        Ok(Measured { part, filled, worked })
    });
    server::with_topics(config, &[spec], measured).await
}

fn words(part: Part, args: &Args) -> Vec<String> {
    let folder = args.data_dir.as_ref().map(|dir| dir.display().to_string());
    let values = [
        ("--part", Some(part.to_string())),
        ("--events", Some(args.events.to_string())),
        ("--size", Some(args.size.to_string())),
        ("--partitions", Some(args.partitions.to_string())),
        ("--log", Some(args.log.clone())),
        ("--data-dir", folder),
        ("--topic", args.topic.clone()),
    ];
    process::words("backlog", values)
}

fn figures(args: &Args, all: &[Measured]) -> Figures {
    let mut figures = Figures::default();
    for Measured { part, filled, worked } in all {
        figures.line(part.title(), "");
        figures.rate("  events/s, filled through the gateway", args.events, filled.took);
        let mark = MARKS.iter().find(|(of, _)| of == part);
        worked.show(&mut figures, mark.map(|(_, mark)| *mark));
    }
    figures
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::{What, read as read_bench};

    fn read(words: Vec<String>) -> Args {
        let What::Backlog(read) = read_bench(words) else { panic!("not backlog") };
        read
    }

    #[test]
    fn a_part_gets_the_same_work() {
        let args = Args {
            events: 7,
            size: 99,
            partitions: 3,
            log: "kafka://127.0.0.1:1".to_owned(),
            data_dir: Some(PathBuf::from("/somewhere")),
            part: Some(Part::Bronze),
            topic: Some("t".to_owned()),
        };
        assert_eq!(format!("{:?}", read(words(Part::Bronze, &args))), format!("{args:?}"));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn all_that_was_filled_is_worked_off() {
        let dir = tempfile::tempdir().expect("dir");
        for part in [Part::Silver, Part::Bronze, Part::Bare] {
            let folder = dir.path().join(part.to_string());
            let words = ["bench", "backlog", "--events", "1000"].map(String::from).to_vec();
            let args = Args { data_dir: Some(folder), ..read(words) };
            let stop = CancellationToken::new();
            let filled = part::run(Part::Fill, &args, &stop).await.expect("filled");
            let filled: Sent = serde_json::from_value(filled).expect("what was sent");
            let worked = part::run(part, &args, &stop).await.expect("worked off");
            let worked: Worked = serde_json::from_value(worked).expect("what was done");
            assert_eq!((filled.events, worked.events), (1_000, 1_000), "{part}");
            let text = figures(&args, &[Measured { part, filled, worked }]).to_string();
            assert_eq!(text.contains("mark"), part != Part::Bare, "{text}");
        }
    }
}
