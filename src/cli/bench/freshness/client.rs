//! The client: clicks at a rate, and probes that are asked for.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::Bytes;
use chrono::DateTime;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Args, PATIENCE};
use crate::{
    cli::{
        Failure,
        bench::{
            clicks::ClickLoad,
            probe,
            process::{self, Sent},
            project,
            publisher::{self, Load},
        },
        chain,
        example::CLICKS,
        query::Client,
    },
    ops::Clock,
};

/// Batches per second, unless they get too large.
const BATCHES_PER_SECOND: f64 = 100.0;
const BATCH_MAX: u64 = 500;
const IN_FLIGHT: usize = 256;

/// What the client found; times are sorted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Answered {
    /// The clicks without the probes.
    pub(super) sent: Sent,
    /// From the send of a probe to its ack.
    pub(super) ack: Vec<Duration>,
    /// From there to the answer that has it.
    pub(super) silver: Vec<Duration>,
    pub(super) gold: Vec<Duration>,
    /// The question to Gold asked again, so that nothing has to be waited for.
    pub(super) again: Vec<Duration>,
}

/// What became of the probes: one entry each.
#[derive(Default)]
struct Probes {
    ack: Vec<Duration>,
    silver: Vec<Duration>,
    gold: Vec<Duration>,
    again: Vec<Duration>,
}

/// Sends clicks and probes from this process.
pub(super) async fn send(ingest: &str, flight: &str, args: &Args) -> Result<Answered, Failure> {
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let (events, batch) = (
        (args.rate * args.seconds as f64).ceil() as u64,
        ((args.rate / BATCHES_PER_SECOND).ceil() as u64).clamp(1, BATCH_MAX),
    );
    let load = Load {
        url: ingest.to_owned(),
        stream: CLICKS,
        events,
        batch,
        in_flight: IN_FLIGHT,
        rate: Some(args.rate),
    };
    let mut clicks = ClickLoad::new(Clock::system().now_us(), args.rate, args.users, None)?;
    let is_sent = CancellationToken::new();
    let publishing = async {
        let published = publisher::publish(&load, |_| clicks.event()).await;
        is_sent.cancel();
        published
    };
    let (published, mut probes) =
        tokio::try_join!(publishing, probe_until(&is_sent, ingest, flight, args))?;
    let totals = clicks.totals()?;
    for values in [&mut probes.ack, &mut probes.silver, &mut probes.gold, &mut probes.again] {
        values.sort_unstable();
    }
    let Probes { ack, silver, gold, again } = probes;
    Ok(Answered { sent: Sent::of(totals.clicks, &published), ack, silver, gold, again })
}

/// The same from another process of this binary.
pub(super) async fn spawn(ingest: &str, flight: &str, args: &Args) -> Result<Answered, Failure> {
    process::run(arguments(ingest, flight, args)).await
}

fn arguments(ingest: &str, flight: &str, args: &Args) -> Vec<String> {
    let values = [
        ("--client-of", ingest.to_owned()),
        ("--flight-of", flight.to_owned()),
        ("--rate", args.rate.to_string()),
        ("--seconds", args.seconds.to_string()),
        ("--probes", args.probes.to_string()),
        ("--users", args.users.to_string()),
    ];
    process::words("freshness", values.map(|(name, value)| (name, Some(value))))
}

/// Sends a probe at each tick until all clicks are sent; waits for every answer.
async fn probe_until(
    is_sent: &CancellationToken,
    ingest: &str,
    flight: &str,
    args: &Args,
) -> Result<Probes, Failure> {
    let mut sender = probe::sender(ingest, CLICKS, &project::new_run())?;
    let client = Client::connect(flight, PATIENCE).await?;
    let mut tick = tokio::time::interval(Duration::from_secs_f64(1.0 / args.probes));
    // Films that nobody else clicks on.
    let mut film = i64::from(uuid::Uuid::new_v4().as_fields().0) << 24;
    let (mut probes, mut asked) = (Probes::default(), JoinSet::new());
    let mut under_way = VecDeque::new();
    while !(is_sent.is_cancelled() && under_way.is_empty()) {
        tokio::select! {
            biased;
            acked = probe::acked(&mut sender, CLICKS), if !under_way.is_empty() => {
                let (positions, acked) = (acked?, Instant::now());
                let Some((film, sent)) = under_way.pop_front() else { continue };
                probes.ack.push(acked - sent);
                asked.spawn(ask(client.clone(), positions, film, acked));
            }
            Some(answer) = asked.join_next() => probes.add(answer)?,
            () = is_sent.cancelled(), if !is_sent.is_cancelled() => {}
            _ = tick.tick(), if !is_sent.is_cancelled() => {
                film += 1;
                under_way.push_back((film, Instant::now()));
                probe::send(&mut sender, click(film)).await?;
            }
        }
    }
    sender.close();
    while let Some(answer) = asked.join_next().await {
        probes.add(answer)?;
    }
    Ok(probes)
}

/// Asks for one probe in both tables at once, then once more in Gold. Each must have it.
async fn ask(
    mut silver: Client,
    positions: String,
    film: i64,
    acked: Instant,
) -> Result<[Duration; 3], Failure> {
    let mut gold = silver.clone();
    silver.after(&positions)?;
    gold.after(&positions)?;
    let in_silver = format!("SELECT count(*) AS n FROM silver.clicks WHERE film_id = {film}");
    let in_gold = format!(
        "SELECT CAST(coalesce(sum(click_count), 0) AS BIGINT) AS n FROM gold.clicks_per_minute \
         WHERE film_id = {film}"
    );
    let of_silver = probe::seen(&mut silver, &in_silver, 1, acked);
    let of_gold = probe::seen(&mut gold, &in_gold, 1, acked);
    let (of_silver, of_gold) = tokio::try_join!(of_silver, of_gold)?;
    let again = probe::seen(&mut gold, &in_gold, 1, Instant::now()).await?;
    Ok([of_silver, of_gold, again])
}

/// A click on `film`, now.
fn click(film: i64) -> Bytes {
    let id = uuid::Uuid::new_v4();
    let now = DateTime::from_timestamp_micros(Clock::system().now_us()).unwrap_or_default();
    let at = now.format("%Y-%m-%d %H:%M:%S%.3f");
    Bytes::from(format!(
        r#"{{"event_id":"{id}","event_ts":"{at}","user_id":"u_probe","session_id":"s_probe","film_id":{film},"event_type":"view","page":"browse","position":1,"device":"web","referrer":"search"}}"#
    ))
}

impl Probes {
    fn add(
        &mut self,
        answer: Result<Result<[Duration; 3], Failure>, tokio::task::JoinError>,
    ) -> Result<(), Failure> {
        let [silver, gold, again] = answer.map_err(|e| Failure::work(chain(&e)))??;
        self.silver.push(silver);
        self.gold.push(gold);
        self.again.push(again);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{
        Cli, Command,
        bench::{What, freshness::tests::args},
    };

    #[test]
    fn the_client_process_gets_the_same_load() {
        let given = args(&["--rate", "7.5", "--seconds", "3", "--probes", "2", "--users", "4"]);
        let words = arguments("http://127.0.0.1:1", "grpc://127.0.0.1:2", &given);
        let cli = Cli::try_parse_from([String::from("sluice")].into_iter().chain(words));
        let Command::Bench(bench) = cli.expect("arguments").command else { panic!("not bench") };
        let What::Freshness(read) = bench.what else { panic!("not freshness") };
        assert_eq!(read.client_of.as_deref(), Some("http://127.0.0.1:1"));
        assert_eq!(read.flight_of.as_deref(), Some("grpc://127.0.0.1:2"));
        let of = |a: &Args| (a.rate, a.seconds, a.probes, a.users);
        assert_eq!(of(&read), of(&given));
        assert_eq!(of(&read), (7.5, 3, 2.0, 4));
    }
}
