//! The models of a project: rendered, linked, put in order.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use serde_yaml_ng::Mapping;

use crate::{
    domain::TableName,
    project::{
        Diagnostic, Diagnostics, FAILURES, Materialized, Model, Places, Seed,
        config::{Of, Options, of_folders},
        files, is_identifier,
        jinja::{Columns, Templates},
        properties::Properties,
        settings::{self, Settings},
        snapshots::{self, OfRelation},
        yaml,
    },
};

/// Folders below those of models that are the schemas of the tables in them.
const SCHEMAS: [&str; 2] = ["silver", "gold"];
/// The schema of other models, where none is configured.
const SCHEMA: &str = "gold";

/// A model as it stands in its file.
pub(super) struct Source {
    pub file: PathBuf,
    /// By which others refer to it.
    pub name: String,
    pub table: TableName,
    pub text: String,
    /// Options from outside its file.
    pub options: Options,
    pub is_enabled: bool,
}

/// What properties files say of models and snapshots.
pub(super) struct Described<'a> {
    pub of: &'a BTreeMap<String, Properties>,
    pub snapshots: &'a [OfRelation],
}

/// The files of models and snapshots, with what folders and properties say of them.
pub(super) fn sources(
    root: &Path,
    settings: &Settings,
    properties: &Described<'_>,
    found: &mut Diagnostics,
) -> Vec<Source> {
    let mut sources: Vec<Source> = Vec::new();
    for folder in &settings.model_paths {
        for file in files(root, folder, &[".sql"], found) {
            let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            if !is_identifier(&name) {
                let message = format!("`{name}` cannot be a model name");
                found.push(Diagnostic::file(&file, message).hint("use a-z, 0-9 and _"));
                continue;
            }
            if let Some(other) = sources.iter().find(|other| other.name == name) {
                let message = format!("model `{name}` is also in {}", other.file.display());
                found.push(Diagnostic::file(&file, message).hint("names are unique in a project"));
                continue;
            }
            let Some(text) = yaml::text(root, &file, found) else { continue };
            let folders = of_file(&file, folder);
            let tree = ("models", &settings.models, Of::Model);
            let options = configured(root, settings, tree, (&folders, &name), found);
            let described = properties.of.get(&name).map(|p| p.options.clone()).unwrap_or_default();
            let options = described.over(&options);
            let in_folder = folders.first().filter(|first| SCHEMAS.contains(&first.as_str()));
            let schema = in_folder.map_or(SCHEMA, String::as_str);
            let mut source = Source {
                file,
                table: TableName::new(schema, &name),
                name,
                text,
                is_enabled: true,
                options,
            };
            source.follow(&source.options.clone());
            sources.push(source);
        }
    }
    snapshots(root, settings, properties, &mut sources, found);
    sources
}

/// Adds the snapshots, of files and of properties files.
fn snapshots(
    root: &Path,
    settings: &Settings,
    properties: &Described<'_>,
    sources: &mut Vec<Source>,
    found: &mut Diagnostics,
) {
    let mut all: Vec<(PathBuf, String, String)> = Vec::new();
    for folder in &settings.snapshot_paths {
        for file in files(root, folder, &[".sql"], found) {
            let Some(text) = yaml::text(root, &file, found) else { continue };
            match snapshots::blocks(&text) {
                Ok(blocks) => {
                    all.extend(blocks.into_iter().map(|(name, text)| (file.clone(), name, text)));
                }
                Err((at, message)) => {
                    found.push(Diagnostic::file(&file, message).at_byte(&text, at));
                }
            }
        }
    }
    let of_relations = properties.snapshots.iter().map(|snapshot| {
        let text = format!("select * from {{{{ {} }}}}", snapshot.relation);
        (snapshot.file.clone(), snapshot.name.clone(), text)
    });
    all.extend(of_relations);
    for (file, name, text) in all {
        if !is_identifier(&name) || sources.iter().any(|other| other.name == name) {
            let message = format!("`{name}` cannot be the name of a snapshot, or is another's");
            found.push(Diagnostic::file(&file, message).hint("use a-z, 0-9 and _"));
            continue;
        }
        let path = [settings.dbt_name.as_str(), &name];
        let base = of_folders(&settings.snapshots, &path, Of::Snapshot).unwrap_or_else(|message| {
            let (message, hint) = message.split_once('\u{1}').unwrap_or((&message, ""));
            let message = format!("snapshots: {message}");
            found.push(Diagnostic::file(Path::new(settings::DBT), message).hint(hint));
            Options::default()
        });
        let described = properties.of.get(&name).map(|p| p.options.clone()).unwrap_or_default();
        let options = Options { of: Of::Snapshot, ..described.over(&base) };
        let table = TableName::new(snapshots::SCHEMA, &name);
        let mut source = Source { file, name, table, text, options, is_enabled: true };
        source.follow(&source.options.clone());
        sources.push(source);
    }
}

impl Source {
    /// Takes its schema, name and whether it is switched on from options.
    fn follow(&mut self, options: &Options) {
        if let Some(schema) = &options.schema {
            self.table.schema.clone_from(schema);
        }
        if let Some(alias) = &options.alias {
            self.table.name.clone_from(alias);
        }
        self.is_enabled = options.is_enabled.unwrap_or(true);
    }
}

/// The folders between that of all models and a file.
pub(super) fn of_file(file: &Path, folder: &str) -> Vec<String> {
    let inside = file.strip_prefix(folder).unwrap_or(file).parent();
    let parts = inside.into_iter().flat_map(Path::components);
    parts.map(|part| part.as_os_str().to_string_lossy().into_owned()).collect()
}

/// What a part of `dbt_project.yml` says of a model or seed, which stands in these folders.
pub(super) fn configured(
    root: &Path,
    settings: &Settings,
    (part, tree, of): (&str, &Mapping, Of),
    (folders, name): (&[String], &str),
    found: &mut Diagnostics,
) -> Options {
    let path = [settings.dbt_name.as_str()].into_iter().chain(folders.iter().map(String::as_str));
    let path: Vec<&str> = path.chain([name]).collect();
    of_folders(tree, &path, of).unwrap_or_else(|message| {
        let file = Path::new(settings::DBT);
        let (message, hint) = message.split_once('\u{1}').unwrap_or((&message, ""));
        let text = std::fs::read_to_string(root.join(file)).unwrap_or_default();
        let diagnostic = Diagnostic::file(file, format!("{part}: {message}"));
        let word = message
            .split(['`', '\'', ' ', '='])
            .find(|word| word.len() > 3 && text.contains(&format!("{word}:")));
        let diagnostic = match word {
            Some(word) => diagnostic.find_after(&text, &format!("{part}:"), word),
            None => diagnostic,
        };
        let diagnostic = diagnostic.maybe_hint((!hint.is_empty()).then(|| hint.to_owned()));
        if !found.iter().any(|other| *other == diagnostic) {
            found.push(diagnostic);
        }
        Options { of, ..Options::default() }
    })
}

/// All models, rendered, parents before children.
pub(super) fn read(
    mut sources: Vec<Source>,
    templates: &Templates,
    seeds: &[Seed],
    properties: &BTreeMap<String, Properties>,
    found: &mut Diagnostics,
) -> Vec<Model> {
    name(&sources, templates, seeds);
    let mut rendered = render_all(&sources, templates, properties);
    // What a model says of its own name counts for all that refer to it.
    let mut is_renamed = false;
    for (source, result) in sources.iter_mut().zip(&rendered) {
        let Some(Ok(model)) = result else { continue };
        let before = (source.table.clone(), source.is_enabled);
        source.follow(&model.options);
        is_renamed |= before != (source.table.clone(), source.is_enabled);
    }
    if is_renamed {
        name(&sources, templates, seeds);
        rendered = render_all(&sources, templates, properties);
    }
    let mut models: Vec<Model> = Vec::new();
    for result in rendered.into_iter().flatten() {
        match result {
            Ok(model) => {
                if let Some(other) = models.iter().find(|other| other.name == model.name) {
                    let message = format!("makes {}, as {} does", model.name, other.file.display());
                    found.push(Diagnostic::file(&model.file, message).hint("change its alias"));
                } else if !is_identifier(&model.name.name) {
                    let message = format!("alias `{}` cannot be a table name", model.name.name);
                    let diagnostic = Diagnostic::file(&model.file, message);
                    let diagnostic = diagnostic.find(&model.source, &model.name.name);
                    found.push(diagnostic.hint("use a-z, 0-9 and _"));
                } else {
                    models.push(model);
                }
            }
            Err(diagnostic) => found.push(*diagnostic),
        }
    }
    in_order(models, found)
}

/// Tells the templates what the models and seeds are called.
fn name(sources: &[Source], templates: &Templates, seeds: &[Seed]) {
    let seeds = seeds.iter().map(|seed| (seed.name.name.clone(), seed.name.clone()));
    let (on, off): (Vec<&Source>, Vec<&Source>) =
        sources.iter().partition(|source| source.is_enabled);
    let models = on.into_iter().map(|source| (source.name.clone(), source.table.clone()));
    let disabled = off.into_iter().map(|source| source.name.clone()).collect();
    templates.name(seeds.chain(models).collect(), disabled);
}

type Rendered = Option<Result<Model, Box<Diagnostic>>>;

fn render_all(
    sources: &[Source],
    templates: &Templates,
    properties: &BTreeMap<String, Properties>,
) -> Vec<Rendered> {
    let render_one = |source: &Source| {
        let described = properties.get(&source.name);
        source.is_enabled.then(|| first(source, templates, described))
    };
    sources.iter().map(render_one).collect()
}

/// A model after the first pass.
fn first(
    source: &Source,
    templates: &Templates,
    described: Option<&Properties>,
) -> Result<Model, Box<Diagnostic>> {
    let described = described.cloned().unwrap_or_default();
    let model = Model {
        description: described.description,
        columns: described.columns,
        tested: described.tested,
        described_in: described.file,
        ..blank(&source.table, &source.file, source.text.clone(), source.options.clone())
    };
    render(&model, templates, None)
}

/// A query that is no model, before it is rendered.
pub(super) fn query(name: &str, file: &Path, text: String, options: Options) -> Model {
    let options = Options { materialized: Some(Materialized::View), ..options };
    blank(&TableName::new(FAILURES, name), file, text, options)
}

/// A model before it is rendered.
fn blank(name: &TableName, file: &Path, text: String, options: Options) -> Model {
    Model {
        name: name.clone(),
        file: file.to_path_buf(),
        source: text,
        sql: String::new(),
        places: Places::default(),
        materialized: Materialized::default(),
        refuses_recompute: false,
        tags: Vec::new(),
        refs: Vec::new(),
        sources: Vec::new(),
        asks_columns: false,
        is_open: false,
        description: String::new(),
        columns: BTreeMap::new(),
        tested: Vec::new(),
        described_in: None,
        options,
    }
}

/// The model, rendered. `columns`: of all that it reads, in the second pass.
pub(super) fn render(
    model: &Model,
    templates: &Templates,
    columns: Option<Columns>,
) -> Result<Model, Box<Diagnostic>> {
    let (file, source) = (&model.file, &model.source);
    let is_second = columns.is_some();
    let name = (model.name.schema != FAILURES).then_some(&model.name);
    let rendered = templates.render(file, source, name, &model.options, columns)?;
    let seen = rendered.seen;
    let options = seen.options.over(&model.options);
    let (refs, sources) = (unique(seen.refs), unique(seen.sources));
    if is_second && let Some(new) = refs.iter().find(|name| !model.refs.contains(name)) {
        let message = format!("reads {new} only when columns are known");
        let hint = format!("write `-- depends_on: {{{{ ref('{}') }}}}` above it", new.name);
        let diagnostic = Diagnostic::file(file, message).hint(hint);
        let named = ['\'', '"'].map(|quote| format!("{quote}{}{quote}", new.name));
        let named = named.iter().find(|text| source.contains(*text));
        return Err(Box::new(match named {
            Some(text) => diagnostic.find(source, text),
            None => diagnostic,
        }));
    }
    let mut tags = options.tags.clone();
    tags.sort();
    tags.dedup();
    let mut sql = rendered.sql.trim_end().trim_end_matches(';').to_owned();
    let mut places = rendered.places;
    let mut is_open = false;
    if options.of == Of::Snapshot {
        let query = snapshots::Query { columns: None, deletes: templates.deletes(&sources) };
        is_open = snapshots::asks_columns(&options.all, &query);
        if !is_open {
            (sql, places) = versioned(model, &options, (&sql, places), &query)?;
        }
    }
    Ok(Model {
        sql,
        places,
        materialized: options.materialized.unwrap_or_default(),
        refuses_recompute: options.refuses_recompute.unwrap_or(false),
        tags,
        refs,
        sources,
        asks_columns: seen.asks_columns || is_open,
        is_open,
        options: if is_second { model.options.clone() } else { options },
        ..model.clone()
    })
}

/// The query of a snapshot with what makes versions of its rows around it.
fn versioned(
    model: &Model,
    options: &Options,
    (sql, places): (&str, Places),
    query: &snapshots::Query<'_>,
) -> Result<(String, Places), Box<Diagnostic>> {
    let (before, behind) = snapshots::around(&options.all, query).map_err(|message| {
        let (message, hint) = message.split_once('\u{1}').unwrap_or((&message, ""));
        let diagnostic = Diagnostic::file(&model.file, format!("{}: {message}", model.name.name));
        Box::new(diagnostic.find(&model.source, "config").hint(hint))
    })?;
    Ok((format!("{before}{sql}{behind}"), places.behind(before.len())))
}

/// A snapshot whose query has these columns.
pub(super) fn with_own_columns(
    model: &Model,
    templates: &Templates,
    columns: &[String],
) -> Result<Model, Box<Diagnostic>> {
    let deletes = templates.deletes(&model.sources);
    let query = snapshots::Query { columns: Some(columns), deletes };
    let (sql, places) =
        versioned(model, &model.options, (&model.sql, model.places.clone()), &query)?;
    Ok(Model { sql, places, is_open: false, ..model.clone() })
}

fn unique<T: Ord>(items: Vec<T>) -> Vec<T> {
    items.into_iter().collect::<BTreeSet<_>>().into_iter().collect()
}

/// Parents before children; reports cycles.
fn in_order(models: Vec<Model>, found: &mut Diagnostics) -> Vec<Model> {
    let mut waiting: BTreeMap<TableName, Model> =
        models.into_iter().map(|model| (model.name.clone(), model)).collect();
    let mut ordered = Vec::with_capacity(waiting.len());
    while !waiting.is_empty() {
        let ready: Vec<TableName> = waiting
            .values()
            .filter(|model| model.refs.iter().all(|name| !waiting.contains_key(name)))
            .map(|model| model.name.clone())
            .collect();
        if ready.is_empty() {
            found.push(cycle_error(&waiting));
            break;
        }
        ordered.extend(ready.iter().filter_map(|name| waiting.remove(name)));
    }
    ordered
}

fn cycle_error(waiting: &BTreeMap<TableName, Model>) -> Diagnostic {
    let cycle = cycle(waiting);
    let text: Vec<String> = cycle.iter().map(ToString::to_string).collect();
    let message = format!("models form a cycle: {}", text.join(" → "));
    let (Some(model), Some(next)) =
        (cycle.first().and_then(|name| waiting.get(name)), cycle.get(1))
    else {
        return Diagnostic::file(Path::new("models"), message);
    };
    let reference = ['\'', '"'].map(|quote| format!("{quote}{}{quote}", next.name));
    let reference = reference.iter().find(|text| model.source.contains(*text));
    let diagnostic = Diagnostic::file(&model.file, message).hint("remove one of these refs");
    match reference {
        Some(text) => diagnostic.find(&model.source, text),
        None => diagnostic,
    }
}

fn cycle(waiting: &BTreeMap<TableName, Model>) -> Vec<TableName> {
    let mut path: Vec<TableName> = waiting.keys().take(1).cloned().collect();
    while let Some(model) = path.last().and_then(|name| waiting.get(name)) {
        let Some(next) = model.refs.iter().find(|name| waiting.contains_key(name)) else { break };
        if let Some(start) = path.iter().position(|name| name == next) {
            path.push(next.clone());
            return path.split_off(start);
        }
        path.push(next.clone());
    }
    path
}
