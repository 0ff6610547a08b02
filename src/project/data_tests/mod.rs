//! Data tests: what must hold of a model, seed or source. Each is a query of what does not.
//!
//! Generic ones are macros that properties files call; singular ones are queries of their own, in
//! `tests/`.

mod given;
mod options;
mod taken_out;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

pub(super) use given::{About, Given, Place};
pub use options::Severity;
pub(super) use options::{OPTIONS, TestOptions};
pub(super) use taken_out::take_out;

use crate::{
    domain::TableName,
    project::{
        Diagnostic, Diagnostics, Model,
        config::{Of, Options},
        files, is_identifier,
        jinja::Templates,
        models::{query, render},
        nearest,
        settings::Settings,
        yaml,
    },
};

/// What the kind of a query of its own is called.
pub const SINGULAR: &str = "singular";

/// A data test, rendered.
#[derive(Debug, Clone)]
pub struct DataTest {
    /// Unique in the project.
    pub name: String,
    /// The generic test, such as `not_null` or `dbt_utils.equality`, or [`SINGULAR`].
    pub kind: String,
    /// Selects what fails.
    pub query: Model,
    /// The condition of the rows that fail, of a test that takes them out.
    pub(in crate::project) by_row: Option<String>,
    /// The relation that it is about; a singular one is about those that it reads.
    pub about: Option<TableName>,
    pub column: Option<String>,
    pub severity: Severity,
    /// At most so many rows that fail are looked for.
    pub limit: Option<u64>,
    /// The aggregate of the rows that fail which the comparisons judge.
    pub fail_calc: String,
    pub warn_if: String,
    pub error_if: String,
    /// Whether the rows that fail can be queried.
    pub shows_failures: bool,
    /// Where it stands, if not in a file of its own.
    place: Option<Diagnostic>,
}

impl DataTest {
    /// Whether its outcome depends on when it is run.
    pub fn depends_on_time(&self) -> bool {
        let sql = self.query.sql.to_lowercase();
        ["now(", "current_date", "current_time", "today("].iter().any(|word| sql.contains(word))
    }

    /// Whether it asks for data to be new, which data from files never is.
    pub fn is_freshness(&self) -> bool {
        self.kind == given::FRESHNESS
    }

    /// An error of its query, where the user finds it.
    pub fn told(&self, diagnostic: Diagnostic) -> Diagnostic {
        match &self.place {
            None => diagnostic,
            Some(place) => Diagnostic {
                message: format!("test `{}`: {}", self.name, diagnostic.message),
                hint: diagnostic.hint.or_else(|| place.hint.clone()),
                ..place.clone()
            },
        }
    }

    fn new(
        (name, kind): (String, &str),
        query: Model,
        options: &TestOptions,
        place: Option<Diagnostic>,
    ) -> Self {
        let or = |given: &Option<String>, default: &str| {
            given.clone().unwrap_or_else(|| default.to_owned())
        };
        let severity = options.severity.unwrap_or_default();
        // What is left out is no failure, unless it is too much.
        let fails = if severity.takes_out() { "< 0" } else { "!= 0" };
        let shows_failures = options.shows_failures.unwrap_or(severity == Severity::Quarantine);
        Self {
            name,
            kind: kind.to_owned(),
            about: None,
            column: None,
            severity,
            by_row: None,
            limit: options.limit,
            fail_calc: or(&options.fail_calc, "count(*)"),
            warn_if: or(&options.warn_if, fails),
            error_if: or(&options.error_if, fails),
            shows_failures,
            query: Model { tags: options.tags.clone(), ..query },
            place,
        }
    }
}

/// What properties files say of singular tests, by name: where, description, options.
pub(super) type Described = BTreeMap<String, (Place, String, TestOptions)>;

/// All data tests of the project, rendered.
pub(super) fn read(
    root: &Path,
    settings: &Settings,
    generic: Vec<Given>,
    described: &Described,
    templates: &Templates,
    found: &mut Diagnostics,
) -> Vec<DataTest> {
    let base = defaults(root, settings, found);
    let mut tests: Vec<DataTest> = Vec::new();
    for given in generic {
        let options = given.options.clone().over(&base);
        // Tests of what is switched off are, too.
        let is_off = |name: &String| templates.table(name).is_none();
        if options.is_enabled == Some(false)
            || matches!(&given.about, About::Table(name) if is_off(name))
        {
            continue;
        }
        match generic_test(&given, &options, templates) {
            Ok(test) => add(&mut tests, test, found),
            Err(diagnostic) => found.push(*diagnostic),
        }
    }
    for (file, name) in singular_files(root, settings, found) {
        let Some(text) = yaml::text(root, &file, found) else { continue };
        let described = described.get(&name).map(|(_, _, options)| options.clone());
        let options = described.unwrap_or_default().over(&base);
        match singular_test(&file, &name, text, &options, templates) {
            Ok(Some(test)) => add(&mut tests, test, found),
            Ok(None) => {}
            Err(diagnostic) => found.push(*diagnostic),
        }
    }
    for (name, (place, ..)) in described {
        let is_there = singular_files(root, settings, found).iter().any(|(_, file)| file == name);
        if !is_there {
            let folders = settings.test_paths.join(", ");
            let message = format!("there is no such test in {folders}");
            found.push(place.wrong("", message));
        }
    }
    tests
}

/// Adds a test, unless there is one of that name.
fn add(tests: &mut Vec<DataTest>, test: DataTest, found: &mut Diagnostics) {
    if let Some(other) = tests.iter().find(|other| other.name == test.name) {
        let of = other.place.as_ref().map_or(&other.query.file, |place| &place.file);
        let message = format!("there is another test of that name in {}", of.display());
        let diagnostic = test.told(Diagnostic::file(&test.query.file, message));
        found.push(diagnostic.hint("give one of them a `name`, or remove it"));
    } else {
        tests.push(test);
    }
}

fn generic_test(
    given: &Given,
    options: &TestOptions,
    templates: &Templates,
) -> Result<DataTest, Box<Diagnostic>> {
    let name = given.full_name();
    let place = given.place.wrong(&given.test, String::new());
    let takes_out = options.severity.is_some_and(Severity::takes_out);
    let filter = options.filter.as_deref().filter(|_| takes_out);
    let template = if takes_out { given.by_row().template() } else { given.template() };
    let blank = query(&name, &place.file, template, Options::default());
    let mut test = DataTest::new((name, &given.test), blank, options, Some(place));
    let rendered = render(&test.query, templates, None);
    test.query = rendered.map_err(|diagnostic| {
        let diagnostic = test.told(*diagnostic);
        let is_argument =
            ["argument", "undefined"].iter().any(|word| diagnostic.message.contains(word));
        let hint = || format!("its arguments are {}", templates.arguments(&given.test).join(", "));
        let hint = diagnostic.hint.clone().or_else(|| is_argument.then(hint));
        Box::new(diagnostic.maybe_hint(hint))
    })?;
    test.about = match &given.about {
        About::Table(name) => templates.table(name),
        About::Source(..) => test.query.sources.iter().chain(&test.query.refs).next().cloned(),
    };
    test.column.clone_from(&given.column);
    test.by_row = taken_out::by_row(&test.query.sql, filter).filter(|_| takes_out);
    if takes_out && !matches!(given.about, About::Table(_)) {
        let message = format!(
            "severity {}: a source's rows are judged by its contract",
            test.severity.as_str()
        );
        let told = test.told(Diagnostic::file(&test.query.file, message));
        return Err(Box::new(told.hint("write a rule in streams/: `rules:`")));
    }
    Ok(test)
}

/// The test in a file of its own, unless it is switched off.
fn singular_test(
    file: &Path,
    name: &str,
    text: String,
    options: &TestOptions,
    templates: &Templates,
) -> Result<Option<DataTest>, Box<Diagnostic>> {
    let blank = query(name, file, text, Options { of: Of::Test, ..Options::default() });
    let rendered = render(&blank, templates, None)?;
    let mut own = TestOptions::default();
    for (key, value) in rendered.options() {
        // They were looked at when the template gave them.
        own.take(key, value).ok();
    }
    let options = own.over(options);
    let test = DataTest::new((name.to_owned(), SINGULAR), rendered, &options, None);
    Ok((options.is_enabled != Some(false)).then_some(test))
}

/// The files of singular tests, and their names.
fn singular_files(
    root: &Path,
    settings: &Settings,
    found: &mut Diagnostics,
) -> Vec<(PathBuf, String)> {
    let mut singular = Vec::new();
    for folder in &settings.test_paths {
        let generic = Path::new(folder).join("generic");
        for file in files(root, folder, &[".sql"], found) {
            if file.starts_with(&generic) {
                continue;
            }
            let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            if is_identifier(&name) {
                singular.push((file, name));
            } else {
                let message = format!("`{name}` cannot be the name of a test");
                found.push(Diagnostic::file(&file, message).hint("use a-z, 0-9 and _"));
            }
        }
    }
    singular
}

/// What `dbt_project.yml` says of all data tests.
fn defaults(root: &Path, settings: &Settings, found: &mut Diagnostics) -> TestOptions {
    let mut options = TestOptions::default();
    let own = settings.tests.get(settings.dbt_name.as_str()).and_then(|own| own.as_mapping());
    for (key, value) in settings.tests.iter().chain(own.into_iter().flatten()) {
        let key = key.as_str().unwrap_or_default();
        if value.is_mapping() && !key.starts_with('+') {
            continue; // A folder.
        }
        let wrong = match options.take(key.trim_start_matches('+'), value) {
            Ok(true) => continue,
            Ok(false) => {
                let hint = nearest(key.trim_start_matches('+'), OPTIONS).unwrap_or_default();
                format!("data_tests: there is no option `{key}`\u{1}{hint}")
            }
            Err(message) => message,
        };
        let file = Path::new(crate::project::settings::DBT);
        let text = std::fs::read_to_string(root.join(file)).unwrap_or_default();
        let (message, hint) = wrong.split_once('\u{1}').unwrap_or((&wrong, ""));
        let diagnostic = Diagnostic::file(file, message).find_after(&text, "tests:", key);
        found.push(diagnostic.maybe_hint((!hint.is_empty()).then(|| hint.to_owned())));
    }
    options
}
