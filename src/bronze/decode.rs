//! A batch of payloads, decoded by its contract: typed columns, and for each row the rules broken.

use std::sync::Arc;

use arrow::{
    array::{
        Array as _, ArrayRef, AsArray as _, BinaryArray, ListBuilder, RecordBatch, StringArray,
        StringBuilder,
    },
    compute::{cast, take_record_batch},
    datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit},
    error::ArrowError,
};
use datafusion::{
    common::{
        DFSchema,
        tree_node::{TreeNode as _, TreeNodeRecursion},
    },
    error::DataFusionError,
    execution::SessionStateBuilder,
    logical_expr::{Expr, Volatility},
    physical_expr::PhysicalExpr,
};

use crate::domain::{
    ErrorKind,
    columns::ColumnBuilder,
    contract::{Contract, EventId, FieldType, Rule, Severity},
    decode::{Breach, BreachKind, Decoder},
    identity::{Fingerprint, Identity, fingerprint},
    sql_exprs, sql_guard, sql_limits,
};

/// A rule of a contract that is not valid SQL over its fields.
#[derive(Debug, thiserror::Error)]
#[error("stream {stream}: rule {rule}: {reason}")]
pub struct RuleError {
    pub stream: String,
    pub rule: String,
    pub reason: String,
    /// What would be right.
    pub hint: Option<&'static str>,
}

impl RuleError {
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }
}

const IMMUTABLE_HINT: &str = "a record is judged more than once, so a rule depends on the \
                              record's own fields and its time, `_ts`, only";
/// The time of a record, which rules may name beside the fields.
const TIME: &str = "_ts";

/// Longest condition of a rule.
const SQL_BYTES_MAX: usize = 64 * 1024;

/// Judges payloads by one contract.
#[derive(Debug)]
pub struct Judge {
    contract: Arc<Contract>,
    rules: Vec<Arc<dyn PhysicalExpr>>,
    /// What these are over: the fields, and the time of the record.
    judged: SchemaRef,
}

/// What a contract makes of a batch of payloads, row by row.
#[derive(Debug)]
pub struct DecodedBatch {
    /// The contract's fields, typed; without rows where nothing was asked of them.
    pub fields: RecordBatch,
    /// JSON of the members that the contract does not know.
    pub rescued: StringArray,
    /// The rules each row breaks, those that only warn included; empty: none.
    pub breaches: Vec<Vec<Breach>>,
    /// Whether some rule only warns.
    warns: bool,
    /// The id that the contract's columns give a row, where it has such and the row has values there.
    pub ids: Vec<Option<String>>,
    /// Content hash, where it is needed to tell the row's identity.
    pub content: Vec<Option<Fingerprint>>,
}

impl Judge {
    /// Compiles the contract's rules.
    pub fn new(contract: Arc<Contract>) -> Result<Self, RuleError> {
        let state = sql_limits::build(SessionStateBuilder::new());
        let judged = judged_schema(&contract);
        let schema = DFSchema::try_from(judged.as_ref().clone());
        let compiled = contract.rules.iter().map(|rule| {
            let failed = |error: &DataFusionError| RuleError {
                stream: contract.name.clone(),
                rule: rule.name.clone(),
                reason: error.strip_backtrace(),
                hint: None,
            };
            let schema = schema.as_ref().map_err(failed)?;
            sql_guard::check(&rule.sql, SQL_BYTES_MAX)
                .map_err(|e| failed(&DataFusionError::Plan(e.to_string())))?;
            let expr = state.create_logical_expr(&rule.sql, schema).map_err(|e| failed(&e))?;
            if let Some(function) = not_immutable(&expr) {
                return Err(RuleError {
                    stream: contract.name.clone(),
                    rule: rule.name.clone(),
                    reason: format!("{function}() may answer differently each time it is asked"),
                    hint: Some(IMMUTABLE_HINT),
                });
            }
            let expr = sql_exprs::compile(expr, schema, &state).map_err(|e| failed(&e))?;
            match expr.data_type(schema.as_arrow()) {
                Ok(DataType::Boolean | DataType::Null) => Ok(expr),
                Ok(other) => Err(failed(&DataFusionError::Plan(format!(
                    "the condition is of type {other}, not a boolean"
                )))),
                Err(error) => Err(failed(&error)),
            }
        });
        let rules = compiled.collect::<Result<_, RuleError>>()?;
        Ok(Self { contract, rules, judged })
    }

    pub fn contract(&self) -> &Arc<Contract> {
        &self.contract
    }

    /// Decodes and judges every payload, of records with these `keys` and `times`. Null payloads are
    /// tombstones, or malformed.
    pub fn decode(
        &self,
        payloads: &BinaryArray,
        keys: &BinaryArray,
        times: &ArrayRef,
    ) -> Result<DecodedBatch, DataFusionError> {
        self.decode_for(payloads, keys, times, true)
    }

    /// The same; columns are gathered only for a reader of them, or for the contract's rules.
    pub fn decode_for(
        &self,
        payloads: &BinaryArray,
        keys: &BinaryArray,
        times: &ArrayRef,
        columns_are_read: bool,
    ) -> Result<DecodedBatch, DataFusionError> {
        let decoder = Decoder::new(&self.contract);
        let n = payloads.len();
        let rows = if columns_are_read || !self.rules.is_empty() { n } else { 0 };
        let mut columns: Vec<ColumnBuilder> =
            self.contract.fields.iter().map(|f| ColumnBuilder::new(f.data_type, rows)).collect();
        let mut rescued = StringBuilder::new();
        let (mut breaches, mut deletes) = (Vec::with_capacity(n), Vec::with_capacity(n));
        let (mut ids, mut content) = (Vec::with_capacity(n), Vec::with_capacity(n));
        let has_id = !self.contract.event_id.columns().is_empty();
        for (payload, key) in payloads.iter().zip(keys) {
            let decoded = payload.map_or_else(|| decoder.no_value(key), |p| decoder.decode(p));
            if rows > 0 {
                for (column, value) in columns.iter_mut().zip(&decoded.values) {
                    column.push(value);
                }
            }
            // A tombstone has no id of its own: that of its key is the row's.
            let id = payload.and_then(|_| decoder.given_id(&decoded));
            let is_nameless = has_id && id.is_none() && decoded.content.is_none();
            let hash = payload.filter(|_| is_nameless).map(|payload| decoder.content(payload));
            rescued.append_option(decoded.rescued);
            content.push(decoded.content.or(hash));
            ids.push(id);
            breaches.push(decoded.breaches);
            deletes.push(decoded.is_delete);
        }
        let arrays: Vec<ArrayRef> =
            columns.into_iter().map(ColumnBuilder::finish).collect::<Result<_, _>>()?;
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(rows));
        let fields = RecordBatch::try_new_with_options(self.contract.schema(), arrays, &options)?;
        if !self.rules.is_empty() {
            let mut judged = fields.columns().to_vec();
            judged.push(cast(times, self.judged.field(fields.num_columns()).data_type())?);
            let judged = RecordBatch::try_new(Arc::clone(&self.judged), judged)?;
            self.apply_rules(&judged, &deletes, &mut breaches)?;
        }
        for (row, broken) in breaches.iter().enumerate() {
            if breaks(broken) && content[row].is_none() && payloads.is_valid(row) {
                content[row] = Some(decoder.content(payloads.value(row)));
            }
        }
        let (rescued, warns) = (rescued.finish(), self.contract.warns());
        Ok(DecodedBatch { fields, rescued, breaches, warns, ids, content })
    }

    fn apply_rules(
        &self,
        fields: &RecordBatch,
        deletes: &[bool],
        breaches: &mut [Vec<Breach>],
    ) -> Result<(), DataFusionError> {
        for (rule, expr) in self.contract.rules.iter().zip(&self.rules) {
            let mut found: Vec<(usize, String)> = Vec::new();
            match broken_rows(expr.as_ref(), fields) {
                Ok(rows) => found.extend(rows.into_iter().map(|row| (row, not_held(rule)))),
                // Some row cannot be evaluated: that row breaks the rule, the others are judged.
                Err(_) => {
                    for row in 0..fields.num_rows() {
                        match broken_rows(expr.as_ref(), &fields.slice(row, 1)) {
                            Ok(rows) if rows.is_empty() => {}
                            Ok(_) => found.push((row, not_held(rule))),
                            Err(error) => found.push((row, error.strip_backtrace())),
                        }
                    }
                }
            }
            for (row, message) in found.into_iter().filter(|(row, _)| !deletes[*row]) {
                let broken = &mut breaches[row];
                if broken.first().is_none_or(|b| b.kind != BreachKind::Malformed) {
                    broken.push(Breach {
                        rule: rule.name.clone(),
                        kind: BreachKind::Rule,
                        severity: rule.severity,
                        field: String::new(),
                        message,
                    });
                }
            }
        }
        Ok(())
    }

    /// The identity of a row: what the contract says, its content where it has no id, else what came
    /// with the record. Every record has one (see [`crate::bronze::bronze_rows`]).
    pub fn identity(&self, decoded: &DecodedBatch, row: usize, header: &[u8]) -> Option<Identity> {
        let content = decoded.content[row].map(Identity::Content);
        let named = match &self.contract.event_id {
            EventId::Columns(_) => decoded.ids[row].clone().map(Identity::Given),
            EventId::Content => content.clone(),
            EventId::Client => Identity::decode(header).ok(),
        };
        named.or(content).or_else(|| Identity::decode(header).ok())
    }

    /// The identity under which a row of this identity is set aside, if another: its content, so that
    /// the same bad record is set aside once and what differs under a taken id is kept. Where events
    /// have identities of their own, both: equal ones are several.
    pub fn set_aside(
        &self,
        decoded: &DecodedBatch,
        row: usize,
        identity: &Identity,
    ) -> Option<Identity> {
        let content = decoded.content[row]?;
        Some(Identity::Content(match self.contract.event_id {
            EventId::Client => fingerprint(&[identity.encode().as_slice(), &content].concat()),
            EventId::Columns(_) | EventId::Content => content,
        }))
    }
}

impl DecodedBatch {
    /// Whether a row breaks the contract: a rule that does not only warn.
    pub fn breaks(&self, row: usize) -> bool {
        breaks(&self.breaches[row])
    }

    /// The rules that a row breaks, of one severity or of all: each once, though several fields may
    /// break one.
    pub fn rules(&self, row: usize, severity: Option<Severity>) -> Vec<&str> {
        let mut rules: Vec<&str> = Vec::new();
        for Breach { rule, severity: of, .. } in &self.breaches[row] {
            if severity.is_none_or(|severity| severity == *of) && !rules.contains(&rule.as_str()) {
                rules.push(rule);
            }
        }
        rules
    }

    /// The column `_warnings`, of contracts with rules that only warn: the names of those that a row
    /// breaks, or null.
    pub fn warnings(&self) -> Option<ArrayRef> {
        if !self.warns {
            return None;
        }
        let mut names = names_builder();
        for row in 0..self.breaches.len() {
            let rules = self.rules(row, Some(Severity::Warn));
            rules.iter().for_each(|rule| names.values().append_value(rule));
            names.append(!rules.is_empty());
        }
        Some(Arc::new(names.finish()))
    }
}

/// Whether one of these sets an event aside.
fn breaks(breaches: &[Breach]) -> bool {
    breaches.iter().any(|breach| breach.severity == Severity::Error)
}

/// A list of names, as stored.
pub(super) fn names_type() -> DataType {
    DataType::List(Arc::new(Field::new("element", DataType::Utf8, true)))
}

fn names_builder() -> ListBuilder<StringBuilder> {
    let element = Field::new("element", DataType::Utf8, true);
    ListBuilder::new(StringBuilder::new()).with_field(element)
}

/// What the rules of a contract may name.
fn judged_schema(contract: &Contract) -> SchemaRef {
    let mut fields: Vec<_> = contract.schema().fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new(TIME, FieldType::Timestamp.arrow(), true)));
    Arc::new(Schema::new(fields))
}

/// The first function in a condition that is not one of its arguments alone.
fn not_immutable(condition: &Expr) -> Option<String> {
    let mut found = None;
    let walked = condition.apply(|part| match part {
        Expr::ScalarFunction(call) if call.func.signature().volatility != Volatility::Immutable => {
            found = Some(call.func.name().to_owned());
            Ok(TreeNodeRecursion::Stop)
        }
        _ => Ok(TreeNodeRecursion::Continue),
    });
    // Walking calls nothing that fails.
    walked.ok().and(found)
}

fn not_held(rule: &Rule) -> String {
    format!("does not hold: {}", rule.sql)
}

/// The rows for which a condition is false.
fn broken_rows(
    condition: &dyn PhysicalExpr,
    fields: &RecordBatch,
) -> Result<Vec<usize>, DataFusionError> {
    let result = condition.evaluate(fields)?.into_array(fields.num_rows())?;
    let Some(held) = result.as_boolean_opt() else { return Ok(Vec::new()) };
    Ok((0..held.len()).filter(|row| held.is_valid(*row) && !held.value(*row)).collect())
}

/// The columns of every quarantine table. Persisted: must stay stable.
pub fn quarantine_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("_topic", DataType::Utf8, true),
        Field::new("_partition", DataType::Int32, true),
        Field::new("_offset", DataType::Int64, true),
        Field::new("_index", DataType::Int32, true),
        Field::new("_ts", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), true),
        Field::new("_key", DataType::Binary, true),
        Field::new("_event_id", DataType::Utf8, true),
        Field::new("_payload", DataType::Binary, true),
        Field::new("payload_text", DataType::Utf8, true),
        Field::new("rules", names_type(), true),
        Field::new("message", DataType::Utf8, true),
        Field::new("contract_version", DataType::Utf8, true),
    ]))
}

/// The quarantine rows of the rows `which` of a Bronze batch.
pub fn quarantine_rows(
    contract: &Contract,
    bronze: &RecordBatch,
    decoded: &DecodedBatch,
    identities: &[Identity],
    which: &[u32],
) -> Result<RecordBatch, ArrowError> {
    let picked = take_record_batch(bronze, &arrow::array::UInt32Array::from(which.to_vec()))?;
    let mut rules = names_builder();
    let mut message = StringBuilder::new();
    let mut event_id = StringBuilder::new();
    for row in which.iter().map(|row| *row as usize) {
        let broken = &decoded.breaches[row];
        for rule in decoded.rules(row, None) {
            rules.values().append_value(rule);
        }
        rules.append(true);
        let messages: Vec<String> =
            broken.iter().map(|b| format!("{}: {}", b.rule, b.message)).collect();
        message.append_value(messages.join("; "));
        event_id.append_value(identities[row].to_string());
    }
    let payload = picked.column_by_name("_payload").and_then(|c| c.as_binary_opt::<i32>());
    let text: StringArray = payload.map_or_else(
        || StringArray::new_null(which.len()),
        |payload| payload.iter().map(|p| std::str::from_utf8(p?).ok()).collect(),
    );
    let version: StringArray = which.iter().map(|_| Some(contract.version.as_str())).collect();
    let event_id: ArrayRef = Arc::new(event_id.finish());
    let computed: [(&str, ArrayRef); 5] = [
        ("_event_id", event_id),
        ("payload_text", Arc::new(text)),
        ("rules", Arc::new(rules.finish())),
        ("message", Arc::new(message.finish())),
        ("contract_version", Arc::new(version)),
    ];
    let schema = quarantine_schema();
    let columns = schema.fields().iter().map(|field| {
        let found = computed.iter().find(|(name, _)| name == field.name());
        let column =
            found.map(|(_, column)| column).or_else(|| picked.column_by_name(field.name()));
        column.cloned().ok_or_else(|| ArrowError::SchemaError(field.name().clone()))
    });
    RecordBatch::try_new(Arc::clone(&schema), columns.collect::<Result<_, _>>()?)
}
