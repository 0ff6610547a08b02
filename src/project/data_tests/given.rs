//! Data tests as properties files give them.

use std::sync::Arc;

use serde_yaml_ng::{Mapping, Value};

use crate::project::{
    Diagnostic, config::shown, data_tests::options::TestOptions, jinja::ROWS_OF, nearest,
    properties::PropertiesText,
};

/// The test of how old the newest row is.
pub(super) const FRESHNESS: &str = "freshness";
const PERIODS: [(&str, i64); 3] = [("minute", 60), ("hour", 3_600), ("day", 86_400)];

/// What a data test is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::project) enum About {
    /// A model or seed.
    Table(String),
    /// A table of a source.
    Source(String, String),
}

/// A data test as it stands in a properties file.
#[derive(Debug, Clone)]
pub(in crate::project) struct Given {
    pub place: Place,
    pub about: About,
    pub column: Option<String>,
    /// The test, as the file names it.
    pub test: String,
    /// Its own name, where it has one.
    pub name: Option<String>,
    pub arguments: Vec<(String, Value)>,
    pub options: TestOptions,
}

/// Where a data test stands.
#[derive(Debug, Clone)]
pub(in crate::project) struct Place {
    pub file: Arc<PropertiesText>,
    /// The words that lead to it: its entry, its column.
    pub path: Vec<String>,
}

impl Place {
    /// An error at `word` of the test, or at the test.
    pub(in crate::project) fn wrong(&self, word: &str, message: String) -> Diagnostic {
        let (message, hint) = message.split_once('\u{1}').unwrap_or((&message, ""));
        let path: Vec<&str> = self.path.iter().map(String::as_str).chain([word]).collect();
        let about = self.path.first().map_or("", String::as_str);
        let diagnostic = self.file.at_path(&path, format!("`{about}`: {message}"));
        diagnostic.maybe_hint((!hint.is_empty()).then(|| hint.to_owned()))
    }
}

impl Given {
    /// Reads an item of `data_tests:`.
    pub(in crate::project) fn read(
        place: Place,
        about: About,
        column: Option<String>,
        item: &Value,
    ) -> Result<Self, Box<Diagnostic>> {
        let wrong = |word: &str, message: String| Box::new(place.wrong(word, message));
        let (test, inner, outer) = parts(item).map_err(|message| wrong("", message))?;
        let (mut name, mut options) = (None, TestOptions::default());
        let mut arguments = Vec::new();
        for (key, value) in inner.iter().chain(&outer) {
            let key = key.as_str().unwrap_or_default();
            match (key, value) {
                ("name", Value::String(given)) => name = Some(given.clone()),
                ("arguments", Value::Mapping(given)) => {
                    let named =
                        |(k, v): (&Value, &Value)| Some((k.as_str()?.to_owned(), v.clone()));
                    arguments.extend(given.iter().filter_map(named));
                }
                ("config", Value::Mapping(given)) => {
                    for (key, value) in given {
                        let key = key.as_str().unwrap_or_default();
                        if let ("name", Value::String(given)) = (key, value) {
                            name = Some(given.clone());
                            continue;
                        }
                        let is_known = options.take(key, value);
                        if !is_known.map_err(|message| wrong(key, message))? {
                            let message = format!("`{test}`: there is no option `{key}`");
                            let hint = nearest(key, super::options::OPTIONS).unwrap_or_default();
                            return Err(wrong(key, format!("{message}\u{1}{hint}")));
                        }
                    }
                }
                _ => {
                    let is_option = options.take(key, value);
                    if !is_option.map_err(|message| wrong(key, message))? {
                        arguments.push((key.to_owned(), value.clone()));
                    }
                }
            }
        }
        let mut given = Self { place, about, column, test, name, arguments, options };
        if given.test == FRESHNESS {
            given.age().map_err(|message| Box::new(given.place.wrong(FRESHNESS, message)))?;
        }
        Ok(given)
    }

    /// Makes thresholds of `warn_after` and `error_after`, and a column of `field`.
    fn age(&mut self) -> Result<(), String> {
        let mut limits = [None, None];
        let mut others = Vec::new();
        for (key, value) in std::mem::take(&mut self.arguments) {
            match key.as_str() {
                "warn_after" => limits[0] = Some(seconds(&key, &value)?),
                "error_after" => limits[1] = Some(seconds(&key, &value)?),
                "field" => {
                    self.column = value.as_str().map(str::to_owned).or_else(|| self.column.take())
                }
                _ => others.push((key, value)),
            }
        }
        self.arguments = others;
        let never = "= -1".to_owned();
        let limit = |seconds: Option<i64>| seconds.map(|seconds| format!("> {seconds}"));
        let [warn, error] = limits;
        if warn.or(error).is_none() {
            let hint = "give warn_after or error_after, as {count: 1, period: hour}";
            return Err(format!("freshness has no limit\u{1}{hint}"));
        }
        self.options.fail_calc = Some("coalesce(max(age_seconds), 9223372036)".to_owned());
        self.options.warn_if = limit(warn.or(error));
        self.options.error_if = Some(limit(error).unwrap_or(never));
        Ok(())
    }

    /// The name that it has in the project: its own, or one made of what it says, as dbt makes it.
    pub(in crate::project) fn full_name(&self) -> String {
        if let Some(name) = &self.name {
            return name.clone();
        }
        let about = match &self.about {
            About::Table(name) => name.clone(),
            About::Source(source, table) => format!("{source}_{table}"),
        };
        let prefix = if matches!(self.about, About::Source(..)) { "source_" } else { "" };
        let mut arguments: Vec<(&str, Vec<String>)> =
            self.arguments.iter().map(|(name, value)| (name.as_str(), flat(value))).collect();
        arguments.extend(self.column.iter().map(|column| ("column_name", vec![column.clone()])));
        arguments.sort();
        let parts: Vec<String> = arguments.into_iter().flat_map(|(_, parts)| parts).collect();
        // Other characters, as many as stand together, become one `_`.
        let plain = |text: &str| {
            let mut plain = String::new();
            for c in text.chars() {
                match c {
                    c if c.is_ascii_alphanumeric() || c == '_' => plain.push(c),
                    _ if plain.ends_with('\u{1}') => {}
                    _ => plain.push('\u{1}'),
                }
            }
            plain.replace('\u{1}', "_")
        };
        let parts: Vec<String> = parts.iter().map(|part| plain(part)).collect();
        let test = self.test.replace('.', "_");
        let end = if parts.is_empty() { String::new() } else { format!("_{}", parts.join("__")) };
        format!("{prefix}{test}_{about}{end}")
    }

    /// The same test, of all rows, in the form that selects whole rows where there is one.
    pub(in crate::project) fn by_row(&self) -> Self {
        let test = match self.test.as_str() {
            "accepted_values" => "accepted_values_by_row".to_owned(),
            other => other.to_owned(),
        };
        let options = TestOptions { filter: None, ..self.options.clone() };
        Self { test, options, ..self.clone() }
    }

    /// The template of its query.
    pub(in crate::project) fn template(&self) -> String {
        let about = match &self.about {
            About::Table(name) => format!("ref({})", literal(&Value::from(name.as_str()))),
            About::Source(source, table) => {
                let names = [source, table].map(|name| literal(&Value::from(name.as_str())));
                format!("source({})", names.join(", "))
            }
        };
        let about = match &self.options.filter {
            Some(filter) => {
                format!("{ROWS_OF}({about}, {})", literal(&Value::from(filter.as_str())))
            }
            None => about,
        };
        let column = self.column.iter().map(|column| ("column_name".to_owned(), quoted(column)));
        let others = self.arguments.iter().map(|(name, value)| (name.clone(), literal(value)));
        let others = column.chain(others).map(|(name, value)| format!(", {name}={value}"));
        let call = match self.test.rsplit_once('.') {
            Some((package, test)) => format!("{package}.test_{test}"),
            None => format!("test_{}", self.test),
        };
        format!("{{{{ {call}(model={about}{}) }}}}", others.collect::<String>())
    }
}

/// The test of an item, what its one key holds, and the other keys of its long form.
fn parts(item: &Value) -> Result<(String, Mapping, Mapping), String> {
    let Value::Mapping(map) = item else {
        return match item {
            Value::String(test) => Ok((test.clone(), Mapping::new(), Mapping::new())),
            other => Err(format!("{} is no data test\u{1}such as `not_null`", shown(other))),
        };
    };
    if let Some(Value::String(test)) = map.get("test_name") {
        let mut rest = map.clone();
        rest.remove("test_name");
        return Ok((test.clone(), Mapping::new(), rest));
    }
    let of_item = ["name", "config", "description", "arguments"];
    let is_test = |key: &&Value| key.as_str().is_some_and(|key| !of_item.contains(&key));
    let tests: Vec<&Value> = map.keys().filter(is_test).collect();
    let [Value::String(test)] = tests[..] else {
        let hint = "as `- accepted_values: {…}`, or `- unique`";
        return Err(format!("an item of data_tests names one test\u{1}{hint}"));
    };
    let inner = match map.get(test.as_str()) {
        Some(Value::Mapping(inner)) => inner.clone(),
        None | Some(Value::Null) => Mapping::new(),
        Some(other) => {
            let hint = format!("as `- {test}: {{argument: value}}`");
            let given = shown(other);
            return Err(format!("`{test}` takes its arguments by name, not {given}\u{1}{hint}"));
        }
    };
    let mut outer = map.clone();
    outer.remove(test.as_str());
    Ok((test.clone(), inner, outer))
}

/// `{count: 12, period: hour}` as seconds.
fn seconds(key: &str, value: &Value) -> Result<i64, String> {
    let hint = "as {count: 12, period: hour}; periods are minute, hour and day";
    let count = value.get("count").and_then(Value::as_i64);
    let period = value.get("period").and_then(Value::as_str);
    let period = period.and_then(|period| PERIODS.iter().find(|(name, _)| *name == period));
    match (count, period) {
        (Some(count), Some((_, seconds))) => Ok(count.saturating_mul(*seconds)),
        _ => Err(format!("{key} is no age\u{1}{hint}")),
    }
}

/// The values of an argument, as they stand in a name.
fn flat(value: &Value) -> Vec<String> {
    match value {
        Value::Sequence(items) => items.iter().map(as_python).collect(),
        Value::Mapping(map) => map.values().map(as_python).collect(),
        other => vec![as_python(other)],
    }
}

/// A value as dbt has it in names.
fn as_python(value: &Value) -> String {
    match value {
        Value::Null => "None".to_owned(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        other => shown(other),
    }
}

/// An argument as a template has it. Texts that call a function, and what stands in braces, are
/// expressions.
fn literal(value: &Value) -> String {
    const FUNCTIONS: [&str; 5] = ["ref", "source", "var", "env_var", "doc"];
    match value {
        Value::Null => "none".to_owned(),
        Value::Bool(is_so) => is_so.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => {
            let trimmed = text.trim();
            let is_call = trimmed.split_once('(').is_some_and(|(name, rest)| {
                FUNCTIONS.contains(&name.trim()) && rest.ends_with(')')
            });
            if is_call { trimmed.to_owned() } else { composed(text) }
        }
        Value::Sequence(items) => {
            format!("[{}]", items.iter().map(literal).collect::<Vec<_>>().join(", "))
        }
        Value::Mapping(map) => {
            let items =
                map.iter().map(|(key, value)| format!("{}: {}", literal(key), literal(value)));
            format!("{{{}}}", items.collect::<Vec<_>>().join(", "))
        }
        Value::Tagged(tagged) => literal(&tagged.value),
    }
}

/// A text with `{{ … }}` in it.
fn composed(text: &str) -> String {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some((before, (inside, behind))) =
        rest.split_once("{{").and_then(|(before, rest)| Some((before, rest.split_once("}}")?)))
    {
        if !before.is_empty() {
            parts.push(quoted(before));
        }
        parts.push(format!("({})", inside.trim_matches(['-', ' '])));
        rest = behind;
    }
    if !rest.is_empty() || parts.is_empty() {
        parts.push(quoted(rest));
    }
    parts.join(" ~ ")
}

fn quoted(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('\'', "\\'").replace('\n', "\\n");
    format!("'{text}'")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(yaml: &str, column: Option<&str>) -> Result<Given, String> {
        let item: Value = serde_yaml_ng::from_str(yaml).expect("yaml");
        let text = PropertiesText { file: "models/m.yml".into(), text: yaml.to_owned() };
        let place = Place { file: Arc::new(text), path: vec!["orders".to_owned()] };
        let about = About::Table("orders".to_owned());
        Given::read(place, about, column.map(str::to_owned), &item).map_err(|d| d.to_string())
    }

    #[test]
    fn names_are_those_that_dbt_makes() {
        let cases = [
            ("not_null", Some("id"), "not_null_orders_id"),
            (
                "relationships: {to: ref('customers'), field: id}",
                Some("customer_id"),
                "relationships_orders_customer_id__id__ref_customers_",
            ),
            (
                "accepted_values: {arguments: {values: [placed, 'sent back']}}",
                Some("status"),
                "accepted_values_orders_status__placed__sent_back",
            ),
            ("dbt_utils.recency: {field: at}", None, "dbt_utils_recency_orders_at"),
            ("{name: mine, test_name: unique, config: {severity: warn}}", Some("id"), "mine"),
        ];
        for (yaml, column, name) in cases {
            assert_eq!(given(yaml, column).expect(yaml).full_name(), name);
        }
    }

    #[test]
    fn arguments_are_values_or_expressions() {
        let yaml = "my.test: {to: ref('a'), texts: ['it''s', \"x{{ var('y') }}z\"], n: 1.5, no: null, \
                    config: {where: \"day > '{{ var('d') }}'\"}}";
        let template = given(yaml, Some("c")).expect("test").template();
        assert_eq!(
            template,
            "{{ my.test_test(model=__rows_of(ref('orders'), 'day > \\'' ~ (var('d')) ~ '\\''), \
             column_name='c', to=ref('a'), texts=['it\\'s', 'x' ~ (var('y')) ~ 'z'], n=1.5, no=none) }}"
        );
    }

    #[test]
    fn an_age_is_a_threshold_of_seconds() {
        let yaml = "freshness: {warn_after: {count: 2, period: hour}}";
        let options = given(yaml, Some("at")).expect("test").options;
        assert_eq!(options.warn_if.as_deref(), Some("> 7200"));
        assert_eq!(options.error_if.as_deref(), Some("= -1"));
        for (yaml, expected) in [
            ("freshness", "no limit"),
            ("freshness: {error_after: {count: 2, period: fortnight}}", "periods are minute"),
            ("unique: [id]", "by name, not - id"),
            ("{unique: {}, not_null: {}}", "names one test"),
            ("unique: {config: {severty: warn}}", "did you mean `severity`?"),
            ("unique: {severity: loud}", "use 'warn', 'error'"),
            ("unique: {limit: many}", "limit is a number of rows, not many"),
        ] {
            let error = given(yaml, Some("at")).map(|_| ()).expect_err(yaml);
            assert!(error.contains(expected), "{yaml}: {error}");
        }
    }
}
