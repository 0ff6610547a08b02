//! Lists and maps as in Python: they can be changed in place.

use std::sync::{Arc, Mutex, PoisonError};

use indexmap::IndexMap;
use minijinja::{
    Error, ErrorKind, State, Value,
    value::{Enumerator, Object, ObjectRepr, ValueKind, from_args},
};

/// Entries above which a list or map of a template is refused.
const ENTRIES_MAX: usize = 100_000;

/// A list that can be appended to.
#[derive(Debug)]
pub(super) struct List(Mutex<Vec<Value>>);

/// A map that can be added to; its entries keep their order.
#[derive(Debug)]
pub(super) struct Map(Mutex<IndexMap<Value, Value>>);

/// A list with the items of `value`.
pub(super) fn list(value: &Value) -> Result<Value, Error> {
    Ok(Value::from_object(List(Mutex::new(value.try_iter()?.collect()))))
}

/// A map with the entries of `value`.
pub(super) fn map(value: &Value) -> Result<Value, Error> {
    Ok(Value::from_object(Map(Mutex::new(entries(value)?))))
}

fn entries(value: &Value) -> Result<IndexMap<Value, Value>, Error> {
    let keys = value.try_iter()?;
    keys.map(|key| value.get_item(&key).map(|item| (key, item))).collect()
}

fn unknown_method() -> Error {
    Error::from(ErrorKind::UnknownMethod)
}

fn missing(what: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("{what} is not there"))
}

fn too_large(entries: usize) -> Result<(), Error> {
    let message = format!("a list or map of a template holds {ENTRIES_MAX} entries at most");
    if entries < ENTRIES_MAX {
        Ok(())
    } else {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    }
}

impl List {
    fn with<T>(&self, f: impl FnOnce(&mut Vec<Value>) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Object for List {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let at = key.as_i64()?;
        self.with(|items| {
            let at = if at < 0 { at + i64::try_from(items.len()).ok()? } else { at };
            items.get(usize::try_from(at).ok()?).cloned()
        })
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.with(|items| items.len()))
    }

    fn call_method(
        self: &Arc<Self>,
        _: &mut State<'_, '_>,
        method: &str,
        args: &[Value],
    ) -> Result<Value, Error> {
        let none = Value::from(());
        match method {
            "append" => {
                let (item,): (Value,) = from_args(args)?;
                too_large(self.with(|items| items.len()))?;
                self.with(|items| items.push(item));
            }
            "extend" => {
                let (more,): (Value,) = from_args(args)?;
                let more: Vec<Value> = more.try_iter()?.collect();
                too_large(self.with(|items| items.len()) + more.len())?;
                self.with(|items| items.extend(more));
            }
            "insert" => {
                let (at, item): (usize, Value) = from_args(args)?;
                too_large(self.with(|items| items.len()))?;
                self.with(|items| items.insert(at.min(items.len()), item));
            }
            "remove" => {
                let (item,): (Value,) = from_args(args)?;
                let at = self.with(|items| items.iter().position(|other| *other == item));
                let at = at.ok_or_else(|| missing(&format!("{item:?}")))?;
                self.with(|items| items.remove(at));
            }
            "pop" => {
                let (at,): (Option<usize>,) = from_args(args)?;
                return self
                    .with(|items| {
                        let at = at.or_else(|| items.len().checked_sub(1))?;
                        (at < items.len()).then(|| items.remove(at))
                    })
                    .ok_or_else(|| missing("such an item"));
            }
            "index" => {
                let (item,): (Value,) = from_args(args)?;
                let at = self.with(|items| items.iter().position(|other| *other == item));
                return at.map(Value::from).ok_or_else(|| missing(&format!("{item:?}")));
            }
            "count" => {
                let (item,): (Value,) = from_args(args)?;
                let times = self.with(|items| items.iter().filter(|i| **i == item).count());
                return Ok(Value::from(times));
            }
            "reverse" => self.with(|items| items.reverse()),
            "sort" => self.with(|items| items.sort()),
            "clear" => self.with(Vec::clear),
            "copy" => return list(&Value::from_dyn_object(Arc::clone(self))),
            _ => return Err(unknown_method()),
        }
        Ok(none)
    }
}

impl Map {
    fn with<T>(&self, f: impl FnOnce(&mut IndexMap<Value, Value>) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Object for Map {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Map
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.with(|entries| entries.get(key).cloned())
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.with(|entries| entries.keys().cloned().collect()))
    }

    fn call_method(
        self: &Arc<Self>,
        _: &mut State<'_, '_>,
        method: &str,
        args: &[Value],
    ) -> Result<Value, Error> {
        match method {
            "get" => {
                let (key, default): (Value, Option<Value>) = from_args(args)?;
                let found = self.with(|entries| entries.get(&key).cloned());
                return Ok(found.or(default).unwrap_or_else(|| Value::from(())));
            }
            "items" => {
                let pair =
                    |(key, item): (&Value, &Value)| Value::from(vec![key.clone(), item.clone()]);
                return Ok(self.with(|entries| entries.iter().map(pair).collect()));
            }
            "keys" => return Ok(self.with(|entries| entries.keys().cloned().collect())),
            "values" => return Ok(self.with(|entries| entries.values().cloned().collect())),
            "update" => {
                let (more,): (Value,) = from_args(args)?;
                let more = entries(&more)?;
                too_large(self.with(|entries| entries.len()) + more.len())?;
                self.with(|entries| entries.extend(more));
            }
            "setdefault" => {
                let (key, default): (Value, Option<Value>) = from_args(args)?;
                too_large(self.with(|entries| entries.len()))?;
                let default = default.unwrap_or_else(|| Value::from(()));
                return Ok(self.with(|entries| entries.entry(key).or_insert(default).clone()));
            }
            "pop" => {
                let (key, default): (Value, Option<Value>) = from_args(args)?;
                let gone = self.with(|entries| entries.shift_remove(&key)).or(default);
                return gone.ok_or_else(|| missing(&format!("{key:?}")));
            }
            "clear" => self.with(IndexMap::clear),
            "copy" => return map(&Value::from_dyn_object(Arc::clone(self))),
            _ => return Err(unknown_method()),
        }
        Ok(Value::from(()))
    }
}

/// A value whose lists and maps, all the way down, are such that can be changed.
pub(super) fn deep(value: &Value) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::Seq => {
            let items: Result<Vec<Value>, Error> = value.try_iter()?.map(|v| deep(&v)).collect();
            Ok(Value::from_object(List(Mutex::new(items?))))
        }
        ValueKind::Map => {
            let mut all = entries(value)?;
            for item in all.values_mut() {
                *item = deep(item)?;
            }
            Ok(Value::from_object(Map(Mutex::new(all))))
        }
        _ => Ok(value.clone()),
    }
}
