//! The patches of a table that are not committed yet, and a table as queries see it through them:
//! rows of the snapshot whose key no patch names, and the patches' own.

use std::{
    collections::HashMap,
    hash::{Hash, Hasher},
    sync::{Arc, OnceLock},
};

use arrow::{
    array::{Array as _, BooleanArray, RecordBatch},
    compute::filter_record_batch,
    datatypes::DataType,
};
use datafusion::{
    common::{cast::as_binary_array, internal_err},
    error::Result,
    logical_expr::{
        ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
    },
};
use foldhash::fast::RandomState;

use crate::domain::change::{KEY, Patch};

/// Patches of one table, oldest first. Cheap to clone.
#[derive(Clone, Default)]
pub struct Patches(Arc<Inner>);

#[derive(Default)]
struct Inner {
    patches: Vec<Arc<Patch>>,
    merged: OnceLock<Merged>,
}

/// What all patches together say.
struct Merged {
    keys: Keys,
    rows: Vec<RecordBatch>,
}

/// Every key that is patched.
#[derive(Clone)]
struct Keys(Arc<HashMap<Vec<u8>, u32, RandomState>>);

impl Patches {
    pub fn new(patches: Vec<Arc<Patch>>) -> Self {
        Self(Arc::new(Inner { patches, merged: OnceLock::new() }))
    }

    /// These, and others that came after them.
    #[must_use]
    pub fn with(&self, later: impl IntoIterator<Item = Arc<Patch>>) -> Self {
        Self::new(self.0.patches.iter().cloned().chain(later).collect())
    }

    /// Bytes that they take in memory.
    pub fn bytes(&self) -> usize {
        self.0.patches.iter().map(|patch| patch.bytes()).sum()
    }

    /// Every key that the table may hold and that is patched, once.
    pub fn keys(&self) -> Result<impl Iterator<Item = &Vec<u8>>> {
        Ok(self.merged()?.keys.0.keys())
    }

    /// The rows that the patched keys have now, and the new ones.
    pub fn rows(&self) -> Result<&[RecordBatch]> {
        Ok(&self.merged()?.rows)
    }

    pub fn is_empty(&self) -> bool {
        self.0.patches.iter().all(|patch| patch.is_empty())
    }

    /// Whether there are only new rows.
    pub(super) fn only_add(&self) -> bool {
        self.0.patches.iter().all(|patch| patch.keys.is_empty())
    }

    /// Whether a key of `keys` is patched.
    pub(super) fn touch(&self, keys: &dyn arrow::array::Array) -> Result<bool> {
        let patched = &self.merged()?.keys.0;
        Ok(as_binary_array(keys)?.iter().flatten().any(|key| patched.contains_key(key)))
    }

    /// Those of stored rows whose key no patch names.
    pub(super) fn unpatched(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        let kept = match rows.column_by_name(KEY) {
            Some(keys) => self.merged()?.keys.absent(keys)?,
            None => return internal_err!("a table with patches has no keys"),
        };
        Ok(filter_record_batch(rows, &kept)?)
    }

    /// Whether the key in `column` is not patched.
    pub(super) fn is_unpatched(&self, column: Expr) -> Result<Expr> {
        let keys = self.merged()?.keys.clone();
        let signature = Signature::exact(vec![DataType::Binary], Volatility::Immutable);
        Ok(ScalarUDF::new_from_impl(IsUnpatched { keys, signature }).call(vec![column]))
    }

    fn merged(&self) -> Result<&Merged> {
        if let Some(merged) = self.0.merged.get() {
            return Ok(merged);
        }
        let merged = merge(&self.0.patches)?;
        Ok(self.0.merged.get_or_init(|| merged))
    }
}

/// The last patch of each key counts.
fn merge(patches: &[Arc<Patch>]) -> Result<Merged> {
    let mut last: HashMap<Vec<u8>, u32, RandomState> = HashMap::default();
    for (number, patch) in (0_u32..).zip(patches) {
        for key in patch.keys.iter().flatten() {
            match last.get_mut(key) {
                Some(last) => *last = number,
                None => {
                    last.insert(key.to_vec(), number);
                }
            }
        }
    }
    let mut rows = Vec::new();
    for (number, patch) in (0_u32..).zip(patches) {
        let Some(keys) = patch.rows.column_by_name(KEY) else {
            return internal_err!("a patch has no keys");
        };
        if last.is_empty() {
            rows.push(patch.rows.clone());
            continue;
        }
        let counts = |key: Option<&[u8]>| {
            let is_last = |key| last.get(key).is_none_or(|last: &u32| *last == number);
            Some(key.is_some_and(is_last))
        };
        let kept: BooleanArray = as_binary_array(keys)?.iter().map(counts).collect();
        match kept.true_count() {
            0 => {}
            all if all == patch.rows.num_rows() => rows.push(patch.rows.clone()),
            _ => rows.push(filter_record_batch(&patch.rows, &kept)?),
        }
    }
    Ok(Merged { keys: Keys(Arc::new(last)), rows })
}

impl Keys {
    fn absent(&self, keys: &dyn arrow::array::Array) -> Result<BooleanArray> {
        let keys = as_binary_array(keys)?;
        let absent = |key: Option<&[u8]>| Some(key.is_none_or(|key| !self.0.contains_key(key)));
        Ok(keys.iter().map(absent).collect())
    }
}

#[derive(Clone)]
struct IsUnpatched {
    keys: Keys,
    signature: Signature,
}

impl std::fmt::Debug for IsUnpatched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IsUnpatched").field("keys", &self.keys.0.len()).finish_non_exhaustive()
    }
}

impl PartialEq for IsUnpatched {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.keys.0, &other.keys.0)
    }
}

impl Eq for IsUnpatched {}

impl Hash for IsUnpatched {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.keys.0).hash(state);
    }
}

impl ScalarUDFImpl for IsUnpatched {
    fn name(&self) -> &str {
        "is_unpatched"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let keys = args.args[0].to_array(args.number_rows)?;
        Ok(ColumnarValue::Array(Arc::new(self.keys.absent(&keys)?)))
    }
}
