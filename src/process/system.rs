//! The tables of schema `system` about the processing itself, as of the view that they are part of.

use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::{
        ArrayRef, BooleanArray, Int32Array, Int64Array, RecordBatch, StringArray,
        TimestampMicrosecondArray,
    },
    error::ArrowError,
};

use crate::{
    domain::{Positions, TableName},
    lake::{Committed, Overlay, RelationInfo, RelationKind, Table, TableState},
    process::{derived::Derived, pipeline::Pipeline, stream::StreamTables},
};

const STREAMS: &str = "How far each partition of each stream is read";
const TABLES: &str = "The stored tables, as they are committed";
const MODELS: &str = "How each model is kept, and whether it follows its inputs";

impl Pipeline {
    /// `system.streams`, `system.tables` and `system.models`. `lagging`: models that do not follow,
    /// and why.
    pub(super) fn system_tables(
        &mut self,
        lagging: &BTreeMap<TableName, String>,
    ) -> Result<Vec<TableState>, ArrowError> {
        Ok(vec![
            relation("streams", STREAMS, self.stream_rows()?),
            relation("tables", TABLES, self.table_rows()?),
            relation("models", MODELS, self.model_rows(lagging)?),
        ])
    }

    fn stream_rows(&self) -> Result<RecordBatch, ArrowError> {
        let mut rows: Vec<(&StreamTables, u32, Option<i64>)> = Vec::new();
        for (i, stream) in self.streams.iter().enumerate() {
            for partition in 0..stream.judge.contract().partitions {
                let end = self.ends.iter().find(|(of, p, _)| *of == i && *p == partition);
                rows.push((stream, partition, end.map(|(.., end)| *end)));
            }
        }
        let at = |(stream, partition, _): &(&StreamTables, u32, _)| stream.bronze.at(*partition);
        let lag = |row: &(&StreamTables, u32, Option<i64>)| {
            row.2.map(|end| (end - 1 - at(row).unwrap_or(-1)).max(0))
        };
        let held = |(stream, partition, _): &(&StreamTables, u32, _)| {
            Some(stream.held.contains(partition))
        };
        columns([
            ("stream", text(rows.iter().map(|(stream, ..)| Some(stream.name())))),
            (
                "partition",
                Arc::new(Int32Array::from_iter_values(
                    rows.iter()
                        .map(|(_, partition, _)| i32::try_from(*partition).unwrap_or(i32::MAX)),
                )),
            ),
            ("log", text(rows.iter().map(|(stream, ..)| Some(stream.origin.log_id.as_str())))),
            ("topic", text(rows.iter().map(|(stream, ..)| Some(stream.origin.topic.as_str())))),
            ("held", Arc::new(BooleanArray::from_iter(rows.iter().map(held)))),
            ("position", numbers(rows.iter().map(at))),
            ("committed", numbers(rows.iter().map(|(s, p, _)| s.bronze.committed_at(*p)))),
            ("log_end", numbers(rows.iter().map(|(.., end)| *end))),
            ("lag", numbers(rows.iter().map(lag))),
            ("state", text(rows.iter().map(|(stream, ..)| Some(stream_state(stream))))),
            ("why", text(rows.iter().map(|(stream, ..)| stream.halted.as_deref()))),
        ])
    }

    fn table_rows(&mut self) -> Result<RecordBatch, ArrowError> {
        let mut rows: Vec<(TableName, String, Committed, usize, Option<u64>)> = Vec::new();
        let mut add = |table: &Table, kind: &str, committed: &Committed, uncommitted| {
            let checkpoint = table.last_checkpoint();
            rows.push((
                table.name().clone(),
                kind.to_owned(),
                committed.clone(),
                uncommitted,
                checkpoint,
            ));
        };
        for stream in &mut self.streams {
            for (n, table) in stream.tables_mut().enumerate() {
                let kind = ["bronze", "acceptance", "quarantine"].get(n).unwrap_or(&"append");
                add(&table.table, kind, table.committed(), table.tail_bytes());
            }
        }
        for derived in &self.derived {
            let class = derived.plan.as_ref().map(|plan| plan.class.to_string());
            let kind = class.unwrap_or_else(|| "seed".to_owned());
            add(&derived.table, &kind, derived.committed(), derived.pending_bytes());
        }
        add(&self.discarded.table, "discarded", self.discarded.committed(), 0);
        let count = |n: u64| Some(i64::try_from(n).unwrap_or(i64::MAX));
        columns([
            ("schema", text(rows.iter().map(|row| Some(row.0.schema.as_str())))),
            ("name", text(rows.iter().map(|row| Some(row.0.name.as_str())))),
            ("kind", text(rows.iter().map(|row| Some(row.1.as_str())))),
            ("version", numbers(rows.iter().map(|row| count(row.2.version)))),
            ("rows", numbers(rows.iter().map(|row| count(row.2.rows)))),
            ("files", numbers(rows.iter().map(|row| count(row.2.files)))),
            ("bytes", numbers(rows.iter().map(|row| count(row.2.bytes)))),
            ("uncommitted_bytes", numbers(rows.iter().map(|row| count(row.3 as u64)))),
            ("last_checkpoint", numbers(rows.iter().map(|row| row.4.and_then(count)))),
        ])
    }

    fn model_rows(&self, lagging: &BTreeMap<TableName, String>) -> Result<RecordBatch, ArrowError> {
        let plans = &self.deps.planned.plans;
        let why = |name: &TableName| lagging.get(name).map(String::as_str);
        let state = |name: &TableName| match (why(name), self.is_stopped(name)) {
            (None, _) => "follows",
            (Some(_), true) => "stopped",
            (Some(_), false) => "failed",
        };
        let computed_at = |name: &TableName| {
            let derived = self.derived.iter().find(|derived| derived.info.name == *name);
            derived.and_then(Derived::computed_at)
        };
        let names = || plans.iter().map(|plan| &plan.model.name);
        let classes: Vec<String> = plans.iter().map(|plan| plan.class.to_string()).collect();
        let computed: TimestampMicrosecondArray = names().map(computed_at).collect();
        columns([
            ("schema", text(names().map(|name| Some(name.schema.as_str())))),
            ("name", text(names().map(|name| Some(name.name.as_str())))),
            ("class", text(classes.iter().map(|class| Some(class.as_str())))),
            ("reason", text(plans.iter().map(|plan| Some(plan.reason.as_str())))),
            ("state", text(names().map(|name| Some(state(name))))),
            ("why", text(names().map(why))),
            ("computed_at", Arc::new(computed.with_timezone("UTC"))),
        ])
    }
}

fn stream_state(stream: &StreamTables) -> &'static str {
    if stream.halted.is_some() { "stopped" } else { "follows" }
}

fn text<'a>(values: impl Iterator<Item = Option<&'a str>>) -> ArrayRef {
    Arc::new(values.collect::<StringArray>())
}

fn numbers(values: impl Iterator<Item = Option<i64>>) -> ArrayRef {
    Arc::new(values.collect::<Int64Array>())
}

fn columns<const N: usize>(columns: [(&str, ArrayRef); N]) -> Result<RecordBatch, ArrowError> {
    RecordBatch::try_from_iter_with_nullable(
        columns.into_iter().map(|(name, column)| (name, column, true)),
    )
}

fn relation(name: &str, description: &str, rows: RecordBatch) -> TableState {
    let schema = rows.schema();
    let descriptions = schema.fields().iter().filter_map(|field| {
        about(field.name()).map(|text| (field.name().clone(), text.to_owned()))
    });
    TableState {
        info: Arc::new(RelationInfo {
            name: TableName::new("system", name),
            kind: RelationKind::System,
            description: description.to_owned(),
            columns: descriptions.collect(),
        }),
        schema: Arc::clone(&schema),
        committed: None,
        overlay: Overlay::Replace(vec![rows]),
        streams: Vec::new(),
        positions: Positions::default(),
    }
}

/// What a column says that its name does not.
fn about(column: &str) -> Option<&'static str> {
    Some(match column {
        "held" => "Whether this processor reads it, not another of its group",
        "position" => "The last offset that queries see",
        "committed" => "The last offset in a commit of Bronze",
        "log_end" => "The offset of the next record, as of the last seal",
        "lag" => "Records between position and log_end",
        "uncommitted_bytes" => "Rows in memory that are newer than the version",
        "last_checkpoint" => "The version of the last checkpoint",
        "state" => "follows, failed (it is tried again when its inputs move) or stopped",
        "computed_at" => "When the model was last found to be up to date; none of a row-wise one",
        _ => return None,
    })
}
