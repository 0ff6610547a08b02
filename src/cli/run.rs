//! `sluice run`: a project up to the end of its input, then its tests, then an exit code.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use tokio_util::sync::CancellationToken;

use crate::{
    cli::{
        Bound, Failure, Node, ServerFlags, chain, check, contracts,
        folders::{self, LakeFolder},
        print, push, rebuild,
        tested::{self, Output, Selection},
        up,
    },
    config::Config,
    domain::{TableName, tested::Ran},
    models::Class,
    process::{self, Planned},
};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Starts the project, pushes the input, waits until every table has it, runs the tests, stops. What was
pushed before is not pushed again: the same events are repeats. Tables whose model is defined otherwise
by now are made anew first.

Exit code 0: every table follows and no test failed, though some may have warned; 1: not so.")]
pub struct Args {
    /// Folder of the project, which holds sluice.yml or dbt_project.yml
    pub project: PathBuf,
    /// A file to push into a stream first: CSV, NDJSON or Parquet; may be given more than once
    #[arg(long, value_name = "STREAM=FILE", value_parser = input)]
    pub input: Vec<Input>,
    /// Make the tables of the selected models anew, with all that reads them
    #[arg(long)]
    pub full_refresh: bool,
    #[command(flatten)]
    pub selection: Selection,
    /// Run no tests
    #[arg(long)]
    pub no_tests: bool,
    /// How the outcome of the tests is printed
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
    #[command(flatten)]
    pub server: ServerFlags,
}

/// A stream and a file for it.
#[derive(Debug, Clone)]
pub struct Input {
    stream: String,
    file: PathBuf,
}

fn input(text: &str) -> Result<Input, String> {
    match text.split_once('=') {
        Some((stream, file)) if !stream.is_empty() && !file.is_empty() => {
            Ok(Input { stream: stream.to_owned(), file: PathBuf::from(file) })
        }
        _ => Err("write it as STREAM=FILE, such as orders=data/orders.csv".to_owned()),
    }
}

pub(super) async fn run(mut args: Args, stop: CancellationToken) -> Result<(), Failure> {
    // Nobody is to find it: any free port does.
    for listen in [
        &mut args.server.ingest_listen,
        &mut args.server.flight_listen,
        &mut args.server.http_listen,
    ] {
        listen.get_or_insert_with(|| "127.0.0.1:0".to_owned());
    }
    if args.server.log_filter.is_none() {
        args.server.log_filter = Some("error".to_owned());
    }
    let mut config = args.server.load()?.config;
    config.tests.interval_ms = 0; // They are run at the end.
    up::init_logs(&config);
    let planned = check::load(&args.project)?;
    let lake = folders::existing_lake(&config.server).ok();
    let selected = args.selection.over(&planned, lake.as_ref()).await?;
    drop(lake);
    check_inputs(&args.input, &planned)?;
    make_anew(&config, &planned, args.full_refresh.then_some(&selected.tables)).await?;
    let bound = Bound::bind(&config.server).await?;
    let urls = bound.urls();
    let mut node = Node::start(&config, planned, bound, None, &stop).await?;
    let worked = work(&args, &config, &mut node, (&urls, selected.tests), &stop).await;
    let stopped = node.stop().await;
    let all = worked?;
    stopped?;
    tested::conclude(&all)
}

/// Pushes, waits, tests. What the tests found.
async fn work(
    args: &Args,
    config: &Config,
    node: &mut Node,
    (urls, selected): (&[(&'static str, String)], BTreeSet<String>),
    stop: &CancellationToken,
) -> Result<Vec<Ran>, Failure> {
    let url = |of: &str| {
        let found = urls.iter().find(|(name, _)| *name == of);
        found.map(|(_, url)| url.clone()).unwrap_or_default()
    };
    for input in &args.input {
        let pushed = push_args(input, url("ingest"), url("flight"), &config.server.data_dir);
        tokio::select! {
            ended = node.wait(stop) => {
                ended?;
                return Err(Failure::stopped());
            }
            pushed = push::run(pushed, stop.clone()) => pushed?,
        }
    }
    let lake = std::sync::Arc::clone(&node.lake);
    tokio::select! {
        ended = node.wait(stop) => {
            ended?;
            return Err(Failure::stopped());
        }
        () = lake.settle() => {}
    }
    let view = lake.load();
    let lagging = view.lagging_behind(&[]);
    for (table, reason) in &lagging {
        print::note(format_args!("{table} does not follow its inputs: {reason}"));
    }
    let failed = lagging.len();
    let all = if args.no_tests { Vec::new() } else { test(args, node, selected).await? };
    if failed > 0 {
        return Err(Failure::work(format!("{failed} tables do not follow their inputs")));
    }
    Ok(all)
}

async fn test(
    args: &Args,
    node: &Node,
    mut selected: BTreeSet<String>,
) -> Result<Vec<Ran>, Failure> {
    let testing = node.testing();
    let planned = testing.planned.load_full();
    let project = &planned.project;
    // What comes from files is as old as it is.
    selected
        .retain(|name| !project.tests.iter().any(|test| test.name == *name && test.is_freshness()));
    let is_text = args.output == Output::Text;
    let tell = |ran: &Ran| {
        if is_text {
            print::status(tested::line(ran));
        }
    };
    let all = testing.run(&selected, tell).await;
    tested::report(&all, args.output)?;
    Ok(all)
}

/// An error if there is no such stream, or no such file: before any work is done.
fn check_inputs(inputs: &[Input], planned: &Planned) -> Result<(), Failure> {
    let streams: Vec<&str> = planned.project.streams.iter().map(|s| s.name.as_str()).collect();
    for Input { stream, file } in inputs {
        if !streams.contains(&stream.as_str()) {
            let hint = crate::project::nearest(stream, streams.iter().copied())
                .unwrap_or_else(|| format!("streams are {}", streams.join(", ")));
            return Err(Failure::invalid(format!(
                "--input: there is no stream `{stream}`; {hint}"
            )));
        }
        if file.as_os_str() != "-" && !file.is_file() {
            let message = format!("--input {stream}: there is no file {}", file.display());
            return Err(Failure::invalid(message));
        }
    }
    Ok(())
}

/// Makes tables anew whose model is defined otherwise by now, and those that are asked for.
async fn make_anew(
    config: &Config,
    planned: &Planned,
    asked: Option<&BTreeSet<TableName>>,
) -> Result<(), Failure> {
    if folders::existing_lake(&config.server).is_err() {
        return Ok(()); // There is nothing yet.
    }
    let folder = LakeFolder::open(&config.server)?;
    contracts::compare(planned, &folder.lake).await?;
    let failed = |e: process::Error| Failure::new(e.kind(), chain(&e));
    let mut names = process::outdated(planned, &folder.lake).await.map_err(failed)?;
    let stored = planned.plans.iter().filter(|plan| plan.class != Class::View);
    let asked = stored.filter(|plan| asked.is_some_and(|all| all.contains(&plan.model.name)));
    names.extend(asked.map(|plan| plan.model.name.clone()));
    names.sort();
    names.dedup();
    if names.is_empty() {
        return Ok(());
    }
    let lake = &folder.lake;
    let done = rebuild::shown(planned, lake, &names, |done| print::note(rebuild::told(done)));
    let done = done.await.map_err(failed)?;
    let not_done = done.iter().find(|done| matches!(done.outcome, process::Outcome::Failed(_)));
    match not_done {
        None => Ok(()),
        Some(done) => Err(Failure::work(rebuild::told(done))),
    }
}

fn push_args(input: &Input, ingest: String, flight: String, data_dir: &Path) -> push::Args {
    push::Args {
        stream: input.stream.clone(),
        files: vec![input.file.clone()],
        url: ingest,
        query_url: flight,
        input_format: None,
        encoding: push::Encoding::Auto,
        rate: None,
        sort_by: None,
        speed: None,
        repeat: false,
        batch_size: 500,
        as_arrays: None,
        retry_for: 10,
        // Its port, by which a push is remembered, is another each time; what it sends again counts
        // once.
        no_resume: true,
        state_dir: Some(data_dir.join("push")),
        quiet: false,
        report: push::ReportForm::Text,
    }
}
