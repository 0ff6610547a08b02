//! Events that take the row of their key away, and records without a value that do.

use serde::Deserializer as _;

use super::{
    Breach, Decoded, Decoder, MembersVisitor, Value, check, read_text, read_value, wrong_type,
};
use crate::domain::contract::{Deletes, Field};

impl Decoder<'_> {
    /// Whether these are the values of an event that deletes.
    pub(super) fn deletes(&self, values: &[Value<'_>]) -> bool {
        let Some(deletes) = &self.contract.deletes else { return false };
        let Some(at) = self.contract.field_index(&deletes.field) else { return false };
        let field = &self.contract.fields[at];
        deletes.values.iter().any(|text| match &values[at] {
            Value::Null => false,
            Value::Text(found) => found == text,
            other => read_text(field.data_type, text).is_ok_and(|one| one == *other),
        })
    }

    /// Whether a field of an event that deletes is judged: only what tells which row, and when.
    pub(super) fn is_judged(&self, field: &Field, is_delete: bool) -> bool {
        let contract = self.contract;
        !is_delete
            || contract.key.contains(&field.name)
            || contract.event_id.columns().contains(&field.name)
            || contract.event_time.as_ref() == Some(&field.name)
    }

    /// What a record without a value is: where the contract takes tombstones, the delete of the row
    /// that its key names; else malformed.
    pub fn no_value(&self, key: Option<&[u8]>) -> Decoded<'static> {
        let deletes = self.contract.deletes.as_ref().filter(|deletes| deletes.tombstones);
        let Some(deletes) = deletes else {
            return self.malformed("the record has no value (null)".to_owned());
        };
        match key.map(std::str::from_utf8) {
            Some(Ok(key)) => self.tombstone(deletes, key),
            Some(Err(_)) => self.malformed("a tombstone's key is not UTF-8".to_owned()),
            None => self.malformed("the record has neither a value nor a key".to_owned()),
        }
    }

    /// The delete of the row under `key`: a JSON object of the key's fields, their values with `|`
    /// between them, or the value of the only one.
    fn tombstone(&self, deletes: &Deletes, key: &str) -> Decoded<'static> {
        let fields = &self.contract.fields;
        let mut values = vec![Value::Null; fields.len()];
        let mut breaches: Vec<Breach> = Vec::new();
        let mut take = |field: &Field, read: Result<Value<'_>, String>| match read {
            Ok(value) => breaches.extend(self.taken(field, value, &mut values)),
            Err(found) => breaches.push(wrong_type(field, &found)),
        };
        let columns = self.contract.key.iter().filter_map(|name| self.contract.field_index(name));
        let columns: Vec<&Field> = columns.map(|at| &fields[at]).collect();
        let members = key.starts_with('{').then(|| {
            let mut deserializer = serde_json::Deserializer::from_str(key);
            let members = deserializer.deserialize_map(MembersVisitor(columns.len()))?;
            deserializer.end().map(|()| members)
        });
        match members {
            Some(Ok(members)) => {
                for field in columns {
                    let raw = members.iter().find(|(name, _)| *name == field.member());
                    take(
                        field,
                        raw.map_or(Ok(Value::Null), |(_, raw)| read_value(field, raw.get())),
                    );
                }
            }
            Some(Err(error)) => {
                return self
                    .malformed(format!("a tombstone's key is not one JSON object: {error}"));
            }
            None => {
                let parts: Vec<&str> = match columns.as_slice() {
                    [_] => vec![key],
                    _ => key.split('|').collect(),
                };
                if parts.len() != columns.len() {
                    let key = &self.contract.key;
                    let text = format!("a tombstone's key is not of {}", key.join(", "));
                    return self.malformed(text);
                }
                for (field, text) in columns.into_iter().zip(parts) {
                    let text = serde_json::from_str(text).unwrap_or_else(|_| text.to_owned());
                    take(field, read_text(field.data_type, &text));
                }
            }
        }
        if let (Some(at), Some(text)) =
            (self.contract.field_index(&deletes.field), deletes.values.first())
        {
            let read = read_text(fields[at].data_type, text);
            values[at] = read.map_or(Value::Null, Value::into_owned);
        }
        Decoded { values, rescued: None, breaches, is_delete: true, content: None }
    }

    /// Sets a value of the key, which has to be there.
    fn taken(
        &self,
        field: &Field,
        value: Value<'_>,
        values: &mut [Value<'static>],
    ) -> Option<Breach> {
        let needed = Field { required: true, ..field.clone() };
        let breach = check(&needed, &value);
        if let Some(at) = self.contract.field_index(&field.name) {
            values[at] = value.into_owned();
        }
        breach
    }
}
