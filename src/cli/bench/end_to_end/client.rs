//! The load: sent from a process of its own, so that the server's CPU can be told apart.
#![allow(clippy::print_stdout)]

use super::Args;
use crate::cli::{
    Failure,
    bench::{
        process::{self, Sent},
        project,
        publisher::{self, Load},
    },
};

/// Sends the load in this process.
pub(super) async fn send(url: &str, args: &Args) -> Result<Sent, Failure> {
    let load = Load {
        url: url.to_owned(),
        stream: project::STREAM,
        events: args.events,
        batch: args.batch,
        in_flight: args.in_flight,
        rate: args.rate,
    };
    let run = project::new_run();
    let event = |number| project::event(&run, number, args.size);
    let published = publisher::publish(&load, event).await?;
    Ok(Sent::of(args.events, &published))
}

/// What the process of [`spawn`] does.
pub(super) async fn run(url: &str, args: &Args) -> Result<(), Failure> {
    let sent = send(url, args).await?;
    println!("{}", serde_json::json!(sent));
    Ok(())
}

/// Sends the load from another process of this binary.
pub(super) async fn spawn(url: &str, args: &Args) -> Result<Sent, Failure> {
    process::run(arguments(url, args)).await
}

fn arguments(url: &str, args: &Args) -> Vec<String> {
    let values = [
        ("--client-of", Some(url.to_owned())),
        ("--events", Some(args.events.to_string())),
        ("--batch", Some(args.batch.to_string())),
        ("--size", Some(args.size.to_string())),
        ("--in-flight", Some(args.in_flight.to_string())),
        ("--rate", args.rate.map(|rate| rate.to_string())),
    ];
    process::words("end-to-end", values)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{
        Cli, Command,
        bench::{What, end_to_end::tests::args},
    };

    #[test]
    fn the_client_process_gets_the_same_load() {
        let given = args(&["--events", "7", "--batch", "3", "--size", "99", "--rate", "2.5"]);
        let words = arguments("http://127.0.0.1:1", &given);
        let cli = Cli::try_parse_from([String::from("sluice")].into_iter().chain(words));
        let Command::Bench(bench) = cli.expect("arguments").command else { panic!("not bench") };
        let What::EndToEnd(read) = bench.what else { panic!("not end-to-end") };
        assert_eq!(read.client_of.as_deref(), Some("http://127.0.0.1:1"));
        let of = |a: &Args| (a.events, a.batch, a.size, a.in_flight, a.rate);
        assert_eq!(of(&read), of(&given));
        assert_eq!(of(&read), (7, 3, 99, 64, Some(2.5)));
    }
}
