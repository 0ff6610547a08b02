//! JSON schemas of the YAML files of a project, for editors; made of the types that read them.

use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Value, json};

use crate::project::{properties, settings, streams};

/// A schema, the file that it is written to, and the files of a project that it is of.
pub struct FileSchema {
    pub name: &'static str,
    pub of: &'static [&'static str],
    pub schema: Value,
}

/// The schemas of all YAML files of a project.
pub fn schemas() -> Vec<FileSchema> {
    vec![
        FileSchema {
            name: "sluice.json",
            of: &["sluice.yml"],
            schema: schema::<settings::SluiceFile>("sluice.yml"),
        },
        FileSchema {
            name: "dbt_project.json",
            of: &["dbt_project.yml"],
            schema: schema::<settings::DbtFile>("dbt_project.yml"),
        },
        FileSchema {
            name: "stream.json",
            of: &["streams/*.yml", "streams/*.yaml"],
            schema: schema::<streams::StreamFile>("the contract of a stream"),
        },
        FileSchema {
            name: "properties.json",
            of: &[
                "models/**/*.yml",
                "models/**/*.yaml",
                "seeds/**/*.yml",
                "snapshots/**/*.yml",
                "tests/**/*.yml",
            ],
            schema: schema::<properties::PropertiesFile>("properties of models, seeds and tests"),
        },
    ]
}

fn schema<T: JsonSchema>(title: &str) -> Value {
    let generator = SchemaGenerator::new(SchemaSettings::draft07());
    let mut schema =
        serde_json::to_value(generator.into_root_schema_for::<T>()).unwrap_or_default();
    if let Some(map) = schema.as_object_mut() {
        map.insert("title".to_owned(), json!(title));
    }
    with_other_names(&mut schema);
    schema
}

/// Adds the older names of keys, which a schema knows only by one.
fn with_other_names(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            if let Some(Value::Object(keys)) = map.get_mut("properties")
                && let Some(tests) = keys.get("tests").cloned()
            {
                keys.entry("data_tests").or_insert(tests);
            }
            map.values_mut().for_each(with_other_names);
        }
        Value::Array(all) => all.iter_mut().for_each(with_other_names),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemas_know_the_keys_of_the_files_and_no_others() {
        let all = schemas();
        let of = |name| all.iter().find(|one| one.name == name).map(|one| &one.schema);
        let stream = of("stream.json").expect("a schema");
        assert_eq!(stream["additionalProperties"], json!(false));
        assert_eq!(stream["required"], json!(["name", "fields"]));
        let on_error = &stream["definitions"]["OnErrorName"];
        assert!(on_error.to_string().contains("reject_batch"), "{on_error}");
        let properties = of("properties.json").expect("a schema");
        let entry = &properties["definitions"]["PropertiesEntry"]["properties"];
        for key in ["columns", "tests", "data_tests", "config", "group", "meta"] {
            assert!(entry.get(key).is_some(), "{key}: {entry}");
        }
        let dbt = of("dbt_project.json").expect("a schema");
        assert!(dbt["properties"].get("model-paths").is_some(), "{dbt}");
    }
}
