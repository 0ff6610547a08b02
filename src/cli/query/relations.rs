//! What there is to query: relations and their columns, as Flight SQL tells them.

use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::{ArrayRef, AsArray as _, Int64Array, RecordBatch, StringArray},
    datatypes::{Field, Schema},
    error::ArrowError,
};
use arrow_flight::IpcMessage;

use crate::{cli::Failure, project::nearest};

/// A table or view.
#[derive(Debug, Clone)]
pub(super) struct Relation {
    pub(super) schema: String,
    pub(super) name: String,
    pub(super) columns: Schema,
}

/// The relations in an answer to `CommandGetTables`.
pub(super) fn read(batches: &[RecordBatch]) -> Result<Vec<Relation>, Failure> {
    let unreadable =
        |what: &str| Failure::work(format!("the server's list of tables cannot be read: {what}"));
    let mut relations = Vec::new();
    for batch in batches {
        let text = |name: &str| {
            let column = batch.column_by_name(name).and_then(|c| c.as_string_opt::<i32>());
            column.ok_or_else(|| unreadable(&format!("no column {name}")))
        };
        let (schemas, names) = (text("db_schema_name")?, text("table_name")?);
        let columns = batch.column_by_name("table_schema").and_then(|c| c.as_binary_opt::<i32>());
        let columns = columns.ok_or_else(|| unreadable("no column table_schema"))?;
        for row in 0..batch.num_rows() {
            let message = IpcMessage(columns.value(row).to_vec().into());
            relations.push(Relation {
                schema: schemas.value(row).to_owned(),
                name: names.value(row).to_owned(),
                columns: Schema::try_from(message).map_err(|e| unreadable(&e.to_string()))?,
            });
        }
    }
    relations.sort_by(|a, b| (&a.schema, &a.name).cmp(&(&b.schema, &b.name)));
    Ok(relations)
}

impl Relation {
    pub(super) fn full_name(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }

    /// Its columns with types and descriptions, as rows.
    pub(super) fn described(&self) -> Result<RecordBatch, ArrowError> {
        let fields = self.columns.fields();
        let names = fields.iter().map(|field| field.name().clone());
        let types = fields.iter().map(|field| type_name(field));
        let remarks = fields.iter().map(|field| known(field, "REMARKS").unwrap_or_default());
        RecordBatch::try_from_iter([
            ("column", texts(names)),
            ("type", texts(types)),
            ("description", texts(remarks.map(str::to_owned))),
        ])
    }
}

/// All relations, as rows.
pub(super) fn listed(relations: &[Relation]) -> Result<RecordBatch, ArrowError> {
    let columns = relations.iter().map(|r| i64::try_from(r.columns.fields().len()).ok());
    RecordBatch::try_from_iter([
        ("schema", texts(relations.iter().map(|r| r.schema.clone()))),
        ("name", texts(relations.iter().map(|r| r.name.clone()))),
        ("columns", Arc::new(columns.collect::<Int64Array>()) as ArrayRef),
    ])
}

/// Their schemas, as rows.
pub(super) fn schemas(relations: &[Relation]) -> Result<RecordBatch, ArrowError> {
    let mut counts: BTreeMap<&str, i64> = BTreeMap::new();
    for relation in relations {
        *counts.entry(&relation.schema).or_default() += 1;
    }
    RecordBatch::try_from_iter([
        ("schema", texts(counts.keys().map(|name| (*name).to_owned()))),
        ("relations", Arc::new(counts.into_values().collect::<Int64Array>()) as ArrayRef),
    ])
}

/// Those that `name` means: `schema.name`, or a name in any schema.
pub(super) fn find<'a>(
    relations: &'a [Relation],
    name: &str,
) -> Result<Vec<&'a Relation>, Failure> {
    let wanted = name.replace('"', "").to_ascii_lowercase();
    let found: Vec<&Relation> = relations
        .iter()
        .filter(|r| [r.full_name(), r.name.clone()].iter().any(|n| n.eq_ignore_ascii_case(&wanted)))
        .collect();
    if !found.is_empty() {
        return Ok(found);
    }
    let known: Vec<String> =
        relations.iter().flat_map(|r| [r.name.clone(), r.full_name()]).collect();
    let hint = nearest(&wanted, known.iter().map(String::as_str))
        .unwrap_or_else(|| r"\d lists them all".to_owned());
    Err(Failure::invalid(format!("no relation {name}; {hint}")))
}

/// The names that can be completed: relations, with and without schema, and columns.
pub(super) fn names(relations: &[Relation]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for relation in relations {
        names.extend([relation.full_name(), relation.name.clone()]);
        names.extend(relation.columns.fields().iter().map(|field| field.name().clone()));
    }
    names.sort();
    names.dedup();
    names
}

/// As it is written in a CAST, where the server says so.
fn type_name(field: &Field) -> String {
    let Some(name) = known(field, "TYPE_NAME").filter(|name| *name != "OTHER") else {
        return field.data_type().to_string();
    };
    match (known(field, "PRECISION"), known(field, "SCALE")) {
        (Some(precision), Some(scale)) => format!("{name}({precision},{scale})"),
        _ => name.to_owned(),
    }
}

fn known<'a>(field: &'a Field, key: &str) -> Option<&'a str> {
    field.metadata().get(&format!("ARROW:FLIGHT:SQL:{key}")).map(String::as_str)
}

fn texts(values: impl Iterator<Item = String>) -> ArrayRef {
    Arc::new(values.map(Some).collect::<StringArray>())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use arrow::{datatypes::DataType, util::pretty::pretty_format_batches};

    use super::*;

    fn relations() -> Vec<Relation> {
        let known = |pairs: &[(&str, &str)]| -> HashMap<String, String> {
            let key = |key: &str| format!("ARROW:FLIGHT:SQL:{key}");
            pairs.iter().map(|(k, v)| (key(k), (*v).to_owned())).collect()
        };
        let price = Field::new("price", DataType::Decimal128(18, 2), true).with_metadata(known(&[
            ("TYPE_NAME", "DECIMAL"),
            ("PRECISION", "18"),
            ("SCALE", "2"),
            ("REMARKS", "in euros"),
        ]));
        let columns = Schema::new(vec![price, Field::new("id", DataType::Int64, false)]);
        let relation = |schema: &str, name: &str| Relation {
            schema: schema.to_owned(),
            name: name.to_owned(),
            columns: columns.clone(),
        };
        vec![relation("bronze", "sales"), relation("gold", "sales"), relation("gold", "films")]
    }

    #[test]
    fn a_name_means_every_relation_that_has_it() {
        let relations = relations();
        let found = |name: &str| -> Vec<String> {
            find(&relations, name).expect(name).iter().map(|r| r.full_name()).collect()
        };
        assert_eq!(found("sales"), ["bronze.sales", "gold.sales"]);
        assert_eq!(found("GOLD.Films"), ["gold.films"]);
        let failure = find(&relations, "flims").expect_err("unknown").to_string();
        assert_eq!(failure, "no relation flims; did you mean `films`?");
    }

    #[test]
    fn columns_are_shown_with_sql_types_and_descriptions() {
        let rows = relations()[0].described().expect("rows");
        let shown = pretty_format_batches(&[rows]).expect("table").to_string();
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines[3], "| price  | DECIMAL(18,2) | in euros    |");
        assert_eq!(lines[4], "| id     | Int64         |             |");
    }

    #[test]
    fn names_to_complete_stand_once() {
        let expected = "bronze.sales films gold.films gold.sales id price sales";
        assert_eq!(names(&relations()).join(" "), expected);
    }
}
