//! The rows of the input by their keys, so that touched keys need not be looked for in what is
//! stored. As much as fits: what is larger is read again each time.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use arrow::{
    array::{ArrayRef, RecordBatch, new_null_array},
    compute::cast,
    datatypes::SchemaRef,
    row::{RowConverter, Rows, SortField},
};
use datafusion::error::DataFusionError;
use foldhash::fast::RandomState;

use crate::models::types::decoded;

/// Rows and keys, encoded.
pub(super) type Bytes = Box<[u8]>;
/// Per key its rows, and how often each is there.
pub(super) type Held = HashMap<Bytes, BTreeMap<Bytes, u32>, RandomState>;

/// Memory that the inputs of one model may take.
const MOST_BYTES: usize = 128 * 1024 * 1024;
/// What a row and a key take besides their bytes, about.
const ROW_BYTES: usize = 48;
const KEY_BYTES: usize = 320;

#[derive(Debug)]
pub(super) struct Cache {
    schema: SchemaRef,
    /// The columns of the input that the model reads.
    columns: Vec<usize>,
    converter: RowConverter,
    most: usize,
    bytes: usize,
    content: Content,
}

#[derive(Debug)]
enum Content {
    /// Not read yet.
    Unknown,
    Filling(Held),
    Whole(Held),
    /// It does not fit.
    TooLarge,
}

/// Rows with their keys, ready to be added or taken out.
pub(super) struct Encoded(Option<Rows>);

impl Cache {
    /// `inputs`: how many the model has.
    pub(super) fn new(
        schema: &SchemaRef,
        columns: &[usize],
        inputs: usize,
    ) -> Result<Self, DataFusionError> {
        let field = |at: &usize| SortField::new(schema.field(*at).data_type().clone());
        let fields: Vec<SortField> = columns.iter().map(field).collect();
        let is_fine = RowConverter::supports_fields(&fields);
        Ok(Self {
            schema: Arc::clone(schema),
            columns: columns.to_vec(),
            converter: RowConverter::new(if is_fine { fields } else { Vec::new() })?,
            most: MOST_BYTES / inputs.max(1),
            bytes: 0,
            content: if is_fine { Content::Unknown } else { Content::TooLarge },
        })
    }

    /// Begins to read the input.
    pub(super) fn begin(&mut self) {
        if !matches!(self.content, Content::TooLarge) {
            (self.content, self.bytes) = (Content::Filling(Held::default()), 0);
        }
    }

    /// All of the input was read.
    pub(super) fn complete(&mut self) {
        if let Content::Filling(held) = &mut self.content {
            self.content = Content::Whole(std::mem::take(held));
        }
    }

    /// Rows of the input as they are kept; nothing while they are not.
    pub(super) fn encoded(&self, rows: &RecordBatch) -> Result<Encoded, DataFusionError> {
        if matches!(self.content, Content::Unknown | Content::TooLarge) {
            return Ok(Encoded(None));
        }
        let columns = self.columns.iter().map(|at| {
            let wanted = self.schema.field(*at).data_type();
            Ok(cast(rows.column(*at), wanted)?)
        });
        let columns = columns.collect::<Result<Vec<_>, DataFusionError>>()?;
        Ok(Encoded(Some(self.converter.convert_columns(&columns)?)))
    }

    /// Adds rows under `keys`, or takes them out.
    pub(super) fn change(&mut self, keys: &Rows, rows: &Encoded, is_added: bool) {
        let (Content::Filling(held) | Content::Whole(held), Some(rows)) =
            (&mut self.content, &rows.0)
        else {
            return;
        };
        for (key, row) in keys.iter().zip(rows) {
            if is_added {
                let of_key = held.entry(key.data().into()).or_insert_with(|| {
                    self.bytes += KEY_BYTES + key.data().len();
                    BTreeMap::new()
                });
                let count = of_key.entry(row.data().into()).or_insert_with(|| {
                    self.bytes += ROW_BYTES + row.data().len();
                    0
                });
                *count += 1;
            } else if !take(held, &mut self.bytes, key.data(), row.data()) {
                // What is not there was never read: all is read again.
                self.content = Content::Unknown;
                return;
            }
        }
        if self.bytes > self.most {
            (self.content, self.bytes) = (Content::TooLarge, 0);
        }
    }

    /// The rows under these keys, or all; `None` if they have to be looked for in what is stored.
    pub(super) fn rows<'a>(
        &self,
        keys: Option<impl Iterator<Item = &'a Bytes>>,
    ) -> Result<Option<RecordBatch>, DataFusionError> {
        let Content::Whole(held) = &self.content else { return Ok(None) };
        let found: Vec<(&Bytes, &u32)> = match keys {
            Some(keys) => keys.filter_map(|key| held.get(key)).flatten().collect(),
            None => held.values().flatten().collect(),
        };
        let parser = self.converter.parser();
        let repeated = found.iter().flat_map(|(row, count)| {
            let parsed = parser.parse(row);
            std::iter::repeat_n(parsed, **count as usize)
        });
        let kept = decoded(&self.converter, repeated)?;
        let count = kept.first().map_or(0, |column| column.len());
        let mut all: Vec<ArrayRef> = Vec::new();
        for (at, field) in self.schema.fields().iter().enumerate() {
            let place = self.columns.iter().position(|column| *column == at);
            let none = || new_null_array(field.data_type(), count);
            all.push(place.map_or_else(none, |place| Arc::clone(&kept[place])));
        }
        Ok(Some(RecordBatch::try_new(Arc::clone(&self.schema), all)?))
    }
}

/// Whether the row was there.
fn take(held: &mut Held, bytes: &mut usize, key: &[u8], row: &[u8]) -> bool {
    let Some(of_key) = held.get_mut(key) else { return false };
    let Some(count) = of_key.get_mut(row) else { return false };
    *count -= 1;
    if *count == 0 {
        of_key.remove(row);
        *bytes = bytes.saturating_sub(ROW_BYTES + row.len());
        if of_key.is_empty() {
            held.remove(key);
            *bytes = bytes.saturating_sub(KEY_BYTES + key.len());
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use arrow::{
        array::{AsArray as _, Int64Array, StringArray},
        datatypes::Int64Type,
    };

    use super::*;

    /// Rows of a key and two numbers, of which the model does not read the last.
    fn batch(rows: &[(&str, i64)]) -> RecordBatch {
        let (keys, numbers): (Vec<&str>, Vec<i64>) = rows.iter().copied().unzip();
        let numbers = Arc::new(Int64Array::from(numbers)) as ArrayRef;
        let columns = [
            ("k", Arc::new(StringArray::from(keys)) as ArrayRef, true),
            ("v", Arc::clone(&numbers), true),
            ("w", numbers, true),
        ];
        RecordBatch::try_from_iter_with_nullable(columns).expect("rows")
    }

    fn change(cache: &mut Cache, rows: &[(&str, i64)], is_added: bool) {
        let rows = batch(rows);
        let keys = converter().convert_columns(&rows.columns()[..1]).expect("keys");
        let rows = cache.encoded(&rows).expect("rows");
        cache.change(&keys, &rows, is_added);
    }

    fn converter() -> RowConverter {
        RowConverter::new(vec![SortField::new(arrow::datatypes::DataType::Utf8)]).expect("keys")
    }

    /// What is held for `key`.
    fn held(cache: &Cache, key: &str) -> Option<Vec<i64>> {
        let column = Arc::new(StringArray::from(vec![key])) as ArrayRef;
        let keys = converter().convert_columns(&[column]).expect("keys");
        let keys: Vec<Bytes> = keys.iter().map(|key| key.data().into()).collect();
        let rows = cache.rows(Some(keys.iter())).expect("rows")?;
        assert_eq!(rows.column(2).null_count(), rows.num_rows());
        Some(rows.column(1).as_primitive::<Int64Type>().values().to_vec())
    }

    fn cache() -> Cache {
        let mut cache = Cache::new(&batch(&[]).schema(), &[0, 1], 1).expect("cache");
        // Before it was read, nothing is held, whatever comes.
        change(&mut cache, &[("a", 1)], true);
        cache.begin();
        change(&mut cache, &[("a", 1), ("b", 2), ("a", 1), ("a", 3)], true);
        assert_eq!(held(&cache, "a"), None);
        cache.complete();
        cache
    }

    #[test]
    fn it_holds_what_came_and_did_not_go() {
        let mut cache = cache();
        assert_eq!(held(&cache, "a"), Some(vec![1, 1, 3]));
        change(&mut cache, &[("a", 1), ("b", 2)], false);
        assert_eq!((held(&cache, "a"), held(&cache, "b")), (Some(vec![1, 3]), Some(vec![])));
        change(&mut cache, &[("a", 1), ("a", 3)], false);
        assert_eq!((held(&cache, "a"), cache.bytes), (Some(vec![]), 0));
        let none: Option<std::iter::Empty<&Bytes>> = None;
        assert_eq!(cache.rows(none).expect("rows").map(|rows| rows.num_rows()), Some(0));
    }

    #[test]
    fn what_it_does_not_know_is_read_again() {
        let mut cache = cache();
        change(&mut cache, &[("a", 2)], false);
        assert_eq!(held(&cache, "b"), None);
        cache.begin();
        change(&mut cache, &[("b", 7)], true);
        cache.complete();
        assert_eq!((held(&cache, "a"), held(&cache, "b")), (Some(vec![]), Some(vec![7])));
    }

    #[test]
    fn what_does_not_fit_is_not_held() {
        let mut cache = cache();
        cache.most = cache.bytes + 10;
        change(&mut cache, &[("c", 7)], true);
        assert_eq!(held(&cache, "a"), None);
        cache.begin();
        cache.complete();
        assert_eq!(held(&cache, "a"), None);
    }
}
