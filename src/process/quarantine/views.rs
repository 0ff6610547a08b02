//! What queries see of quarantine: the records set aside that nobody has decided on yet, and what
//! became of each.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};

use crate::{
    bronze::{decoded_sql, decoded_type, quarantine_schema},
    domain::{TableName, contract::Contract},
    lake::{RelationInfo, RelationKind, ViewState},
    process::{
        quarantine::discards::discarded,
        relations::{ACCEPTANCE, QUARANTINED, quoted},
    },
    project::QUARANTINE,
};

/// Name and description of the column that the contract of today makes.
const DECODED: &str = "decoded";
const ABOUT_DECODED: &str = "The fields as far as they can be read, by the contract of today";

/// The tables behind what is seen of a stream's quarantine.
pub(in crate::process) fn reads(stream: &str) -> [TableName; 3] {
    [TableName::new(QUARANTINED, stream), TableName::new(ACCEPTANCE, stream), discarded()]
}

/// Joins a record in quarantine, `q`, to the columns `p`, `o`, `i` of `with`.
fn at_same_place(with: &str) -> String {
    format!("q.\"_partition\" = {with}.p AND q.\"_offset\" = {with}.o AND q.\"_index\" = {with}.i")
}

/// The records whose event counts, as `p`, `o`, `i` and `identity`.
fn resolved(acceptance: &TableName) -> String {
    format!(
        "(SELECT \"__origin_partition\" AS p, \"__origin_offset\" AS o, \"__origin_index\" AS i, \
         min(\"__identity\") AS identity FROM {} WHERE \"__origin_offset\" IS NOT NULL \
         GROUP BY 1, 2, 3)",
        quoted(acceptance)
    )
}

/// The records of a stream that were discarded, as `p`, `o`, `i`, `reason` and `discarded_at`.
fn discards(stream: &str) -> String {
    format!(
        "(SELECT \"_partition\" AS p, \"_offset\" AS o, \"_index\" AS i, reason, discarded_at \
         FROM {} WHERE stream = '{stream}')",
        quoted(&discarded())
    )
}

/// The columns of `quarantine.<stream>`.
pub(in crate::process) fn open_schema(contract: &Contract) -> SchemaRef {
    let stored = quarantine_schema();
    let decoded = Arc::new(Field::new(DECODED, decoded_type(contract), true));
    let fields = stored.fields().iter().cloned().chain([decoded]);
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// `quarantine.<stream>`: what was set aside, but for what counts by now or was discarded.
pub(in crate::process) fn quarantine_view(contract: &Contract) -> ViewState {
    let stream = &contract.name;
    let [quarantined, acceptance, _] = reads(stream);
    let stored = quarantine_schema();
    let list: Vec<String> =
        stored.fields().iter().map(|field| format!("q.\"{}\"", field.name())).collect();
    let sql = format!(
        "SELECT {}, {} AS {DECODED} FROM {} AS q LEFT ANTI JOIN {} AS r ON {} LEFT ANTI JOIN {} AS d ON {}",
        list.join(", "),
        decoded_sql(contract, "q"),
        quoted(&quarantined),
        resolved(&acceptance),
        at_same_place("r"),
        discards(stream),
        at_same_place("d"),
    );
    ViewState {
        info: Arc::new(RelationInfo {
            name: TableName::new(QUARANTINE, stream),
            kind: RelationKind::Quarantine,
            description: "Records that break the contract, with the rules they break".into(),
            columns: [(DECODED.to_owned(), ABOUT_DECODED.to_owned())].into(),
        }),
        schema: open_schema(contract),
        sql,
        reads: reads(stream).to_vec(),
    }
}

/// `system.quarantine`: every record that was ever set aside, and what became of it.
pub(in crate::process) fn decisions_view(streams: &[String]) -> ViewState {
    let selects = streams.iter().map(|stream| {
        let [quarantined, acceptance, _] = reads(stream);
        format!(
            "SELECT '{stream}' AS stream, q.\"_partition\" AS \"partition\", q.\"_offset\" AS \
             \"offset\", q.\"_index\" AS \"index\", q.\"_ts\" AS ts, q.rules AS rules, q.message \
             AS message, q.contract_version AS contract_version, CASE WHEN r.identity IS NOT NULL \
             THEN 'replayed' WHEN d.reason IS NOT NULL THEN 'discarded' ELSE 'open' END AS state, \
             a.\"_partition\" AS accepted_partition, a.\"_offset\" AS accepted_offset, \
             a.\"_index\" AS accepted_index, \
             d.reason AS reason, d.discarded_at AS discarded_at FROM {} AS q LEFT JOIN {} AS r ON \
             {} LEFT JOIN {} AS a ON a.\"__identity\" = r.identity AND a.verdict = 'accepted' LEFT \
             JOIN {} AS d ON {}",
            quoted(&quarantined),
            resolved(&acceptance),
            at_same_place("r"),
            quoted(&acceptance),
            discards(stream),
            at_same_place("d"),
        )
    });
    let about = [
        ("state", "open, replayed (its event counts) or discarded"),
        (
            "accepted_offset",
            "With accepted_partition and accepted_index: what counts for its event",
        ),
        ("reason", "Why it was discarded"),
    ];
    ViewState {
        info: Arc::new(RelationInfo {
            name: TableName::new("system", "quarantine"),
            kind: RelationKind::System,
            description: "Every record that was ever set aside, and what became of it".into(),
            columns: about.map(|(name, text)| (name.to_owned(), text.to_owned())).into(),
        }),
        schema: Arc::new(decisions_schema()),
        sql: selects.collect::<Vec<_>>().join(" UNION ALL "),
        reads: streams.iter().flat_map(|stream| reads(stream)).collect(),
    }
}

fn decisions_schema() -> Schema {
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let rules = DataType::List(Arc::new(Field::new("element", DataType::Utf8, true)));
    let columns = [
        ("stream", DataType::Utf8),
        ("partition", DataType::Int32),
        ("offset", DataType::Int64),
        ("index", DataType::Int32),
        ("ts", time.clone()),
        ("rules", rules),
        ("message", DataType::Utf8),
        ("contract_version", DataType::Utf8),
        ("state", DataType::Utf8),
        ("accepted_partition", DataType::Int32),
        ("accepted_offset", DataType::Int64),
        ("accepted_index", DataType::Int32),
        ("reason", DataType::Utf8),
        ("discarded_at", time),
    ];
    Schema::new(columns.map(|(name, data_type)| Field::new(name, data_type, true)).to_vec())
}
