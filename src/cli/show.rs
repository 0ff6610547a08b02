//! `sluice show`: the rows that a model's SQL gives now, before it is deployed.

use tokio_util::sync::CancellationToken;

use crate::{
    cli::{Failure, preview::Source, print, query::unless_stopped},
    domain::previewed::Previewed,
};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
The SQL is that of the file as it stands; what it reads are the tables of the server, or of a lake. Use
`sluice query` for what the table of a deployed model holds.")]
pub struct Args {
    #[command(flatten)]
    pub source: Source,
    /// Rows that are shown
    #[arg(long, default_value_t = 10, value_name = "N")]
    pub limit: usize,
}

pub(super) async fn run(args: Args, stop: CancellationToken) -> Result<(), Failure> {
    unless_stopped(&stop, show(args)).await
}

async fn show(args: Args) -> Result<(), Failure> {
    let (plan, _, asker) = args.source.open().await?;
    let rows = asker.ask(&plan.model.sql, args.limit).await?;
    print::result(table(&rows))
}

/// Rows below their columns, each as wide as it must be.
pub(super) fn table(rows: &Previewed) -> String {
    let cell = |cell: &Option<String>| cell.clone().unwrap_or_default();
    let texts: Vec<Vec<String>> = std::iter::once(rows.columns.clone())
        .chain(rows.rows.iter().map(|row| row.iter().map(cell).collect()))
        .collect();
    let width = |column: usize| {
        let of = texts.iter().filter_map(|row| row.get(column));
        of.map(|text| text.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..rows.columns.len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(text, width)| format!("{text:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let rule = widths.iter().map(|width| "-".repeat(*width)).collect::<Vec<_>>().join("  ");
    let mut lines: Vec<String> = texts.iter().map(line).collect();
    lines.insert(1.min(lines.len()), rule);
    lines.join("\n")
}
