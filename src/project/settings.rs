//! The files that make a folder a project: `sluice.yml`, `dbt_project.yml`, or both.

use std::{collections::BTreeMap, path::Path};

use schemars::JsonSchema;
use serde::Deserialize;
use serde_yaml_ng::{Mapping, Value};

use crate::project::{
    Diagnostic, Diagnostics, Variables, is_identifier, jinja,
    yaml::{self, Ignored},
};

/// The project file of Sluice, and that of dbt.
pub(super) const SLUICE: &str = "sluice.yml";
pub(super) const DBT: &str = "dbt_project.yml";

/// What the project files say.
#[derive(Debug, Default)]
pub(super) struct Settings {
    pub name: String,
    /// The project's name for dbt, under which folders are configured.
    pub dbt_name: String,
    pub vars: BTreeMap<String, Value>,
    pub model_paths: Vec<String>,
    pub seed_paths: Vec<String>,
    pub macro_paths: Vec<String>,
    pub docs_paths: Vec<String>,
    pub test_paths: Vec<String>,
    pub snapshot_paths: Vec<String>,
    /// Options of folders of models and of seeds, and the file that gives them.
    pub models: Mapping,
    pub seeds: Mapping,
    /// Options of data tests.
    pub tests: Mapping,
    pub snapshots: Mapping,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SluiceFile {
    name: String,
    #[serde(default)]
    #[allow(dead_code, reason = "dbt projects carry it")]
    version: Option<Ignored>,
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, serde_json::Value>")]
    vars: BTreeMap<String, Value>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[allow(dead_code, reason = "read so that a known key is no error")]
pub(super) struct DbtFile {
    name: String,
    version: Option<Ignored>,
    config_version: Option<Ignored>,
    profile: Option<Ignored>,
    model_paths: Option<Vec<String>>,
    seed_paths: Option<Vec<String>>,
    macro_paths: Option<Vec<String>>,
    docs_paths: Option<Vec<String>>,
    test_paths: Option<Vec<String>>,
    analysis_paths: Option<Ignored>,
    snapshot_paths: Option<Vec<String>>,
    asset_paths: Option<Ignored>,
    function_paths: Option<Ignored>,
    target_path: Option<Ignored>,
    log_path: Option<Ignored>,
    clean_targets: Option<Ignored>,
    packages_install_path: Option<Ignored>,
    require_dbt_version: Option<Ignored>,
    query_comment: Option<Ignored>,
    quoting: Option<Ignored>,
    dispatch: Option<Ignored>,
    flags: Option<Ignored>,
    dbt_cloud: Option<Ignored>,
    restrict_access: Option<Ignored>,
    #[schemars(with = "Option<serde_json::Value>")]
    on_run_start: Option<Value>,
    #[schemars(with = "Option<serde_json::Value>")]
    on_run_end: Option<Value>,
    sources: Option<Ignored>,
    #[serde(default, alias = "data_tests")]
    #[schemars(with = "BTreeMap<String, serde_json::Value>")]
    tests: Mapping,
    #[serde(rename = "unit_tests", alias = "unit-tests")]
    unit_tests: Option<Ignored>,
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, serde_json::Value>")]
    snapshots: Mapping,
    exposures: Option<Ignored>,
    metrics: Option<Ignored>,
    semantic_models: Option<Ignored>,
    saved_queries: Option<Ignored>,
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, serde_json::Value>")]
    models: Mapping,
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, serde_json::Value>")]
    seeds: Mapping,
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, serde_json::Value>")]
    vars: BTreeMap<String, Value>,
}

/// Reads the project files. Without one there is no project.
pub(super) fn read(
    root: &Path,
    variables: &Variables,
    found: &mut Diagnostics,
) -> Option<Settings> {
    let has = |file: &str| root.join(file).is_file();
    if !has(SLUICE) && !has(DBT) {
        let message = "a project needs a sluice.yml, or dbt's dbt_project.yml".to_owned();
        let hint = "create it with a line `name: my_project`";
        found.push(Diagnostic::file(Path::new(SLUICE), message).hint(hint));
        return None;
    }
    let ours: Option<SluiceFile> =
        if has(SLUICE) { yaml::read(root, Path::new(SLUICE), found) } else { None };
    let dbt: Option<DbtFile> =
        if has(DBT) { yaml::read(root, Path::new(DBT), found) } else { None };
    let dbt = dbt.unwrap_or_default();
    check(root, &dbt, found);
    let paths = |given: Option<Vec<String>>, default: &str| {
        given.unwrap_or_else(|| vec![default.to_owned()])
    };
    let (name, own_vars) = ours.map_or_else(Default::default, |file| (file.name, file.vars));
    let mut vars = BTreeMap::new();
    for (key, value) in dbt.vars {
        match value {
            // `vars: {my_project: {…}}` are those of that project.
            Value::Mapping(inner) if key == dbt.name => {
                let named =
                    |(name, value): (Value, Value)| Some((name.as_str()?.to_owned(), value));
                vars.extend(inner.into_iter().filter_map(named));
            }
            value => drop(vars.entry(key).or_insert(value)),
        }
    }
    vars.extend(own_vars);
    let models = paths(dbt.model_paths, "models");
    let given = jinja::vars(&vars);
    let mut rendered = |tree: Mapping| {
        let mut value = Value::Mapping(tree);
        render(root, &mut value, &|text| jinja::evaluated(text, &given, variables), found);
        if let Value::Mapping(tree) = value { tree } else { Mapping::new() }
    };
    let [of_models, of_seeds, of_tests, of_snapshots] =
        [dbt.models, dbt.seeds, dbt.tests, dbt.snapshots].map(&mut rendered);
    Some(Settings {
        name: if name.is_empty() { dbt.name.clone() } else { name.clone() },
        dbt_name: if dbt.name.is_empty() { name } else { dbt.name },
        vars,
        docs_paths: dbt.docs_paths.unwrap_or_else(|| models.clone()),
        model_paths: models,
        seed_paths: paths(dbt.seed_paths, "seeds"),
        macro_paths: paths(dbt.macro_paths, "macros"),
        test_paths: paths(dbt.test_paths, "tests"),
        snapshot_paths: paths(dbt.snapshot_paths, "snapshots"),
        models: of_models,
        seeds: of_seeds,
        tests: of_tests,
        snapshots: of_snapshots,
    })
}

/// Puts what templates give in the place of options that are templates, as in
/// `+enabled: "{{ var('with_finance', false) }}"`. What gives nothing is reported and left out.
fn render(
    root: &Path,
    value: &mut Value,
    evaluated: &dyn Fn(&str) -> Result<Value, String>,
    found: &mut Diagnostics,
) -> bool {
    match value {
        Value::Mapping(map) => map.retain(|_, inner| render(root, inner, evaluated, found)),
        Value::Sequence(all) => all.retain_mut(|inner| render(root, inner, evaluated, found)),
        Value::String(text) if text.contains("{{") => match evaluated(text) {
            Ok(result) => *value = result,
            Err(message) => {
                let file = std::fs::read_to_string(root.join(DBT)).unwrap_or_default();
                let (message, hint) = message.split_once('\u{1}').unwrap_or((&message, ""));
                let diagnostic = Diagnostic::file(Path::new(DBT), message).find(&file, text);
                found.push(diagnostic.maybe_hint((!hint.is_empty()).then(|| hint.to_owned())));
                return false;
            }
        },
        _ => {}
    }
    true
}

/// Refuses what dbt would run and Sluice does not, and a name that is none.
fn check(root: &Path, dbt: &DbtFile, found: &mut Diagnostics) {
    let text = std::fs::read_to_string(root.join(DBT)).unwrap_or_default();
    let place =
        |message: String, key: &str| Diagnostic::file(Path::new(DBT), message).find(&text, key);
    for (key, value) in [("on-run-start", &dbt.on_run_start), ("on-run-end", &dbt.on_run_end)] {
        let is_empty = match value {
            None | Some(Value::Null) => true,
            Some(Value::Sequence(all)) => all.is_empty(),
            Some(_) => false,
        };
        if !is_empty {
            let hint = "Sluice runs no statements of a project; remove it";
            found.push(place(format!("{key} is not run"), key).hint(hint));
        }
    }
    if !dbt.name.is_empty() && !is_identifier(&dbt.name) {
        let message = format!("`{}` cannot be the name of a project", dbt.name);
        found.push(place(message, "name:").hint("use a-z, 0-9 and _"));
    }
}
