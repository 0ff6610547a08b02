//! `sluice diff`: what a change of a model's SQL would change in its rows.

use tokio_util::sync::CancellationToken;

use crate::{
    cli::{
        Failure,
        preview::{Asker, Source},
        print,
        query::unless_stopped,
    },
    models::Plan,
    process::Planned,
};

/// Rows that are shown of each kind.
const ROWS: usize = 5;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Compares the table as it is with what the model's file gives now, over the same inputs. Rows belong
together by the key: the column of the model with a `unique` test, or --key.")]
pub struct Args {
    #[command(flatten)]
    pub source: Source,
    /// Columns that identify a row [default: those of a `unique` test]
    #[arg(long, value_name = "COLUMN", value_delimiter = ',')]
    pub key: Vec<String>,
}

pub(super) async fn run(args: Args, stop: CancellationToken) -> Result<(), Failure> {
    unless_stopped(&stop, diff(args)).await
}

async fn diff(args: Args) -> Result<(), Failure> {
    let (plan, planned, asker) = args.source.open().await?;
    let old = asker.ask(&format!("SELECT * FROM {}", quoted_table(&plan)), 0).await?.columns;
    let new: Vec<String> = plan.schema.fields().iter().map(|f| f.name().clone()).collect();
    let key = if args.key.is_empty() { key(&plan, &planned) } else { args.key };
    if let Some(missing) = key.iter().find(|name| !new.contains(name) || !old.contains(name)) {
        let message = format!("key column `{missing}` is not in both: in the table {old:?}");
        return Err(Failure::invalid(message));
    }
    let mut lines = Vec::new();
    for name in new.iter().filter(|name| !old.contains(name)) {
        lines.push(format!("column {name} is new"));
    }
    for name in old.iter().filter(|name| !new.contains(name)) {
        lines.push(format!("column {name} is gone"));
    }
    let both: Vec<String> = new.into_iter().filter(|name| old.contains(name)).collect();
    let compared = Compared { plan: &plan, key, both };
    if compared.key.is_empty() {
        lines.extend(compared.whole_rows(&asker).await?);
    } else {
        lines.extend(compared.by_key(&asker).await?);
    }
    print::result(lines.join("\n"))
}

/// The column, or columns, that a test says are unique.
fn key(plan: &Plan, planned: &Planned) -> Vec<String> {
    let mut tests = planned.project.tests.iter();
    let unique =
        tests.find(|test| test.kind == "unique" && test.about.as_ref() == Some(&plan.model.name));
    unique.and_then(|test| test.column.clone()).into_iter().collect()
}

struct Compared<'a> {
    plan: &'a Plan,
    key: Vec<String>,
    /// The columns of both.
    both: Vec<String>,
}

impl Compared<'_> {
    /// `o` and `n`, what is and what would be, as CTEs.
    fn ctes(&self) -> String {
        let list = self.both.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", ");
        format!(
            "WITH o AS (SELECT {list}, TRUE AS \"__is\" FROM {}),\nn AS (SELECT {list}, TRUE AS \
             \"__is\" FROM (\n{}\n) AS q)\n",
            quoted_table(self.plan),
            self.plan.model.sql
        )
    }

    async fn whole_rows(&self, asker: &Asker) -> Result<Vec<String>, Failure> {
        let mut lines = vec!["no column is known to be unique: whole rows are compared".to_owned()];
        for (what, from, without) in [("removed", "o", "n"), ("added", "n", "o")] {
            let rows = format!("(SELECT * FROM {from} EXCEPT ALL SELECT * FROM {without}) AS d");
            let sql = format!("{}SELECT count(*) FROM {rows}", self.ctes());
            let count = asker.ask(&sql, 1).await?.number(0, 0).unwrap_or_default();
            lines.push(format!("{what:<8} {count} rows"));
            let columns = self.both.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", ");
            let sql = format!("{}SELECT {columns} FROM {rows} ORDER BY 1", self.ctes());
            let found = asker.ask(&sql, ROWS).await?;
            lines
                .extend(found.rows.iter().map(|row| format!("    {}", cells(&found.columns, row))));
        }
        Ok(lines)
    }

    async fn by_key(&self, asker: &Asker) -> Result<Vec<String>, Failure> {
        let on: Vec<String> = self
            .key
            .iter()
            .map(|name| format!("(o.{0} IS NOT DISTINCT FROM n.{0})", quoted(name)))
            .collect();
        let join = format!("o FULL JOIN n ON {}", on.join(" AND "));
        let others: Vec<&String> =
            self.both.iter().filter(|name| !self.key.contains(name)).collect();
        let differs = |name: &str| format!("(o.{0} IS DISTINCT FROM n.{0})", quoted(name));
        let is_both = "o.\"__is\" AND n.\"__is\"";
        let any: Vec<String> = others.iter().map(|name| differs(name)).collect();
        let any = if any.is_empty() { "FALSE".to_owned() } else { any.join(" OR ") };
        let per_column = others
            .iter()
            .map(|name| format!(", count(*) FILTER (WHERE {is_both} AND {})", differs(name)));
        let sql = format!(
            "{}SELECT count(o.\"__is\"), count(n.\"__is\"), count(*) FILTER (WHERE n.\"__is\" IS NULL), \
             count(*) FILTER (WHERE o.\"__is\" IS NULL), count(*) FILTER (WHERE {is_both} AND ({any})){} \
             FROM {join}",
            self.ctes(),
            per_column.collect::<String>()
        );
        let counts = asker.ask(&sql, 1).await?;
        let count = |column| counts.number(0, column).unwrap_or_default();
        let mut lines = vec![
            format!("{}: {} rows, {} by the file", self.plan.model.name, count(0), count(1)),
            format!("removed {}, added {}, changed {}", count(2), count(3), count(4)),
        ];
        for (number, name) in others.iter().enumerate() {
            let changed = count(5 + number);
            if changed > 0 {
                lines.push(format!("column {name}: changed in {changed} rows"));
            }
        }
        let key = |of: &str| {
            let columns = self.key.iter().map(|name| format!("{of}.{0} AS {0}", quoted(name)));
            columns.collect::<Vec<_>>().join(", ")
        };
        let kinds = [
            ("removed", format!("SELECT {} FROM {join} WHERE n.\"__is\" IS NULL", key("o"))),
            ("added", format!("SELECT {} FROM {join} WHERE o.\"__is\" IS NULL", key("n"))),
        ];
        for (what, rows) in kinds {
            let found = asker.ask(&format!("{}{rows} ORDER BY 1", self.ctes()), ROWS).await?;
            let shown = found.rows.iter().map(|row| cells(&found.columns, row));
            lines.extend(shown.map(|row| format!("    {what}  {row}")));
        }
        let pair = |(i, name): (usize, &&String)| {
            format!(", o.{0} AS before{i}, n.{0} AS after{i}", quoted(name))
        };
        let pairs = others.iter().enumerate().map(pair).collect::<String>();
        let sql = format!(
            "{}SELECT {}{pairs} FROM {join} WHERE {is_both} AND ({any}) ORDER BY 1",
            self.ctes(),
            key("n")
        );
        let found = asker.ask(&sql, ROWS).await?;
        for row in &found.rows {
            let of_key = cells(&self.key, &row[..self.key.len().min(row.len())]);
            let changes = others.iter().enumerate().filter_map(|(i, name)| {
                let at = self.key.len() + 2 * i;
                let (before, after) = (row.get(at)?, row.get(at + 1)?);
                (before != after).then(|| format!("{name} {} → {}", text(before), text(after)))
            });
            let changes = changes.collect::<Vec<_>>().join(", ");
            lines.push(format!("    changed  {of_key}: {changes}"));
        }
        Ok(lines)
    }
}

fn text(cell: &Option<String>) -> &str {
    cell.as_deref().unwrap_or("null")
}

fn cells(columns: &[String], row: &[Option<String>]) -> String {
    let cells = columns.iter().zip(row).map(|(name, cell)| format!("{name} {}", text(cell)));
    cells.collect::<Vec<_>>().join(", ")
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn quoted_table(plan: &Plan) -> String {
    let name = &plan.model.name;
    format!("{}.{}", quoted(&name.schema), quoted(&name.name))
}
