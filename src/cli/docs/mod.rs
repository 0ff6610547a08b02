//! `sluice docs`: a project as a folder of pages, which any web server or browser shows.

mod graph;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
};

use chrono::{DateTime, SecondsFormat};
use minijinja::{AutoEscape, Environment, Value, context};
use rust_embed::RustEmbed;
use serde::Serialize;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::{
    cli::{
        Failure, LakeFlags, chain, check, example,
        lineage::{self, Node},
        print,
        query::unless_stopped,
        test,
    },
    domain::{TableName, tested::Ran},
    lake::{Lake, LakeError},
    models::sql_columns,
    ops::Clock,
    process::Planned,
    project::{Exposure, Group},
};

#[derive(RustEmbed)]
#[folder = "src/cli/docs/template"]
struct Template;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
With --data-dir or --lake the pages say when each table changed last, and how its tests end over what
is committed; a server may run beside it.

  sluice docs PROJECT --data-dir sluice-data --into site
  python3 -m http.server --directory site")]
pub struct Args {
    /// Folder of the project, which holds sluice.yml or dbt_project.yml
    pub project: PathBuf,
    /// Folder that the pages are written into
    #[arg(long, value_name = "DIR", default_value = "sluice-docs")]
    pub into: PathBuf,
    #[command(flatten)]
    pub lake: LakeFlags,
}

/// A relation as its page tells it.
#[derive(Default, Serialize)]
struct Relation {
    name: String,
    kind: &'static str,
    page: String,
    file: String,
    description: String,
    tags: Vec<String>,
    group: Option<String>,
    meta: Option<String>,
    class: String,
    reason: String,
    changed_at: Option<String>,
    version: Option<u64>,
    columns: Vec<Column>,
    tests: Vec<Test>,
    failed: usize,
    warned: usize,
    reads: Vec<Link>,
    read_by: Vec<Link>,
    shown_in: Vec<String>,
    sql: String,
    rendered: String,
}

#[derive(Serialize)]
struct Column {
    name: String,
    #[serde(rename = "type")]
    of_type: String,
    description: String,
    from: Vec<String>,
}

#[derive(Serialize)]
struct Test {
    name: String,
    column: Option<String>,
    severity: String,
    status: Option<&'static str>,
    message: String,
}

#[derive(Clone, Serialize)]
struct Link {
    name: String,
    page: String,
}

pub(super) async fn run(args: Args, stop: CancellationToken) -> Result<(), Failure> {
    unless_stopped(&stop, write(args)).await
}

async fn write(args: Args) -> Result<(), Failure> {
    let planned = Arc::new(check::load(&args.project)?);
    let lake = args.lake.open()?;
    let all: BTreeSet<TableName> =
        planned.plans.iter().map(|plan| plan.model.name.clone()).collect();
    let nodes = lineage::nodes(&planned, true, &all);
    let ran = match &lake {
        Some(lake) => test::over(Arc::clone(&planned), lake).await?,
        None => Vec::new(),
    };
    let mut relations = relations(&planned, &nodes, &ran);
    if let Some(lake) = &lake {
        for relation in &mut relations {
            date(relation, lake).await.map_err(|e| Failure::new(e.kind(), chain(&e)))?;
        }
    }
    let pages = pages(&planned, &nodes, &relations)?;
    for (name, text) in &pages {
        example::write(&args.into, name, text.as_bytes())?;
    }
    let index = args.into.join("index.html");
    print::result(format!(
        "{} pages in {}: open {}",
        pages.len() - 1,
        args.into.display(),
        index.display()
    ))
}

/// Every page, and the style, by the name of its file.
fn pages(
    planned: &Planned,
    nodes: &[Node],
    relations: &[Relation],
) -> Result<Vec<(String, String)>, Failure> {
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    for name in ["base.html", "index.html", "relation.html"] {
        let text = Template::get(name).map(|file| file.data.into_owned()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        environment.add_template_owned(name, text).map_err(defect)?;
    }
    let project = &planned.project;
    let shared = context! {
        project => project.name.clone(),
        version => env!("CARGO_PKG_VERSION"),
        made_at => time(Clock::system().now_us()),
    };
    let graph = |nodes: &[&Node], here| graph::svg(nodes, here, page);
    let every: Vec<&Node> = nodes.iter().collect();
    let index = environment.get_template("index.html").map_err(defect)?.render(context! {
        relations => value(&relations),
        graph => graph(&every, None),
        counts => counts(planned),
        exposures => project.exposures.iter().map(exposure).collect::<Value>(),
        groups => project.groups.iter().map(group).collect::<Value>(),
        ..shared.clone()
    });
    let style = Template::get("style.css").map(|file| file.data.into_owned()).unwrap_or_default();
    let mut pages = vec![
        ("style.css".to_owned(), String::from_utf8_lossy(&style).into_owned()),
        ("index.html".to_owned(), index.map_err(defect)?),
    ];
    let template = environment.get_template("relation.html").map_err(defect)?;
    for one in relations {
        let around = graph::around(nodes, &one.name);
        let text = template.render(context! {
            one => value(one),
            graph => graph(&around, Some(&one.name)),
            ..shared.clone()
        });
        pages.push((one.page.clone(), text.map_err(defect)?));
    }
    Ok(pages)
}

fn defect(error: minijinja::Error) -> Failure {
    Failure::work(format!("a page cannot be made: {}", chain(&error)))
}

/// What templates read; all of it can be written as JSON.
fn value(of: &impl Serialize) -> Value {
    let json = serde_json::to_value(of).and_then(serde_json::from_value);
    json.unwrap_or_default()
}

/// Microseconds since 1970 for people.
fn time(us: i64) -> Option<String> {
    let time = DateTime::from_timestamp_micros(us)?;
    Some(time.to_rfc3339_opts(SecondsFormat::Secs, true))
}

fn page(name: &str) -> String {
    format!("{name}.html")
}

fn link(name: &str) -> Link {
    Link { name: name.to_owned(), page: page(name) }
}

fn counts(planned: &Planned) -> String {
    let project = &planned.project;
    format!(
        "{} streams, {} seeds, {} models, {} data tests, {} unit tests",
        project.streams.len(),
        project.seeds.len(),
        planned.plans.len(),
        planned.tests.len(),
        planned.unit_tests.len()
    )
}

fn exposure(of: &Exposure) -> Value {
    let is_web = |url: &&String| url.starts_with("https://") || url.starts_with("http://");
    let reads: Vec<Link> = of.depends_on.iter().map(|name| link(&name.to_string())).collect();
    value(&json!({
        "label": of.label, "kind": of.kind, "url": of.url.as_ref().filter(is_web),
        "owner": of.owner.to_string(), "description": of.description, "reads": reads,
    }))
}

fn group(of: &Group) -> Value {
    let Group { name, description, owner } = of;
    value(&json!({"name": name, "owner": owner.to_string(), "description": description}))
}

/// Streams, seeds and models, as their pages tell them.
fn relations(planned: &Planned, nodes: &[Node], ran: &[Ran]) -> Vec<Relation> {
    let project = &planned.project;
    let streams = project.streams.iter().map(|stream| Relation {
        name: format!("bronze.{}", stream.name),
        kind: "stream",
        file: format!("streams/{}.yml", stream.name),
        description: stream.description.clone(),
        columns: (stream.fields.iter())
            .map(|field| Column {
                name: field.name.clone(),
                of_type: field.data_type.name(),
                description: field.description.clone(),
                from: Vec::new(),
            })
            .collect(),
        ..Relation::default()
    });
    let seeds = project.seeds.iter().map(|seed| Relation {
        name: seed.name.to_string(),
        kind: "seed",
        file: seed.file.display().to_string(),
        description: seed.description.clone(),
        columns: columns(&sql_columns(&seed.rows.schema()), &seed.columns, None),
        ..Relation::default()
    });
    let models = planned.plans.iter().map(|plan| {
        let model = &plan.model;
        let name = model.name.to_string();
        let node = nodes.iter().find(|node| node.name == name);
        Relation {
            kind: "model",
            file: model.file.display().to_string(),
            description: model.description.clone(),
            tags: model.tags.clone(),
            group: model.group().map(str::to_owned),
            meta: model.meta().and_then(|meta| serde_json::to_string(meta).ok()),
            class: plan.class.to_string(),
            reason: plan.reason.clone(),
            columns: columns(&sql_columns(&plan.schema), &model.columns, node),
            sql: model.source.trim().to_owned(),
            rendered: model.sql.trim().to_owned(),
            name,
            ..Relation::default()
        }
    });
    let mut all: Vec<Relation> = streams.chain(seeds).chain(models).collect();
    for one in &mut all {
        one.page = page(&one.name);
        let node = nodes.iter().find(|node| node.name == one.name);
        one.reads = node.iter().flat_map(|node| &node.reads).map(|name| link(name)).collect();
        let readers = nodes.iter().filter(|node| node.reads.contains(&one.name));
        one.read_by = readers.map(|node| link(&node.name)).collect();
        let shown = project.exposures.iter();
        let shown =
            shown.filter(|of| of.depends_on.iter().any(|name| name.to_string() == one.name));
        one.shown_in = shown.map(|of| of.label.clone()).collect();
        one.tests = tests(planned, &one.name, ran);
        let count = |wanted: &[&str]| {
            one.tests.iter().filter(|test| test.status.is_some_and(|s| wanted.contains(&s))).count()
        };
        (one.failed, one.warned) = (count(&["fail", "error"]), count(&["warn"]));
    }
    all
}

fn columns(
    types: &[(String, String)],
    described: &BTreeMap<String, String>,
    node: Option<&Node>,
) -> Vec<Column> {
    let from = |name: &String| node.and_then(|node| node.columns.get(name)).cloned();
    let column = |(name, of_type): &(String, String)| Column {
        name: name.clone(),
        of_type: of_type.clone(),
        description: described.get(name).cloned().unwrap_or_default(),
        from: from(name).unwrap_or_default(),
    };
    types.iter().map(column).collect()
}

/// The tests about a relation, with how they ended.
fn tests(planned: &Planned, name: &str, ran: &[Ran]) -> Vec<Test> {
    let outcome = |name: &str| ran.iter().find(|ran| ran.name == name);
    let test = |name: &str, column: Option<String>, severity: &str| {
        let ran = outcome(name);
        Test {
            name: name.to_owned(),
            column,
            severity: severity.to_owned(),
            status: ran.map(|ran| ran.status.as_str()),
            message: ran.map(|ran| ran.message.clone()).unwrap_or_default(),
        }
    };
    let is_about = |about: &Option<TableName>| {
        about.as_ref().is_some_and(|about| lineage::shown(about) == name)
    };
    let data = planned.tests.iter().map(|plan| &plan.test).filter(|test| is_about(&test.about));
    let data = data.map(|of| test(&of.name, of.column.clone(), of.severity.as_str()));
    let units = planned.unit_tests.iter().map(|unit| &unit.test);
    let units = units.filter(|unit| unit.model.to_string() == name);
    data.chain(units.map(|unit| test(&unit.name, None, "unit"))).collect()
}

/// Notes when the table changed last.
async fn date(relation: &mut Relation, lake: &Lake) -> Result<(), LakeError> {
    let Some((schema, name)) = relation.name.split_once('.') else { return Ok(()) };
    let Some(history) = lake.history(&TableName::new(schema, name)).await? else { return Ok(()) };
    let Some(newest) = history.newest().await? else { return Ok(()) };
    relation.changed_at = newest.committed_us.and_then(time);
    relation.version = Some(newest.version);
    Ok(())
}
