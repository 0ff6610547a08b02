//! dbt's selection syntax: which models, seeds, streams and tests a command is about.
//!
//! `--select` takes the union of its parts, which are parted by blanks; commas intersect. A part is
//! a method and a value (`tag:nightly`) or a name, path or folder, with `+` before or behind for
//! parents and children, `2+` for so many generations, `@` for children with their parents.
//! <https://docs.getdbt.com/reference/node-selection/syntax>

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use crate::{
    domain::TableName,
    project::{Materialized, Model, Project, QUARANTINE, SINGULAR, nearest},
};

/// Methods of selection.
const METHODS: [&str; 13] = [
    "exposure",
    "group",
    "fqn",
    "name",
    "tag",
    "path",
    "file",
    "source",
    "resource_type",
    "test_type",
    "test_name",
    "config.materialized",
    "state",
];

/// What can be selected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Source,
    Seed,
    Model,
    Exposure,
    Test,
    UnitTest,
}

/// What a command is about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selected {
    /// Models and seeds.
    pub tables: BTreeSet<TableName>,
    /// Tests by name: those of what is selected, and those that are selected themselves.
    pub tests: BTreeSet<String>,
}

struct Node {
    kind: Kind,
    name: String,
    table: Option<TableName>,
    file: PathBuf,
    tags: Vec<String>,
    materialized: Option<Materialized>,
    group: Option<String>,
    /// Of a test: the generic one that it is, or singular, or unit.
    test: String,
    parents: Vec<usize>,
}

/// What is selected from, as a graph.
pub struct Graph {
    nodes: Vec<Node>,
    children: Vec<Vec<usize>>,
    /// Models that are defined otherwise than their tables, where that is known.
    modified: Option<BTreeSet<TableName>>,
}

type Found = BTreeSet<usize>;

/// A node by itself.
fn blank(kind: Kind, name: &str, table: Option<TableName>, file: PathBuf) -> Node {
    Node {
        kind,
        name: name.to_owned(),
        table,
        file,
        tags: Vec::new(),
        materialized: None,
        group: None,
        test: String::new(),
        parents: Vec::new(),
    }
}

/// The nodes that a query reads.
fn parents(of: &BTreeMap<TableName, usize>, model: &Model) -> Vec<usize> {
    let read = model.refs.iter().chain(&model.sources);
    read.filter_map(|name| of.get(name).copied()).collect()
}

/// Exposures and tests, which are read by nothing.
fn readers(project: &Project, of: &BTreeMap<TableName, usize>) -> Vec<Node> {
    let mut nodes = Vec::new();
    for exposure in &project.exposures {
        let read = exposure.depends_on.iter().filter_map(|name| of.get(name).copied());
        let file = exposure.file.clone();
        nodes.push(Node {
            tags: exposure.tags.clone(),
            parents: read.collect(),
            ..blank(Kind::Exposure, &exposure.name, None, file)
        });
    }
    for test in &project.tests {
        let node = Node {
            tags: test.query.tags.clone(),
            test: test.kind.clone(),
            parents: parents(of, &test.query),
            ..blank(Kind::Test, &test.name, None, test.query.file.clone())
        };
        nodes.push(node);
    }
    for test in &project.unit_tests {
        let node = Node {
            tags: test.tags.clone(),
            test: "unit".to_owned(),
            parents: of.get(&test.model).copied().into_iter().collect(),
            ..blank(Kind::UnitTest, &test.name, None, test.file.clone())
        };
        nodes.push(node);
    }
    nodes
}

impl Graph {
    /// The graph of a project. `modified`: models whose tables were built by another definition, if
    /// there is a lake to compare with.
    pub fn new(project: &Project, modified: Option<BTreeSet<TableName>>) -> Self {
        let mut nodes: Vec<Node> = Vec::new();
        let mut of: BTreeMap<TableName, usize> = BTreeMap::new();
        for stream in &project.streams {
            let file = PathBuf::from(format!("streams/{}.yml", stream.name));
            of.insert(TableName::new("bronze", &stream.name), nodes.len());
            of.insert(TableName::new(QUARANTINE, &stream.name), nodes.len());
            nodes.push(blank(Kind::Source, &stream.name, None, file));
        }
        for seed in &project.seeds {
            of.insert(seed.name.clone(), nodes.len());
            let (name, file) = (Some(seed.name.clone()), seed.file.clone());
            nodes.push(blank(Kind::Seed, &seed.name.name, name, file));
        }
        for model in &project.models {
            let (name, file) = (Some(model.name.clone()), model.file.clone());
            let node = Node {
                tags: model.tags.clone(),
                materialized: Some(model.materialized),
                group: model.group().map(str::to_owned),
                parents: parents(&of, model),
                ..blank(Kind::Model, &model.name.name, name, file)
            };
            of.insert(model.name.clone(), nodes.len());
            nodes.push(node);
        }
        nodes.extend(readers(project, &of));
        let mut children = vec![Vec::new(); nodes.len()];
        for (number, node) in nodes.iter().enumerate() {
            node.parents.iter().for_each(|parent| children[*parent].push(number));
        }
        Self { nodes, children, modified }
    }

    /// What `select`, without `exclude`, is; all where nothing is selected.
    pub fn select(&self, select: &[String], exclude: &[String]) -> Result<Selected, String> {
        let all = || Ok((0..self.nodes.len()).collect());
        let wanted: Found = if select.is_empty() { all() } else { self.union(select) }?;
        let unwanted = self.union(exclude)?;
        // Tests come with what they are about, unless they are excluded themselves or with it.
        let with_tests = |found: &Found| -> Found {
            let children = found.iter().flat_map(|of| &self.children[*of]).copied();
            let tests = children.filter(|child| self.nodes[*child].kind >= Kind::Test);
            found.iter().copied().chain(tests).collect()
        };
        let (wanted, unwanted) = (with_tests(&wanted), with_tests(&unwanted));
        let mut selected = Selected::default();
        for node in wanted.difference(&unwanted).map(|number| &self.nodes[*number]) {
            match (&node.table, node.kind) {
                (Some(table), _) => drop(selected.tables.insert(table.clone())),
                (None, Kind::Test | Kind::UnitTest) => {
                    selected.tests.insert(node.name.clone());
                }
                (None, _) => {}
            }
        }
        Ok(selected)
    }

    fn union(&self, given: &[String]) -> Result<Found, String> {
        let mut found = Found::new();
        for part in given.iter().flat_map(|given| given.split_whitespace()) {
            let mut parts = part.split(',').map(|part| self.part(part));
            let Some(first) = parts.next() else { continue };
            let both = parts.try_fold(first?, |all, part| Ok::<_, String>(&all & &part?))?;
            found.extend(both);
        }
        Ok(found)
    }

    /// What one part of a selection is.
    fn part(&self, part: &str) -> Result<Found, String> {
        let (with_all, rest) = match part.strip_prefix('@') {
            Some(rest) => (true, rest),
            None => (false, part),
        };
        let (before, rest) = generations(rest, true);
        let (behind, rest) = generations(rest, false);
        let mut found = self.named(rest, part)?;
        let (mut parents, mut children) = (found.clone(), found.clone());
        if let Some(most) = before {
            parents = self.walk(&found, most, |number| &self.nodes[number].parents);
        }
        if let Some(most) = behind.or_else(|| with_all.then_some(usize::MAX)) {
            children = self.walk(&found, most, |number| &self.children[number]);
        }
        if with_all {
            parents = self.walk(&children, usize::MAX, |number| &self.nodes[number].parents);
        }
        found.extend(parents);
        found.extend(children);
        Ok(found)
    }

    fn walk<'a>(&'a self, from: &Found, most: usize, next: impl Fn(usize) -> &'a [usize]) -> Found {
        let mut found = from.clone();
        let mut last: Vec<usize> = from.iter().copied().collect();
        let mut steps = 0;
        while !last.is_empty() && steps < most {
            let reached = last.iter().flat_map(|number| next(*number)).copied();
            last = reached.filter(|number| found.insert(*number)).collect();
            steps += 1;
        }
        found
    }

    /// The nodes of a method and its value, or of a name.
    fn named(&self, value: &str, part: &str) -> Result<Found, String> {
        let (method, value) = match value.split_once(':') {
            Some((method, value)) => (Some(method), value),
            None => (None, value),
        };
        let is = |node: &Node| -> bool {
            let file = node.file.to_string_lossy();
            match method {
                None | Some("fqn" | "name") => self.is_named(node, value),
                Some("tag") => node.tags.iter().any(|tag| like(tag, value)),
                Some("path") => {
                    let value = value.trim_end_matches('/');
                    let inside = file.strip_prefix(value);
                    inside.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
                        || like(&file, value)
                }
                Some("file") => {
                    let name = node.file.file_name().unwrap_or_default().to_string_lossy();
                    like(&name, value) || node.file.file_stem().is_some_and(|stem| stem == value)
                }
                Some("source") => {
                    let name = value.rsplit('.').next().unwrap_or(value);
                    node.kind == Kind::Source && (value == "bronze" || like(&node.name, name))
                }
                Some("exposure") => node.kind == Kind::Exposure && like(&node.name, value),
                Some("group") => node.group.as_deref() == Some(value),
                Some("resource_type") => kind_name(node.kind) == value,
                Some("test_type") => match value {
                    "unit" => node.kind == Kind::UnitTest,
                    "data" => node.kind == Kind::Test,
                    "singular" => node.kind == Kind::Test && node.test == SINGULAR,
                    "generic" => node.kind == Kind::Test && node.test != SINGULAR,
                    _ => false,
                },
                Some("test_name") => node.kind >= Kind::Test && like(&node.test, value),
                Some("config.materialized") => node.materialized.is_some_and(|kept| match value {
                    "view" => kept == Materialized::View,
                    "table" => kept == Materialized::Table,
                    _ => false,
                }),
                Some("state") => {
                    let modified = self.modified.as_ref();
                    node.table.as_ref().is_some_and(|table| {
                        modified.is_some_and(|modified| modified.contains(table))
                    })
                }
                Some(_) => false,
            }
        };
        let numbers = self.nodes.iter().enumerate();
        let found: Found = numbers.filter(|(_, node)| is(node)).map(|(number, _)| number).collect();
        match method {
            Some(method) if !METHODS.contains(&method) => {
                let hint = nearest(method, METHODS)
                    .unwrap_or_else(|| format!("methods are {}", METHODS.join(", ")));
                Err(format!("`{part}`: there is no method `{method}`; {hint}"))
            }
            Some("state") if value != "modified" => {
                Err(format!("`{part}`: of states only `state:modified` is known"))
            }
            Some("state") if self.modified.is_none() => {
                Err(format!("`{part}` needs a lake to compare with: give --data-dir or --lake"))
            }
            Some("state") => Ok(found),
            _ if found.is_empty() => Err(self.nothing(part, value)),
            _ => Ok(found),
        }
    }

    fn is_named(&self, node: &Node, value: &str) -> bool {
        let table = node.table.as_ref().map(ToString::to_string);
        let folder = node.file.parent().map(|parent| parent.to_string_lossy().replace('/', "."));
        let within = folder.map(|folder| format!("{folder}.{}", node.name)).unwrap_or_default();
        let inside = within.split_once('.').map_or("", |(_, inside)| inside);
        let is_folder = |path: &str| {
            let value = value.trim_end_matches(".*");
            path.strip_prefix(value).is_some_and(|rest| rest.starts_with('.'))
        };
        like(&node.name, value)
            || table.is_some_and(|table| like(&table, value))
            || node.file.to_string_lossy() == value
            || (value.contains('/') && node.file.starts_with(value.trim_end_matches('/')))
            || is_folder(inside)
            || is_folder(&within)
    }

    fn nothing(&self, part: &str, value: &str) -> String {
        let names = self.nodes.iter().filter(|node| node.kind < Kind::Test);
        let hint = nearest(value, names.map(|node| node.name.as_str()));
        let hint = hint.map(|hint| format!("; {hint}")).unwrap_or_default();
        format!("`{part}` selects nothing{hint}")
    }
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Source => "source",
        Kind::Seed => "seed",
        Kind::Model => "model",
        Kind::Exposure => "exposure",
        Kind::Test => "test",
        Kind::UnitTest => "unit_test",
    }
}

/// How many generations a `+` at an end asks for, and what is left.
fn generations(part: &str, is_before: bool) -> (Option<usize>, &str) {
    let split = if is_before { part.split_once('+') } else { part.rsplit_once('+') };
    let Some((left, right)) = split else { return (None, part) };
    let (number, rest) = if is_before { (left, right) } else { (right, left) };
    match (number, number.parse()) {
        ("", _) => (Some(usize::MAX), rest),
        (_, Ok(number)) => (Some(number), rest),
        _ => (None, part),
    }
}

/// Whether a text is as a pattern says, in which `*` stands for anything.
fn like(text: &str, pattern: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return text == pattern };
    let Some(mut left) = text.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        let Some(at) = left.find(part) else { return false };
        left = &left[at + part.len()..];
    }
    left.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// a → b → c → d, and x → c; the tests of b and c, and one of its own over d.
    fn graph() -> Graph {
        let dir = tempfile::tempdir().expect("folder");
        let model = |read: &[&str]| {
            let refs: Vec<String> =
                read.iter().map(|name| format!("{{{{ ref('{name}') }}}}")).collect();
            format!("SELECT 1 AS id FROM {}", refs.join(", "))
        };
        let yml = "models:\n  - name: b\n    tags: [nightly]\n    columns: [{name: id, data_tests: [unique]}]\n  \
                   - name: c\n    config: {tags: [nightly, slow], materialized: view}\n    \
                   columns: [{name: id, data_tests: [not_null]}]\nunit_tests:\n  - name: one\n    model: d\n    \
                   expect: {rows: []}\n";
        for (file, text) in [
            ("sluice.yml", "name: test\n".to_owned()),
            ("seeds/a.csv", "id\n1\n".to_owned()),
            ("seeds/x.csv", "id\n1\n".to_owned()),
            ("models/silver/b.sql", model(&["a"])),
            ("models/gold/c.sql", model(&["b", "x"])),
            ("models/gold/daily/d.sql", model(&["c"])),
            ("models/models.yml", yml.to_owned()),
            ("tests/own.sql", "SELECT * FROM {{ ref('d') }}".to_owned()),
        ] {
            let path = dir.path().join(file);
            std::fs::create_dir_all(path.parent().expect("parent")).expect("folder");
            std::fs::write(path, text).expect("file");
        }
        let project = crate::project::load(dir.path()).unwrap_or_else(|errors| panic!("{errors}"));
        Graph::new(&project, Some([TableName::new("gold", "c")].into()))
    }

    fn selected(graph: &Graph, select: &str, exclude: &str) -> String {
        let given = |text: &str| match text {
            "" => Vec::new(),
            text => vec![text.to_owned()],
        };
        let selected = graph.select(&given(select), &given(exclude)).expect(select);
        let tables = selected.tables.iter().map(|name| name.name.clone());
        tables.chain(selected.tests).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn selections_are_those_of_dbt() {
        let graph = graph();
        for (select, exclude, expected) in [
            ("", "", "c d a x b not_null_c_id one own unique_b_id"),
            ("b", "", "b unique_b_id"),
            ("+b", "", "a b unique_b_id"),
            ("b+", "", "c d b not_null_c_id one own unique_b_id"),
            ("b+1", "", "c b not_null_c_id unique_b_id"),
            ("1+d", "", "c d not_null_c_id one own"),
            ("@b", "", "c d a x b not_null_c_id one own unique_b_id"),
            ("tag:nightly", "", "c b not_null_c_id unique_b_id"),
            ("tag:nightly,tag:slow", "", "c not_null_c_id"),
            ("b d", "", "d b one own unique_b_id"),
            ("b+", "c", "d b one own unique_b_id"),
            ("path:models/gold", "", "c d not_null_c_id one own"),
            ("gold.daily", "", "d one own"),
            ("models/gold/daily/d.sql", "", "d one own"),
            ("silver.b", "", "b unique_b_id"),
            ("*", "test_type:data", "c d a x b one"),
            ("test_type:unit", "", "one"),
            ("test_type:singular", "", "own"),
            ("test_name:unique", "", "unique_b_id"),
            ("resource_type:seed", "", "a x"),
            ("config.materialized:view", "", "c not_null_c_id"),
            ("state:modified+", "", "c d not_null_c_id one own"),
        ] {
            assert_eq!(selected(&graph, select, exclude), expected, "{select} without {exclude}");
        }
    }

    #[test]
    fn what_selects_nothing_is_an_error() {
        let graph = graph();
        for (select, expected) in [
            ("bb", "`bb` selects nothing; did you mean `b`?"),
            ("tag:daily", "`tag:daily` selects nothing"),
            ("state:new", "of states only `state:modified`"),
            ("pth:models", "there is no method `pth`; did you mean `path`?"),
        ] {
            let error = graph.select(&[select.to_owned()], &[]).expect_err(select);
            assert!(error.contains(expected), "{error}");
        }
    }
}
