//! `sluice up --watch`: each change of the project's files is deployed, and its result shown.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use datafusion::{execution::runtime_env::RuntimeEnv, prelude::SessionConfig};

use crate::{
    cli::{deploy, node::Deployer, print},
    domain::TableName,
    lake::{
        LakeHandle,
        session::{Columns, session},
    },
};

/// So often the files are looked at.
const EVERY: Duration = Duration::from_millis(200);
/// Rows of a table that are shown.
const ROWS: usize = 10;
/// Tables of a deployment that are shown.
const TABLES: usize = 3;
/// Files that are no part of a project, by the ends of their names.
const FILES: [&str; 6] = [".sql", ".yml", ".yaml", ".csv", ".csv.gz", ".md"];

/// The files of a project, each with when it was written and its size.
type Files = BTreeMap<PathBuf, (SystemTime, u64)>;

/// Deploys changes of the files below `root` as they are saved. Ends only with its task.
pub(super) async fn watch(root: PathBuf, deployer: Deployer, lake: Arc<LakeHandle>) {
    let mut deployed = files(&root);
    let mut last = deployed.clone();
    loop {
        tokio::time::sleep(EVERY).await;
        let now = files(&root);
        // A file may be half written: what is deployed has stood still for a while.
        if now != last {
            last = now;
            continue;
        }
        if now == deployed {
            continue;
        }
        let changed: Vec<String> = changed(&deployed, &now, &root);
        print::status(format_args!("\nchanged: {}", changed.join(", ")));
        deployed = now;
        match deployer.deploy().await {
            Err(refusal) => print::status(refusal.message),
            Ok(done) => {
                print::status(deploy::told(&done));
                let tables = done.rebuilt.iter().map(|table| table.table.as_str());
                let built: Vec<&str> = tables.collect();
                // A view is made without a table.
                let views = done.added.iter().map(String::as_str);
                let views = views.filter(|name| !built.contains(name));
                for table in built.iter().copied().chain(views).take(TABLES) {
                    show(&lake, table).await;
                }
            }
        }
    }
}

/// Prints the first rows of a table.
async fn show(lake: &LakeHandle, table: &str) {
    let Some((schema, name)) = table.split_once('.') else { return };
    let table = TableName::new(schema, name);
    let runtime = Arc::new(RuntimeEnv::default());
    let context = session(&lake.load(), Columns::Visible, SessionConfig::new(), runtime);
    let sql = format!("SELECT * FROM \"{schema}\".\"{name}\" LIMIT {ROWS}");
    let rows = async { context.sql(&sql).await?.collect().await };
    let shown = rows.await.and_then(|rows| Ok(arrow::util::pretty::pretty_format_batches(&rows)?));
    match shown {
        Ok(rows) => print::status(format_args!("\n{table}\n{rows}")),
        Err(error) => print::status(format_args!("\n{table}: {}", error.strip_backtrace())),
    }
}

fn changed(before: &Files, now: &Files, root: &Path) -> Vec<String> {
    let differs = |path: &&PathBuf| before.get(*path) != now.get(*path);
    let mut paths: Vec<&PathBuf> = before.keys().chain(now.keys()).filter(differs).collect();
    paths.sort();
    paths.dedup();
    let shown = |path: &PathBuf| path.strip_prefix(root).unwrap_or(path).display().to_string();
    paths.into_iter().map(shown).collect()
}

fn files(root: &Path) -> Files {
    let mut found = Files::new();
    let mut pending = vec![root.to_path_buf()];
    while let Some(folder) = pending.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            // Data in the folder, and what tools keep there, is no part of the project.
            let is_other =
                name.starts_with('.') || ["target", "data", "sluice-data"].contains(&name.as_str());
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() && !is_other {
                pending.push(path);
            } else if metadata.is_file() && FILES.iter().any(|end| name.ends_with(end)) {
                let written = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                found.insert(path, (written, metadata.len()));
            }
        }
    }
    found
}
