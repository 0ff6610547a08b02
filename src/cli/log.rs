//! `sluice log`: what an operator decides about the log.

use std::{path::PathBuf, sync::Arc};

use crate::{
    cli::{Failure, ServerFlags, chain, check, folders::Folders, node, print},
    lake::{LakeHandle, LakeView},
    ops::Clock,
    process,
};

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Take the log as it is now in the place of the one that filled the lake
    ///
    /// For a log that was lost, or a topic that was made again. What the old log held and the lake
    /// does not is gone; the new log is taken in from its start. Stop the server first.
    Adopt(AdoptArgs),
}

#[derive(Debug, clap::Args)]
pub struct AdoptArgs {
    /// Folder of the project, which holds sluice.yml or dbt_project.yml
    pub project: PathBuf,
    /// Also go on where the log forgot records that the lake does not have: they are lost
    #[arg(long)]
    pub accept_gap: bool,
    #[command(flatten)]
    pub server: ServerFlags,
}

pub(super) async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Adopt(args) => adopt(args).await,
    }
}

async fn adopt(args: AdoptArgs) -> Result<(), Failure> {
    let mut config = args.server.load()?.config;
    let planned = Arc::new(check::load(&args.project)?);
    let clock = Clock::system();
    // No processor of a group may be running either.
    config.kafka.group.clear();
    let folders = Folders::open(&config)?;
    let log = node::open_log(&config, &clock).await?;
    node::ensure(log.as_ref(), &planned).await?;
    let deps = process::Deps {
        planned,
        log: Arc::clone(&log),
        membership: None,
        lake: folders.lake.clone(),
        view: LakeHandle::new(LakeView::default()),
        clock,
        status: Arc::default(),
        discards: Arc::default(),
        results: Arc::default(),
    };
    let adopted = process::adopt(deps, Arc::clone(&log), args.accept_gap).await;
    log.close().await;
    let adopted = adopted.map_err(|e| Failure::new(e.kind(), chain(&e)))?;
    let mut lines = Vec::new();
    if adopted.is_empty() {
        lines.push("nothing to adopt: the log is the one that filled the lake".to_owned());
    }
    lines.extend(adopted.iter().flat_map(told));
    print::result(lines.join("\n"))
}

/// What an adoption did, a line per stream and one per partition of it.
fn told(adopted: &process::Adopted) -> Vec<String> {
    match adopted {
        process::Adopted::Log { stream, log_id, partitions } => {
            let each = partitions.iter().enumerate().map(|(partition, (reached, next))| {
                let reached =
                    reached.map_or_else(|| "nothing".to_owned(), |at| format!("offset {at}"));
                format!(
                    "  partition {partition}: the lake has {reached}, the log goes on as {next}"
                )
            });
            [format!("{stream}: adopted {log_id}")].into_iter().chain(each).collect()
        }
        process::Adopted::Gap { stream, lost } => {
            let each = lost.iter().map(|(partition, (first, last))| {
                format!("  partition {partition}: offsets {first} to {last} are lost")
            });
            [format!("{stream}: goes on with what the log still has")]
                .into_iter()
                .chain(each)
                .collect()
        }
    }
}
