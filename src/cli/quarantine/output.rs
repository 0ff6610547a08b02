//! How records in quarantine are printed.

use std::{collections::BTreeMap, sync::Arc};

use arrow::array::{ArrayRef, ListBuilder, RecordBatch, StringArray, StringBuilder};

use crate::{
    cli::{
        Failure, print,
        quarantine::Format,
        query::{self, Look, Writer},
    },
    domain::quarantine::{Broken, Entry, Listed, Shown},
};

pub(super) fn list(listed: &Listed, format: Format) -> Result<(), Failure> {
    let format = match format {
        Format::Table => query::Format::Table,
        Format::Json => query::Format::Json,
        Format::Csv => query::Format::Csv,
    };
    let rows = rows(&listed.records).map_err(|error| Failure::work(error.to_string()))?;
    let mut out = std::io::stdout();
    let mut writer = Writer::new(Look::plain(format), &mut out);
    writer.write(&rows)?;
    writer.finish(Some(&rows.schema()))?;
    let shown = listed.records.len() as u64;
    if shown < listed.total {
        print::note(format!("{shown} of {}; --limit shows more", listed.total));
    }
    Ok(())
}

fn rows(records: &[Entry]) -> Result<RecordBatch, arrow::error::ArrowError> {
    let text = |of: fn(&Entry) -> String| -> ArrayRef {
        Arc::new(records.iter().map(|record| Some(of(record))).collect::<StringArray>())
    };
    let mut rules = ListBuilder::new(StringBuilder::new());
    for record in records {
        rules.append_value(record.rules.iter().map(Some));
    }
    RecordBatch::try_from_iter([
        ("stream", text(|record| record.stream.clone())),
        ("position", text(|record| record.position.to_string())),
        ("arrived_at", text(|record| record.arrived_at.clone())),
        ("rules", Arc::new(rules.finish())),
        ("message", text(|record| record.message.clone())),
    ])
}

/// All about one record, a line each, then its payload.
pub(super) fn record(shown: &Shown) -> String {
    let mut lines = vec![
        ("record", format!("{} {} (topic {})", shown.stream, shown.position, shown.topic)),
        ("arrived at", shown.arrived_at.clone()),
        ("state", state(shown)),
        ("identity", shown.identity.clone()),
    ];
    lines.extend(shown.key.clone().map(|key| ("key", key)));
    for (name, value) in &shown.headers {
        lines.push(("header", format!("{name} = {}", value.as_deref().unwrap_or("(null)"))));
    }
    lines.push(("rules", shown.rules.join(", ")));
    lines.push(("message", shown.message.clone()));
    lines.push(("contract", shown.contract_version.clone()));
    lines.push(("payload", shown.payload.clone().unwrap_or_else(|| "(null)".to_owned())));
    let decoded = shown.decoded.as_ref().and_then(|json| serde_json::to_string_pretty(json).ok());
    lines.extend(decoded.map(|json| ("decoded", json)));
    let lines: Vec<String> = lines
        .into_iter()
        .map(|(name, value)| format!("{name:<11} {}", value.replace('\n', "\n            ")))
        .collect();
    lines.join("\n")
}

fn state(shown: &Shown) -> String {
    match (&shown.accepted_at, &shown.reason) {
        (Some(at), _) => format!("{}, its event counts at {at}", shown.state),
        (None, Some(reason)) => format!("{}: {reason}", shown.state),
        (None, None) => shown.state.clone(),
    }
}

/// `not_negative(3), type:v(1)`: how many records break each rule.
pub(super) fn rules(broken: &[Broken]) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for rule in broken.iter().flat_map(|record| &record.rules) {
        *counts.entry(rule).or_default() += 1;
    }
    let each = counts.iter().map(|(rule, count)| format!("{rule}({count})"));
    each.collect::<Vec<_>>().join(", ")
}
