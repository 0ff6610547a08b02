//! `sluice history`: the versions of a table.

use std::collections::BTreeMap;

use chrono::{DateTime, SecondsFormat};
use clap::ValueEnum;
use serde::Serialize;

use crate::{
    cli::{Failure, LakeFlags, ServerFlags, chain, folders, print},
    domain::TableName,
    lake::{Change, Version, session::DEFAULT_SCHEMA},
};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
A version is one commit of the Delta table. It is asked for in SQL by its number or by time:

  sluice history fact_orders
  sluice query \"SELECT * FROM gold.fact_orders VERSION AS OF 12\"
  sluice query \"SELECT * FROM gold.fact_orders TIMESTAMP AS OF '2026-01-31 12:00:00'\"
  sluice query \"SELECT * FROM gold.fact_orders FOR SYSTEM_TIME AS OF now() - INTERVAL '1 hour'\"

A server may run beside it; what it shows but has not committed yet is in no version.")]
pub struct Args {
    /// The table, as silver.orders; without a schema, of gold
    pub table: String,
    /// Versions that are shown, the newest
    #[arg(long, value_name = "COUNT", default_value_t = 20)]
    pub limit: usize,
    /// How it is printed
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
    #[command(flatten)]
    pub lake: LakeFlags,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Output {
    Text,
    Json,
}

/// A version as it is printed.
#[derive(Serialize)]
struct Shown<'a> {
    version: u64,
    committed_at: Option<String>,
    change: Change,
    rows_added: u64,
    files_added: u64,
    files_removed: u64,
    positions: &'a BTreeMap<String, i64>,
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let name = named(&args.table)?;
    let lake = match args.lake.open()? {
        Some(lake) => lake,
        None => folders::existing_lake(&ServerFlags::default().load()?.config.server)?,
    };
    let failed = |error: crate::lake::LakeError| Failure::new(error.kind(), chain(&error));
    let Some(history) = lake.history(&name).await.map_err(failed)? else {
        let message = format!("the lake holds no table {name}; `sluice status` lists the tables");
        return Err(Failure::invalid(message));
    };
    let versions = history.versions().await.map_err(failed)?;
    let older = versions.len().saturating_sub(args.limit);
    let newest: Vec<Shown<'_>> = versions.iter().skip(older).rev().map(shown).collect();
    match args.output {
        Output::Text => print::result(text(&newest, older)),
        Output::Json => {
            let text = serde_json::to_string_pretty(&newest);
            print::result(text.map_err(|error| Failure::work(error.to_string()))?)
        }
    }
}

fn named(given: &str) -> Result<TableName, Failure> {
    let mut parts = given.split('.');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(name), None, None) if !name.is_empty() => Ok(TableName::new(DEFAULT_SCHEMA, name)),
        (Some(schema), Some(name), None) if !schema.is_empty() && !name.is_empty() => {
            Ok(TableName::new(schema, name))
        }
        _ => Err(Failure::invalid(format!("{given:?} names no table; as in silver.orders"))),
    }
}

fn shown(version: &Version) -> Shown<'_> {
    let time = version.committed_us.and_then(DateTime::from_timestamp_micros);
    Shown {
        version: version.version,
        committed_at: time.map(|time| time.to_rfc3339_opts(SecondsFormat::Millis, true)),
        change: version.change,
        rows_added: version.rows_added,
        files_added: version.files_added,
        files_removed: version.files_removed,
        positions: &version.positions,
    }
}

fn text(versions: &[Shown<'_>], older: usize) -> String {
    let mut lines = vec![format!(
        "{:>7}  {:<24}  {:<9}  {:>10}  {:>6}  {:>7}",
        "version", "committed", "change", "rows added", "files", "removed"
    )];
    for version in versions {
        let change = match version.change {
            Change::Created => "created",
            Change::Redefined => "redefined",
            Change::Appended => "appended",
            Change::Replaced => "replaced",
            Change::Compacted => "compacted",
            Change::Advanced => "advanced",
        };
        lines.push(format!(
            "{:>7}  {:<24}  {change:<9}  {:>10}  {:>6}  {:>7}",
            version.version,
            version.committed_at.as_deref().unwrap_or("unknown"),
            version.rows_added,
            version.files_added,
            version.files_removed,
        ));
    }
    if older > 0 {
        lines.push(format!("{older} older; --limit shows more"));
    }
    lines.join("\n")
}
